"""Mappings whose keys are known: which they are, what each becomes, and what was probably meant by another."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tasuki.process.document import MOST_PROBLEMS, ConfigError, Node
from tasuki.process.sentences import nearest, shown

Convert = Callable[[Node, str], Any]

# How alike two keys are when one may be a slip for the other (difflib's ratio).
_ALIKE: Final = 0.6
_SURELY_ALIKE: Final = 0.85

_LONGEST_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping.

    Attributes:
        field: The name of the field that takes its value.
        convert: Makes the value; called with the node and the key's full path.
        nullable: Null is as if the key were absent; otherwise `convert` sees it.
        table: The keys within its value, or within each item of it; told of so that misplaced keys are found.
    """

    field: str
    convert: Convert
    nullable: bool = True
    table: "Table | None" = None


@dataclass(frozen=True, slots=True)
class Table:
    """The keys of a mapping.

    Attributes:
        folds_case: A key may be written in another case, as Go's encoding/json allows.
        required: Keys that must be there.
    """

    keys: Mapping[str, Key]
    folds_case: bool = False
    required: Sequence[str] = ()

    def spelling(self, name: str) -> str | None:
        """How the key that is meant is really spelled."""
        if name in self.keys:
            return name
        if not self.folds_case:
            return None
        return next((known for known in self.keys if known.lower() == name.lower()), None)


def fail(node: Node, path: str, problem: str) -> ConfigError:
    """An error that says where it is: `line 7: flags.migStrategy is ...`."""
    line = f"line {node.line}: " if node.line else ""
    return ConfigError(f"{line}{path} {problem}")


def join(path: str, name: str) -> str:
    step = name if re.fullmatch(r"[\w./*-]+", name) and len(name) <= _LONGEST_SHOWN else shown(name)
    return f"{path}.{step}" if path else step


def mapping(node: Node, path: str) -> Mapping[str, Node]:
    if not isinstance(node.value, Mapping):
        raise fail(node, path or "the file", f"{described(node)}; it must be a mapping of keys to values")
    return node.value


def described(node: Node) -> str:
    """What a value is, to follow its path."""
    match node.value:
        case None:
            return "is empty"
        case tuple():
            return "is a list"
        case Mapping():
            return "is a mapping"
        case bool():
            return f"is {str(node.value).lower()}"
        case scalar:
            return f"is {shown(scalar)}"


def fields(table: Table, root: Table, node: Node, path: str) -> dict[str, Any]:
    """The fields that a mapping sets; a key that `table` lacks is looked for in the whole file's, `root`.

    Raises:
        ConfigError: With the problems in the mapping and below it.
    """
    problems: list[str] = []
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, child in mapping(node, path).items():
        if len(problems) > MOST_PROBLEMS:
            break  # no more are told, not even of what seems to be missing now
        here = join(path, name)
        spelling = table.spelling(name)
        if spelling is None:
            problems.extend(fail(child, here, f"is not a known key; {_meant(name, table, root)}").problems)
            continue
        if spelling in written:
            problems.extend(fail(child, here, f"is here twice, also as {written[spelling]!r}").problems)
            continue
        written[spelling] = name
        key = table.keys[spelling]
        if child.value is None and key.nullable:
            continue
        try:
            found[key.field] = key.convert(child, here)
        except ConfigError as error:
            problems.extend(error.problems)
    missing = [name for name in table.required if name not in written]
    problems.extend(fail(node, join(path, name), "is missing").problems[0] for name in missing)
    if problems:
        raise ConfigError(*problems)
    return found


def items(node: Node, path: str) -> Sequence[tuple[Node, str]]:
    """Every item of a list with its full path."""
    if not isinstance(node.value, tuple):
        raise fail(node, path, f"{described(node)}; it must be a list")
    return [(item, f"{path}[{i}]") for i, item in enumerate(node.value)]


def each(node: Node, path: str, convert: Convert) -> tuple[Any, ...]:
    """Every item of a list, or the problems of all its items."""
    return converted(items(node, path), convert)


def converted(nodes: Iterable[tuple[Node, str]], convert: Convert) -> tuple[Any, ...]:
    """Each of several values with its path, or the problems of all of them."""
    made: list[Any] = []
    problems: list[str] = []
    for node, path in nodes:
        if len(problems) > MOST_PROBLEMS:
            break
        try:
            made.append(convert(node, path))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(*problems)
    return tuple(made)


def _meant(name: str, table: Table, root: Table) -> str:
    places = list(_places(root))
    elsewhere = [place for place in places if _last(place).lower() == name.lower()]
    spellings = {known.lower(): known for known in table.keys}
    if elsewhere and name.lower() not in spellings:
        return f"it belongs at {' or '.join(elsewhere)}"
    if near := nearest(name.lower(), spellings, alike=_ALIKE):
        return f"did you mean {spellings[near]!r}?"
    lasts = {_last(place).lower(): place for place in reversed(places)}
    if far := nearest(name.lower(), lasts, alike=_SURELY_ALIKE):
        return f"did you mean {lasts[far]}?"
    return f"the nearest is {spellings[nearest(name.lower(), spellings)]!r}, known here are {', '.join(table.keys)}"


def _last(place: str) -> str:
    return place.rpartition(".")[2]


def _places(table: Table, path: str = "") -> Iterator[str]:
    """The full paths of all keys in a table and below it."""
    for name, key in table.keys.items():
        yield join(path, name)
        if key.table is not None:
            yield from _places(key.table, join(path, name))
