"""Kubernetes' LabelSelector: read from a definition, and the namespaces that it chooses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from tasuki.process.document import Node
from tasuki.process.keys import Key, Table, converted, described, each, fail, fields, items, join, mapping
from tasuki.process.sentences import alternatives

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]

_OPERATORS: Final[tuple[Operator, ...]] = get_args(Operator)

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"(?:(?=[^/]{{1,253}}/){_SUBDOMAIN}/)?{_NAME}")
_LABEL_VALUE: Final = re.compile(rf"(?:{_NAME})?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a label must be; `values` are sorted, and empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamespaceSelector:
    """All of the requirements must be met; without any, every namespace is chosen."""

    requirements: tuple[Requirement, ...] = ()


class LabelledNamespaces:
    """Namespaces found by their labels, so that ten thousand selectors need not look at each namespace."""

    def __init__(self, namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self._all: Final = frozenset(namespaces)
        self._with_key: Final[dict[str, set[str]]] = {}
        self._with_label: Final[dict[tuple[str, str], set[str]]] = {}
        for name, labels in namespaces.items():
            for label in labels.items():
                self._with_key.setdefault(label[0], set()).add(name)
                self._with_label.setdefault(label, set()).add(name)

    def chosen(self, selector: NamespaceSelector) -> frozenset[str]:
        """Those that meet each requirement, as k8s.io/apimachinery, pkg/labels, `Requirement.Matches`."""
        wanted = [self._named(each) for each in selector.requirements if each.operator in {"In", "Exists"}]
        refused = [self._named(each) for each in selector.requirements if each.operator in {"NotIn", "DoesNotExist"}]
        wanted.sort(key=len)
        return frozenset((wanted[0] if wanted else self._all).intersection(*wanted[1:]).difference(*refused))

    def _named(self, requirement: Requirement) -> set[str] | frozenset[str]:
        """Those with one of the values, or any value at all; the operator says what to make of them."""
        if requirement.operator in {"Exists", "DoesNotExist"}:
            return self._with_key.get(requirement.key, frozenset())
        return frozenset().union(*(self._with_label.get((requirement.key, value), ()) for value in requirement.values))


def read_selector(node: Node, path: str) -> NamespaceSelector:
    """A LabelSelector; `{}` chooses every namespace.

    Raises:
        ConfigError: With what is wrong in it.
    """
    found = fields(SELECTOR, SELECTOR, node, path)
    return NamespaceSelector((*found.get("labels", ()), *found.get("expressions", ())))


def _labels(node: Node, path: str) -> tuple[Requirement, ...]:
    children = [(key, child, join(path, key)) for key, child in mapping(node, path).items()]
    keys = converted(((Node(key, child.line), f"the key {here}") for key, child, here in children), _key)
    values = converted(((child, here) for _, child, here in children), _value)
    return tuple(Requirement(key, "In", (value,)) for key, value in zip(keys, values, strict=True))


def _expressions(node: Node, path: str) -> tuple[Requirement, ...]:
    return each(node, path, _expression)


def _expression(node: Node, path: str) -> Requirement:
    found = fields(_EXPRESSION, SELECTOR, node, path)
    operator: Operator = found["operator"]
    values: tuple[str, ...] = found.get("values", ())
    if operator in {"In", "NotIn"} and not values:
        raise fail(node, f"{path}.values", f"is empty; {operator} needs at least one value")
    if operator in {"Exists", "DoesNotExist"} and values:
        remedy = "In" if operator == "Exists" else "NotIn"
        raise fail(node, f"{path}.values", f"must be left out with {operator}; for certain values write {remedy}")
    return Requirement(found["key"], operator, tuple(sorted(set(values))))


def _key(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or _LABEL_KEY.fullmatch(node.value) is None:
        raise fail(node, path, f"{described(node)}; it must be a label's key, such as example.org/team")
    return node.value


def _value(node: Node, path: str) -> str:
    if isinstance(node.value, bool | int | float):
        raise fail(node, path, f"{described(node)}; it must be a string, put it in quotes")
    if not isinstance(node.value, str) or _LABEL_VALUE.fullmatch(node.value) is None:
        must = "a label's value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"
        raise fail(node, path, f"{described(node)}; it must be {must}")
    return node.value


def _values(node: Node, path: str) -> tuple[str, ...]:
    return converted(items(node, path), _value)


def _operator(node: Node, path: str) -> Operator:
    for operator in _OPERATORS:
        if node.value == operator:
            return operator
    raise fail(node, path, f"{described(node)}; it must be {alternatives(_OPERATORS)}")


_EXPRESSION: Final = Table(
    {
        "key": Key("key", _key, nullable=False),
        "operator": Key("operator", _operator, nullable=False),
        "values": Key("values", _values),
    },
    required=("key", "operator"),
)
SELECTOR: Final = Table(
    {
        "matchLabels": Key("labels", _labels),
        "matchExpressions": Key("expressions", _expressions, table=_EXPRESSION),
    }
)
