"""Mappings whose keys are known."""

import pytest

from tasuki.process import document
from tasuki.process.document import MOST_PROBLEMS, ConfigError, Node
from tasuki.process.keys import Convert, Key, Table, each, fail, fields


def number(node: Node, path: str) -> object:
    if not isinstance(node.value, int):
        raise fail(node, path, "is no number")
    return node.value


def a_shelf(node: Node, path: str) -> object:
    return fields(SHELF, HOUSE, node, path)


def shelves(node: Node, path: str) -> object:
    return each(node, path, a_shelf)


SHELF = Table({"length": Key("length", number), "depth": Key("depth", number)}, required=("length",))
HOUSE = Table({"shelves": Key("shelves", shelves, table=SHELF), "doors": Key("doors", number)})


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        fields(HOUSE, HOUSE, document.read(text.encode()), "")

    return error.value.problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("door: 1", "line 1: door is not a known key; did you mean 'doors'?", id="a slip"),
        pytest.param("Doors: 1", "line 1: Doors is not a known key; did you mean 'doors'?", id="another case"),
        pytest.param("length: 1", "line 1: length is not a known key; it belongs at shelves.length", id="misplaced"),
        pytest.param("lengths: 1", "line 1: lengths is not a known key; did you mean shelves.length?",
                     id="misplaced by a slip"),
        pytest.param("xyz: 1", "line 1: xyz is not a known key; the nearest is 'shelves', known here are "
                     "shelves, doors", id="nothing like it"),
        pytest.param("shelves: [{depth: 1}]", "line 1: shelves[0].length is missing", id="missing"),
        pytest.param("shelves: 5", "line 1: shelves is 5; it must be a list", id="no list"),
        pytest.param("shelves: [5]", "line 1: shelves[0] is 5; it must be a mapping of keys to values",
                     id="no mapping"),
        pytest.param("doors: many", "line 1: doors is no number", id="a value"),
    ],
)  # fmt: skip
def test_each_problem_is_told_with_its_line_and_path(text: str, told: str) -> None:
    assert problems(text) == (told,)


def test_a_key_of_any_length_is_told_within_bounds() -> None:
    (told,) = problems("k" * 100_000 + ": 1")

    assert len(told) < 300


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\n".join(f"key{i}: 1" for i in range(1_000)), id="unknown keys"),
        pytest.param("shelves: [" + ", ".join(["{length: x}"] * 1_000) + "]", id="bad items"),
        pytest.param("shelves: [" + ", ".join(["{a: 1, b: 2, c: 3}"] * 1_000) + "]", id="unknown keys in items"),
        pytest.param("\n".join(f"key{i}: 1" for i in range(1_000)) + "\nshelves: [{}, {}]", id="on several levels"),
    ],
)
def test_of_many_problems_the_first_are_told(text: str) -> None:
    told = problems(text)

    assert len(told) == MOST_PROBLEMS + 1
    assert told[-1] == "and there is more; mend these first"
    assert all(problem.startswith("line ") for problem in told[:-1])


@pytest.mark.parametrize("key", ["keys", "items"])
def test_nothing_more_is_looked_at_once_there_are_enough_problems(key: str) -> None:
    looked_at: list[str] = []

    def refuse(node: Node, path: str) -> object:
        looked_at.append(path)
        raise fail(node, path, "is not wanted")

    within = Table({f"key{i}": Key(f"key{i}", refuse) for i in range(1_000)})
    converts: dict[str, Convert] = {
        "keys": lambda node, path: fields(within, within, node, path),
        "items": lambda node, path: each(node, path, refuse),
    }
    written = {"keys": dict.fromkeys(within.keys, 1), "items": [1] * 1_000}[key]
    root = document.read(repr(written).encode())

    with pytest.raises(ConfigError):
        converts[key](root, "")

    assert len(looked_at) == MOST_PROBLEMS + 1


def test_what_seems_to_be_missing_is_not_told_of_a_mapping_that_was_not_read_to_its_end() -> None:
    table = Table({"last": Key("last", number)}, required=("last",))
    root = document.read("\n".join([*(f"key{i}: 1" for i in range(100)), "last: 1"]).encode())

    with pytest.raises(ConfigError) as error:
        fields(table, table, root, "")

    assert "missing" not in str(error.value)
