"""Reading YAML and JSON within bounds."""

import pytest

from tasuki.process import document
from tasuki.process.document import MOST_PROBLEMS, ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", None, id="empty file"),
        pytest.param("# only a comment\n", None, id="only a comment"),
        pytest.param("---\n", None, id="empty document"),
        pytest.param("a: [0:1, 1:0]", {"a": ["0:1", "1:0"]}, id="base 60 is text, as MIG indices need"),
        pytest.param("a: 1e3", {"a": 1000.0}, id="exponent without a dot"),
        pytest.param("a: 0x1F", {"a": 31}, id="hexadecimal"),
        pytest.param("a: 010", {"a": 8}, id="octal"),
        pytest.param("a: 0o10", {"a": 8}, id="octal with a letter"),
        pytest.param("a: 0b101", {"a": 5}, id="binary"),
        pytest.param("a: 1_000", {"a": 1000}, id="underscores"),
        pytest.param("a: -0", {"a": 0}, id="minus nought"),
        pytest.param("a: 08", {"a": 8.0}, id="no octal digit"),
        pytest.param("a: 1e999", {"a": "1e999"}, id="a number out of range is text"),
        pytest.param(f"a: {'9' * 5000}", {"a": "9" * 5000}, id="a number of 5,000 digits is text"),
        pytest.param("a: .inf", {"a": ".inf"}, id="infinity is text"),
        pytest.param("a: 2024-01-01", {"a": "2024-01-01"}, id="a date is text"),
        pytest.param("a: [yes, On, y, no, OFF, n]", {"a": [True] * 3 + [False] * 3}, id="YAML 1.1 booleans"),
        pytest.param("a: 'yes'", {"a": "yes"}, id="a quoted word is text"),
        pytest.param('a: "5"', {"a": "5"}, id="a quoted number is text"),
        pytest.param("a: [~, null, Null, ]", {"a": [None, None, None]}, id="nulls"),
        pytest.param("a: !!str 5", {"a": "5"}, id="a tag that makes text"),
        pytest.param("a: ! 5", {"a": "5"}, id="the empty tag"),
        pytest.param("a: !!int '5'", {"a": 5}, id="a tag that makes a number"),
        pytest.param('\ufeff{\n\t"a": {"b":[1,2]}\n}', {"a": {"b": [1, 2]}}, id="JSON with tabs and a mark"),
        pytest.param("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}},
                     id="a merge, the own key first"),
        pytest.param("x: &x {a: 1}\nz: &z {a: 2, c: 3}\ny: {<<: [*x, *z]}",
                     {"x": {"a": 1}, "z": {"a": 2, "c": 3}, "y": {"a": 1, "c": 3}}, id="a merge of several"),
        pytest.param("'<<': 1", {"<<": 1}, id="a quoted << merges nothing"),
        pytest.param("x: &x [1]\ny: *x", {"x": [1], "y": [1]}, id="an alias"),
        pytest.param("5: a", {"5": "a"}, id="keys are text"),
    ],
)  # fmt: skip
def test_reads(text: str, expected: object) -> None:
    assert document.plain(document.read(text.encode())) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(b"a: 1\nb: 2\na: 3", "line 3: the key 'a' is here twice", id="a key twice"),
        pytest.param(b"a: 1\n---\nb: 2", "line 2: a second document", id="two documents"),
        pytest.param(b"a: b: c", "line 1: not valid YAML", id="not YAML"),
        pytest.param(b"a:\n  - 1\n b", "line 3: not valid YAML", id="not YAML further down"),
        pytest.param(b"a: \xff", "not UTF-8: byte 3 is 0xff", id="not UTF-8"),
        pytest.param(b"a: \x00", "not valid YAML", id="a null byte"),
        pytest.param(b"? [a]\n: b", "line 1: a key that is not a plain word", id="a list as a key"),
        pytest.param(b"a: !!python/object/apply:os.system [id]", "line 1: the tag", id="a tag that would run code"),
        pytest.param(b"a: !!binary aGk=", "line 1: the tag", id="binary"),
        pytest.param(b"a: &a [*a]", "*a refers to nothing before it", id="a value in itself"),
        pytest.param(b"a: {<<: 1}", "line 1: << merges only mappings", id="a merge of a number"),
        pytest.param(b"k" * 500 + b": 1\n" + b"k" * 500 + b": 2", "k… is here twice", id="a long key twice"),
        pytest.param(b"a: !" + b"t" * 500 + b" b", "ttt… has no meaning here", id="a long tag"),
        pytest.param(b"[" * 100, "line 1: nested more than 32 levels deep", id="deep nesting"),
        pytest.param(b"[" * 500_000, "nested more than", id="very deep nesting"),
        pytest.param(b"#" * (document.MAX_BYTES + 1), "larger than 1048576 bytes", id="a huge file"),
        pytest.param(b"[" + b"1," * 20_001 + b"]", "more than 20000 values", id="many values"),
    ],
)
def test_refuses(text: bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        document.read(text)

    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("problems", "told"),
    [
        pytest.param(1, 1, id="one"),
        pytest.param(MOST_PROBLEMS, MOST_PROBLEMS, id="as many as are told"),
        pytest.param(MOST_PROBLEMS + 1, MOST_PROBLEMS + 1, id="one too many"),
        pytest.param(10_000, MOST_PROBLEMS + 1, id="far too many"),
    ],
)
def test_only_the_first_problems_are_told_and_that_there_are_more(problems: int, told: int) -> None:
    error = ConfigError(*(f"problem {i}" for i in range(problems)))

    assert len(error.problems) == told
    assert str(error) == "; ".join(error.problems)
    assert ("there is more" in str(error)) == (problems > MOST_PROBLEMS)


def test_problems_that_were_cut_are_cut_no_further_by_those_who_collect_them() -> None:
    below = ConfigError(*(f"problem {i}" for i in range(100)))

    assert ConfigError(*below.problems).problems == below.problems


@pytest.mark.parametrize("template", ["[{}]", "{{<<: [{}]}}"], ids=["aliases", "merges"])
def test_nested_aliases_are_counted_in_full(template: str) -> None:
    levels = ["a0: &a0 {k: v}"] + [
        f"a{i}: &a{i} {template.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 12)
    ]

    with pytest.raises(ConfigError, match="more than 20000 values, aliases counted in full"):
        document.read("\n".join(levels).encode())


def test_a_value_knows_the_line_of_its_key() -> None:
    root = document.read(b"# comment\na:\n\n  b: 1\n")

    assert isinstance(root.value, dict)
    below = root.value["a"].value
    assert isinstance(below, dict)
    assert (root.value["a"].line, below["b"].line) == (2, 4)
