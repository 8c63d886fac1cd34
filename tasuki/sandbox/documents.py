"""The YAML documents of a file, bounded, as plain values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

# How kubectl reads a word: `1:30` is no number, `y` is true.
from tasuki.process.document import ConfigError, Scalar, scalar
from tasuki.process.sentences import shown

# etcd refuses a larger object.
MAX_BYTES: Final = 1024 * 1024

# A megabyte of `kubectl get pods -o yaml` has some 40,000; what is beyond is an attack with aliases.
MAX_VALUES: Final = 200_000
# The schemas of custom resources go 40 levels deep.
MAX_DEPTH: Final = 100

# By events: PyYAML's composer, bound to libyaml, ends the process on text that is nested too deeply.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG: Final = "tag:yaml.org,2002:"

Value = Scalar | list["Value"] | dict[str, "Value"]


class DocumentError(ValueError):
    """A file that is not YAML, has a key twice, or is out of all proportion."""


def read(file: Path) -> list[Value]:
    """All documents of a file, in order; an empty one is None.

    Raises:
        DocumentError: With the line; also if the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from error
    if len(text) > MAX_BYTES:
        raise DocumentError(f"is larger than {MAX_BYTES} bytes; split it")
    try:
        characters = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8: byte {error.start} is {text[error.start]:#04x}") from None
    try:
        return _Reader(yaml.parse(characters, Loader=_LOADER)).documents()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DocumentError(f"{line}is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"is not YAML: {' '.join(str(error).split())}") from None


@dataclass(slots=True)
class _Reader:
    """Builds values from events; `anchors` holds complete values with how many values they are."""

    events: Iterator[yaml.Event]
    anchors: dict[str, tuple[Value, int]] = field(default_factory=dict)
    values: int = 0

    def documents(self) -> list[Value]:
        found: list[Value] = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
            elif isinstance(event, yaml.NodeEvent):
                found.append(self._value(event, 0))
        return found

    def _value(self, event: yaml.NodeEvent, depth: int) -> Value:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        if depth > MAX_DEPTH:
            raise DocumentError(f"line {line}: nested more than {MAX_DEPTH} levels deep")
        before = self.values
        self._count(1, line)
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            try:
                value = scalar(event, line)
            except ConfigError as error:
                raise DocumentError(str(error)) from None
        elif isinstance(event, yaml.SequenceStartEvent):
            _check_tag(event, "seq", line)
            value = list(self._items(depth))
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            _check_tag(event, "map", line)
            value = self._mapping(depth)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def _count(self, values: int, line: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise DocumentError(f"line {line}: more than {MAX_VALUES} values, aliases counted in full")

    def _alias(self, event: yaml.AliasEvent, line: int) -> Value:
        """An anchor is known only once its value is complete, so that nothing contains itself."""
        if event.anchor not in self.anchors:
            raise DocumentError(f"line {line}: {shown(f'*{event.anchor}')} refers to nothing that ends before it")
        value, size = self.anchors[event.anchor]
        self._count(size, line)
        return value

    def _items(self, depth: int) -> Iterator[Value]:
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            assert isinstance(event, yaml.NodeEvent)
            yield self._value(event, depth + 1)

    def _mapping(self, depth: int) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise DocumentError(f"line {line}: a key that is not a plain word")
            following = next(self.events)
            assert isinstance(following, yaml.NodeEvent)
            value = self._value(following, depth + 1)
            if event.value == "<<" and event.implicit[0]:
                for mapping in _mappings_to_merge(value, line):
                    merged = {**mapping, **merged}
            elif event.value in own:
                raise DocumentError(f"line {line}: the key {shown(event.value)} is there twice")
            else:
                own[event.value] = value
        return {**merged, **own}


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _mappings_to_merge(value: Value, line: int) -> list[dict[str, Value]]:
    values = value if isinstance(value, list) else [value]
    mappings = [item for item in values if isinstance(item, dict)]
    if len(mappings) < len(values):
        raise DocumentError(f"line {line}: << merges only mappings")
    return mappings


def _check_tag(event: yaml.CollectionStartEvent, kind: str, line: int) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise DocumentError(f"line {line}: the tag {shown(event.tag)} has no meaning here")
