"""The policy file, read against its model: its problems are told together, with line, path, value and remedy."""

import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from tasuki.process import document
from tasuki.process.document import Node
from tasuki.process.keys import Convert, Key, Table, converted, described, fail, fields, items, join, mapping
from tasuki.process.sentences import alternatives
from webhooks.policy.model import KeyProblemError, Policy

_AnySection = TypeVar("_AnySection", bound=msgspec.Struct)

_LEFT_OUT: Final = "write a value, or leave the key out"


def read_policy(content: bytes) -> Policy:
    """The policy that a file describes; an empty file is all defaults.

    Raises:
        ConfigError: With its problems, of many only the first.
    """
    root = document.read(content)
    return Policy() if root.value is None else _section(Policy, root, "")


def _section(section: type[_AnySection], node: Node, path: str) -> _AnySection:
    if node.value is None:
        # Kubernetes would take null for absent, which here would turn off what the key stands there to turn on.
        remedy = _LEFT_OUT if _table(section).required else "write {} for its defaults, or leave the key out"
        raise fail(node, path, f"is empty; {remedy}")
    found = fields(_table(section), _table(Policy), node, path)
    try:
        return section(**found)
    except KeyProblemError as error:
        raise fail(mapping(node, path).get(error.key, node), join(path, error.key), error.problem) from None


@cache
def _table(section: type[msgspec.Struct]) -> Table:
    known = _struct(inspect.type_info(section)).fields
    return Table(
        {each.encode_name: _key(each) for each in known},
        required=tuple(each.encode_name for each in known if each.required),
    )


def _struct(kind: inspect.Type) -> inspect.StructType:
    assert isinstance(kind, inspect.StructType)
    return kind


def _key(known: inspect.Field) -> Key:
    kind = _without_none(known.type)
    below = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
    table = _table(below.cls) if isinstance(below, inspect.StructType) else None
    return Key(known.name, _converter(kind), nullable=False, table=table)


def _without_none(kind: inspect.Type) -> inspect.Type:
    """What a key that may be absent holds when it is there."""
    if isinstance(kind, inspect.UnionType):
        (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
    return kind


def _converter(kind: inspect.Type) -> Convert:
    match kind:
        case inspect.StructType(cls=section):
            return partial(_section, section)
        case inspect.VarTupleType():
            return partial(_list, kind)
        case inspect.DictType(value_type=inspect.AnyType()):
            return _as_it_stands
        case inspect.DictType():
            return partial(_mapping, kind)
        case inspect.Metadata(type=inner, extra_json_schema={"description": str(must)}):
            return partial(_scalar, inner, must)
        case inspect.Metadata(type=inner):
            return _converter(inner)
        case _:
            return partial(_scalar, kind, _must(kind))


def _list(kind: inspect.VarTupleType, node: Node, path: str) -> tuple[Any, ...]:
    nodes = items(node, path)
    if len(nodes) < (kind.min_length or 0):
        raise fail(node, path, "is an empty list; it must name at least one")
    return converted(nodes, _converter(kind.item_type))


def _mapping(kind: inspect.DictType, node: Node, path: str) -> dict[str, Any]:
    """Labels and the like, of which the keys are the operator's own."""
    children = [(name, child, join(path, name)) for name, child in mapping(node, path).items()]
    key = _converter(kind.key_type)
    names = converted(((Node(name, child.line), here) for name, child, here in children), partial(_name, key))
    return dict(
        zip(names, converted(((child, here) for _, child, here in children), _converter(kind.value_type)), strict=True)
    )


def _name(convert: Convert, node: Node, path: str) -> Any:
    return convert(node, f"the key {path}")


def _as_it_stands(node: Node, path: str) -> Mapping[str, Any]:
    """What the model checks by itself."""
    mapping(node, path)
    plain = document.plain(node)
    assert isinstance(plain, dict)
    return plain


def _scalar(kind: inspect.Type, must: str, node: Node, path: str) -> Any:
    if node.value is None:
        raise fail(node, path, f"is empty; {_LEFT_OUT}")
    if not _fits(node.value, kind):
        unquoted = isinstance(kind, inspect.StrType) and isinstance(node.value, bool | int | float)
        remedy = "; put it in quotes" if unquoted else ""
        raise fail(node, path, f"{described(node)}; it must be {must}{remedy}")
    return node.value


def _fits(value: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.StrType(min_length=_, max_length=longest, pattern=pattern):
            return (
                isinstance(value, str)
                and (longest is None or len(value) <= longest)
                and (pattern is None or re.search(pattern, value) is not None)
            )
        case inspect.IntType(ge=least, le=most):
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and (least is None or value >= least) and (most is None or value <= most)  # type: ignore[operator]
        case inspect.LiteralType(values=values):
            return isinstance(value, str) and value in values
        case _:
            assert isinstance(kind, inspect.BoolType)
            return isinstance(value, bool)


def _must(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"a whole number from {least} to {most}"
        case inspect.IntType():
            return "a whole number"
        case inspect.LiteralType(values=values):
            return alternatives(value or '""' for value in values)
        case inspect.BoolType():
            return "true or false"
        case _:
            return "a string"
