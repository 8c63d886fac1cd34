"""JSON Patch (RFC 6902): the operations that admission answers with, how they are made and how they are applied."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

_MISSING: Final = object()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One of the three operations that we use; `value` is unset for `remove`."""

    op: Literal["add", "remove", "replace"]
    path: str
    value: Any = msgspec.UNSET


Operations = tuple[Operation, ...]


class PatchError(ValueError):
    """The operations do not fit the document."""


def pointer(*steps: str | int) -> str:
    """A JSON Pointer (RFC 6901) of unescaped steps."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def add(path: str, value: object) -> Operation:
    """Set a key of an object, whether or not it is there, or insert into a list before an index."""
    return Operation(op="add", path=path, value=plain(value))


def replace(path: str, value: object) -> Operation:
    return Operation(op="replace", path=path, value=plain(value))


def remove(path: str) -> Operation:
    return Operation(op="remove", path=path)


def append(path: str, there: Sequence[object], wanted: Iterable[object]) -> Operations:
    """Put values at the end of a list, which is made if it is not `there`."""
    values = [plain(value) for value in wanted]
    if not values:
        return ()
    if not there:
        return (add(path, values),)
    return tuple(add(f"{path}/-", value) for value in values)


def prepend(path: str, there: Sequence[object], wanted: Iterable[object]) -> Operations:
    """Put values before a list's own, in their order; what the list held stands further back afterwards."""
    values = [plain(value) for value in wanted]
    if not values:
        return ()
    if not there:
        return (add(path, values),)
    return tuple(add(f"{path}/{index}", value) for index, value in enumerate(values))


def set_keys(path: str, there: Mapping[str, object], wanted: Mapping[str, object]) -> Operations:
    """Give keys of an object their values; those that have them already are left alone."""
    missing = {key: plain(value) for key, value in wanted.items() if there.get(key, _MISSING) != value}
    if not missing:
        return ()
    if not there:
        return (add(path, missing),)
    return tuple(add(path + pointer(key), value) for key, value in missing.items())


def plain(value: object) -> Any:
    """As JSON has it: a struct becomes an object without its defaults, a tuple a list."""
    # Through JSON: `to_builtins` leaves tuples as they are, and a document has none.
    return value if isinstance(value, str) else msgspec.json.decode(msgspec.json.encode(value))


def covers(found: object, wanted: object) -> bool:
    """Whether `found` says all that `wanted` does, and perhaps more, as after the API server filled in defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(covers(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(wanted)
            and all(covers(one, other) for one, other in zip(found, wanted, strict=True))
        )
    return found == wanted


def apply(document: Any, operations: Iterable[Operation]) -> Any:
    """Carry the operations out in `document`, which is changed.

    Raises:
        PatchError: A path leads nowhere.
    """
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation.path.split("/")[1:]]
        try:
            _carry_out(operation, _parent(document, steps), steps[-1])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise PatchError(f"{operation.op} {operation.path}: there is no such place") from error
    return document


def _parent(document: Any, steps: Sequence[str]) -> Any:
    for step in steps[:-1]:
        document = document[_index(step, len(document) - 1)] if isinstance(document, list) else document[step]
    return document


def _index(step: str, last: int) -> int:
    """RFC 6901 knows neither signs nor leading zeros, unlike `int`."""
    index = int(step)
    if str(index) != step or not 0 <= index <= last:
        raise IndexError(step)
    return index


def _carry_out(operation: Operation, parent: Any, last: str) -> None:
    if isinstance(parent, list):
        index = len(parent) if last == "-" else _index(last, len(parent))
        match operation.op:
            case "add":
                parent.insert(index, _copied(operation.value))
            case "replace":
                parent[index] = _copied(operation.value)
            case "remove":
                del parent[index]
        return
    if operation.op != "add" and last not in parent:
        raise KeyError(last)
    if operation.op == "remove":
        del parent[last]
    else:
        parent[last] = _copied(operation.value)


def _copied(value: Any) -> Any:
    """Anew, as a later operation may change within the document what an earlier one put there, but not that one."""
    return plain(value) if isinstance(value, dict | list) else value
