"""Which objects of the cache a file of the origin is kept as; no I/O."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

Version = Literal["auto", "none"]

MIB: Final = 2**20
DEFAULT_MAX_OBJECT: Final = 64 * MIB
DEFAULT_BLOCK_SIZE: Final = 16 * MIB
_LEAST_BLOCK: Final = 64 * 1024

# Where file systems of fsspec say which content a file has, the surest first, as of their `info` and `ls`. What
# follows the first one that is there does not count: a listing often says less than `info`.
_TAGS: Final = (
    "ETag", "etag", "e_tag", "md5Hash", "md5", "content_md5", "Content-MD5", "Digest", "CRC", "sha", "hex", "blob_id",
    "generation", "VersionId", "version_id",
)  # fmt: skip
_TIMES: Final = (
    "mtime", "LastModified", "last_modified", "updated", "modified", "Last-Modified", "modificationTime", "modify",
    "created",
)  # fmt: skip
# What names a file says nothing of its content, and a URL after a redirection may be another each time.
_NAMES: Final = frozenset({"name", "Key", "url"})

# Options of file systems that say which place a path is in; others say how to get there, or are secrets.
_PLACES: Final = frozenset({
    "endpoint_url", "host", "hostname", "port", "fo", "target_protocol", "account_name", "base_url", "org", "repo",
    "sha", "path", "server", "share", "cluster", "instance",
})  # fmt: skip

# Of HTTP only: elsewhere what is before an @ is a name, and file systems of fsspec cut a password off themselves.
_PASSWORD: Final = re.compile(r"^(https?://)[^/?#]*@")


class KeepingError(ValueError):
    """The sizes or the version cannot be such."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that is one object.

    Attributes:
        name: Of the object.
        first: Of the file's bytes.
        end: Exclusive.
    """

    name: str
    first: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.first


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as the cache knows it.

    Attributes:
        name: Of its object, with its version.
        block_bytes: 0 if the whole file is one object.
    """

    name: str
    size_bytes: int
    block_bytes: int = 0

    def pieces(self, first: int = 0, end: int | None = None) -> Iterator[Piece]:
        """In order, those that bytes `first` to `end` lie in; an empty file is one empty piece."""
        if not self.block_bytes:
            yield Piece(self.name, 0, self.size_bytes)
            return
        block, last = self.block_bytes, self.size_bytes if end is None else min(end, self.size_bytes)
        for index in range(first // block, -(-last // block)):
            name = f"{self.name};block={block},{index}"
            yield Piece(name, index * block, min((index + 1) * block, self.size_bytes))

    def parts(self, first: int, end: int) -> Iterator[tuple[Piece, tuple[int, int]]]:
        """Pieces, each with the part of it, counted from its own beginning, that lies in bytes `first` to `end`."""
        for piece in self.pieces(first, end):
            yield piece, (max(first, piece.first) - piece.first, min(end, piece.end) - piece.first)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How files become objects.

    Attributes:
        version: `auto` puts into the name what the origin says of the content, so that a changed file is another
            object; `none` trusts that files never change.
        max_object: Files of at most so many bytes are one object. Larger ones are blocks with `auto`; with `none` they
            are not kept, because blocks of several contents could come together.
        block_size: In bytes.
        place: Told apart from other places whose files are called the same; may be empty.
    """

    version: Version = "auto"
    max_object: int = DEFAULT_MAX_OBJECT
    block_size: int = DEFAULT_BLOCK_SIZE
    place: str = ""

    def __post_init__(self) -> None:
        if self.version not in get_args(Version):
            raise KeepingError(f"version is {self.version!r}; it must be 'auto' or 'none'")
        if self.max_object < 0:
            raise KeepingError(f"max_object is {self.max_object}; it must be 0 or a number of bytes")
        if self.block_size < _LEAST_BLOCK:
            raise KeepingError(f"block_size is {self.block_size}; it must be at least {_LEAST_BLOCK} bytes")

    def unversioned(self, url: str) -> str:
        """The name of a file's object before its version; whoever may read the bucket reads names, so no password."""
        url = _PASSWORD.sub(r"\1", url)
        return f"{url};origin={self.place}" if self.place else url

    def kept(self, url: str, found: Mapping[str, Any]) -> Kept | None:
        """What a file is kept as; None if it is not.

        Args:
            url: Of the file, with its protocol.
            found: What the origin's `info` says of it.
        """
        size = found.get("size")
        if found.get("type") != "file" or not isinstance(size, int) or size < 0:
            return None
        name = self.unversioned(url)
        if self.version == "none":
            return Kept(name, size) if size <= self.max_object else None
        versioned = f"{name};version={version_of(found)}"
        return Kept(versioned, size, 0 if size <= self.max_object else self.block_size)


def version_of(found: Mapping[str, Any]) -> str:
    """16 letters that differ where the origin says that the content does.

    By a tag if it gives one, else by a time, else by all that it says, and by the size. An origin that says nothing but
    sizes is taken at its word: a file that changed and kept its size is the same to it.
    """
    known = next((_plain(found[key]) for key in (*_TAGS, *_TIMES) if found.get(key)), None)
    said = known or sorted((key, _plain(found[key])) for key in found.keys() - _NAMES)
    return hashlib.sha256(json.dumps([found.get("size"), said]).encode()).hexdigest()[:16]


def place_of(options: Mapping[str, Any]) -> str:
    """8 letters for the place that a file system's options name; empty if they name none.

    Two object stores may both have `s3://bucket/key`, and two archives both `zip://member`.
    """
    named = list(_named(options))
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8] if named else ""


def _named(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in sorted(options):
        # A file system within another has options of its own.
        value = getattr(options[key], "storage_options", options[key])
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", text) for inner, text in _named(value))
        elif key in _PLACES and value is not None and value != "":
            yield key, str(value)


def _plain(value: object) -> str:
    """The same for a listing's spelling and that of `info`, which differ in quotes."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).removeprefix("W/").strip('"')


def span_in(size_bytes: int, start: int | None, end: int | None) -> tuple[int, int]:
    """First and end of what Python's slices would take of so many bytes."""
    first, last, _ = slice(start, end).indices(size_bytes)
    return first, max(first, last)
