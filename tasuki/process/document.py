"""YAML or JSON text as a bounded tree of values that know their line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml

from tasuki.process.sentences import shown

# etcd refuses a larger ConfigMap.
MAX_BYTES: Final = 1024 * 1024

# Far above any real configuration; what is beyond is a mistake or an attack with aliases.
MAX_VALUES: Final = 20_000
MAX_DEPTH: Final = 32

# Of a file that is wrong from end to end, more would only be scrolled away, and take seconds to word.
MOST_PROBLEMS: Final = 20
_MORE: Final = "and there is more; mend these first"

Scalar = str | int | float | bool | None

# libyaml's bindings are several times as fast, and read JSON that is indented by tabs, as NVIDIA's parser does.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# NVIDIA's file is read by go-yaml v2 (through sigs.k8s.io/yaml), which differs from PyYAML: no base-60 numbers
# (`0:1` is a MIG index), exponents without a dot, `y` and `n` as booleans. Times stay text here.
_WORDS: Final[Mapping[str, Scalar]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{case(w): True for w in ("y", "yes", "true", "on") for case in (str.lower, str.capitalize, str.upper)},
    **{case(w): False for w in ("n", "no", "false", "off") for case in (str.lower, str.capitalize, str.upper)},
}
_INTEGER: Final = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[oO]?([0-7]+)|0[bB]([01]+)|(0|[1-9][0-9]*))")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LONGEST_NUMBER: Final = 40
_TAG: Final = "tag:yaml.org,2002:"


class ConfigError(ValueError):
    """What is given does not make a configuration.

    Attributes:
        problems: One sentence for each thing that is wrong, in the order of the file; of more than MOST_PROBLEMS only
            the first, and that there is more.
    """

    def __init__(self, *problems: str) -> None:
        told = problems if len(problems) <= MOST_PROBLEMS else (*problems[:MOST_PROBLEMS], _MORE)
        super().__init__("; ".join(told))
        self.problems = told


@dataclass(frozen=True, slots=True)
class Node:
    """A value; `line` counts from 1 and is the key's for a mapping's value, and 0 if it is from no file."""

    value: "Scalar | tuple[Node, ...] | Mapping[str, Node]"
    line: int = 0


def plain(node: Node) -> object:
    """A tree as dicts, lists and scalars, without its lines."""
    if isinstance(node.value, Mapping):
        return {key: plain(value) for key, value in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(item) for item in node.value]
    return node.value


def read(text: bytes) -> Node:
    """The one document in a text; null for an empty one.

    Raises:
        ConfigError: It is not YAML, has a key twice, or is out of all proportion.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES} bytes")
    try:
        characters = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8: byte {error.start} is {text[error.start]:#04x}") from None
    try:
        return _Reader(yaml.parse(characters, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        context = f" {error.context}" if error.context else ""
        raise ConfigError(f"{line}not valid YAML: {error.problem}{context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from None


@dataclass(slots=True)
class _Reader:
    """Builds the tree from events, because PyYAML's own constructor neither counts nor keeps lines."""

    events: Iterator[yaml.Event]
    anchors: dict[str, tuple[Node, int]] = field(default_factory=dict)
    values: int = 0

    def document(self) -> Node:
        root = Node(None)
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line(event)
                    raise ConfigError(f"line {line}: a second document; a configuration is only one")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        return root

    def _node(self, event: yaml.NodeEvent, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        if depth > MAX_DEPTH:
            raise ConfigError(f"line {line}: nested more than {MAX_DEPTH} levels deep")
        before = self.values
        self._count(1, line)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(scalar(event, line), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            _check_tag(event, "seq", line)
            node = Node(tuple(self._items(depth)), line)
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            _check_tag(event, "map", line)
            node = Node(self._mapping(depth), line)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.values - before)
        return node

    def _count(self, values: int, line: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise ConfigError(f"line {line}: more than {MAX_VALUES} values, aliases counted in full")

    def _alias(self, event: yaml.AliasEvent, line: int) -> Node:
        """An anchor is known only once its value is complete, so that nothing contains itself."""
        if event.anchor not in self.anchors:
            raise ConfigError(f"line {line}: *{event.anchor} refers to nothing before it")
        node, size = self.anchors[event.anchor]
        self._count(size, line)
        return node

    def _items(self, depth: int) -> Iterator[Node]:
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            assert isinstance(event, yaml.NodeEvent)
            yield self._node(event, depth + 1)

    def _mapping(self, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError(f"line {line}: a key that is not a plain word")
            following = next(self.events)
            assert isinstance(following, yaml.NodeEvent)
            value = self._node(following, depth + 1)
            if event.value == "<<" and event.implicit[0]:
                for mapping in _mappings_to_merge(value, line):
                    merged = {**mapping, **merged}
            elif event.value in own:
                raise ConfigError(f"line {line}: the key {shown(event.value)} is here twice")
            else:
                own[event.value] = Node(value.value, line)
        return {**merged, **own}


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _mappings_to_merge(node: Node, line: int) -> list[Mapping[str, Node]]:
    values = [item.value for item in node.value] if isinstance(node.value, tuple) else [node.value]
    mappings = [value for value in values if isinstance(value, Mapping)]
    if len(mappings) < len(values):
        raise ConfigError(f"line {line}: << merges only mappings")
    return mappings


def _check_tag(event: yaml.CollectionStartEvent, kind: str, line: int) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise ConfigError(f"line {line}: the tag {shown(event.tag)} has no meaning here")


def scalar(event: yaml.ScalarEvent, line: int) -> Scalar:
    if event.tag in ("!", _TAG + "str"):
        return str(event.value)
    if event.implicit[0]:
        return _resolved(event.value)
    if event.implicit[1]:
        return str(event.value)
    if event.tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
        return _resolved(event.value)
    raise ConfigError(f"line {line}: the tag {shown(event.tag)} has no meaning here")


def _resolved(text: str) -> Scalar:
    """What an unquoted word means."""
    if text in _WORDS:
        return _WORDS[text]
    digits = text.replace("_", "")
    if len(digits) > _LONGEST_NUMBER or digits[:1] not in "+-.0123456789":
        return text
    if match := _INTEGER.fullmatch(digits):
        sign, *bases = match.groups()
        number = next(int(found, base) for found, base in zip(bases, (16, 8, 2, 10), strict=True) if found)
        return -number if sign == "-" else number
    if _FLOAT.fullmatch(digits) and abs(real := float(digits)) != float("inf"):
        return real
    return text
