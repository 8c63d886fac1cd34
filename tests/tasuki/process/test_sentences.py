"""Parts of sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasuki.process.sentences import alternatives, nearest, shortened, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("gpu", "'gpu'", id="a word"),
        pytest.param("", "''", id="an empty text can be seen"),
        pytest.param(" a ", "' a '", id="blanks around can be seen"),
        pytest.param("a\nb\x1b[31m", r"'a\nb\x1b[31m'", id="neither lines nor colours are made"),
        pytest.param("\u202egpu", r"'\u202egpu'", id="nor is the direction of writing changed"),
        pytest.param("\udcff", r"'\udcff'", id="what is no character can be printed"),
        pytest.param("東京", "'東京'", id="other scripts stay as they are"),
        pytest.param(5, "5", id="a number"),
        pytest.param(["a", 1], "['a', 1]", id="a list"),
        pytest.param("x" * 58, f"'{'x' * 58}'", id="the longest that is shown whole"),
        pytest.param("x" * 59, f"'{'x' * 58}…", id="the shortest that is cut"),
        pytest.param(["x"] * 1_000, "['x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'…", id="a long list"),
    ],
)
def test_a_value_is_shown_on_one_line(value: object, expected: str) -> None:
    assert shown(value) == expected


@given(st.text())
def test_no_text_is_shown_at_length_or_breaks_a_line(text: str) -> None:
    told = shown(text)

    assert len(told) <= 60
    assert told.isprintable()


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        pytest.param("abc", 3, "abc", id="just short enough"),
        pytest.param("abcd", 3, "ab…", id="one too long"),
        pytest.param("", 3, "", id="empty"),
    ],
)
def test_a_text_is_shortened_to_so_many_characters(text: str, longest: int, expected: str) -> None:
    assert shortened(text, longest) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(["a"], "a", id="one"),
        pytest.param(["a", "b"], "a or b", id="two"),
        pytest.param(["a", "b", "c"], "a, b or c", id="several"),
        pytest.param([1, 2], "1 or 2", id="numbers"),
        pytest.param({"b": 1, "a": 2}, "b or a", id="keys in their order"),
    ],
)
def test_alternatives_read_as_a_sentence_does(values: list[object], expected: str) -> None:
    assert alternatives(values) == expected


@pytest.mark.parametrize(
    ("word", "known", "alike", "expected"),
    [
        pytest.param("polcy", ["path", "policy"], 0.6, "policy", id="a slip"),
        pytest.param("policy", ["policies", "policy"], 0.0, "policy", id="the word itself"),
        pytest.param("xyz", ["path", "policy"], 0.6, "", id="nothing like it"),
        pytest.param("xya", ["path", "bcd"], 0.0, "path", id="some word however little it is alike"),
        pytest.param("a", [], 0.0, "", id="nothing known"),
        pytest.param("policy" + "x" * 58, ["policy" + "x" * 57], 0.6, "policy" + "x" * 57, id="long words"),
    ],
)
def test_the_nearest_word_is_found(word: str, known: list[str], alike: float, expected: str) -> None:
    assert nearest(word, known, alike=alike) == expected


@pytest.mark.parametrize("known", [["cat", "bat"], ["bat", "cat"]], ids=["one order", "the other"])
def test_among_equally_near_words_the_order_does_not_decide(known: list[str]) -> None:
    assert nearest("rat", known) == "cat"


@given(st.text(min_size=64, max_size=64), st.text(), st.lists(st.text(max_size=80), max_size=3))
def test_what_follows_the_beginning_of_a_long_word_is_not_compared(beginning: str, rest: str, known: list[str]) -> None:
    assert nearest(beginning + rest, known) == nearest(beginning, known)
