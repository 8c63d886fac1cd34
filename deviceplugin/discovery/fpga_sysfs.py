"""Reading the kernel's attribute files: every read is bounded, and every failure says which file and why."""

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The kernel gives an attribute at most one page; nothing that is read here comes near this.
_LIMIT_BYTES: Final = 4096
_PCI_ADDRESS: Final = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_NO_NUMBER: Final = 2**64
# What open or read answers where a driver has no such attribute.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class AttributeUnreadableError(Exception):
    """An attribute that should be there cannot be read, or is not text.

    Attributes:
        number: The kernel's error number; 0 if the content is at fault.
    """

    def __init__(self, path: str, reason: str, number: int = 0) -> None:
        super().__init__(f"/sys/{path} cannot be read: {reason}")
        self.number: Final = number


class Sysfs:
    """A tree as the kernel lays it out; paths are relative to its root, without a leading slash."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self._prefix: Final = f"{root}/"

    def text(self, path: str) -> str:
        """An attribute's value without the white space around it.

        Raises:
            AttributeUnreadableError: It is missing, the driver refuses, or it is too long or not ASCII.
        """
        content = self._content(path)
        if len(content) > _LIMIT_BYTES:
            raise AttributeUnreadableError(path, f"it is longer than {_LIMIT_BYTES} bytes")
        try:
            text = content.decode("ascii").strip()
        except UnicodeDecodeError:
            raise AttributeUnreadableError(path, f"it is not text: {content[:16]!r}") from None
        if not all(character.isprintable() or character in "\n\t" for character in text):
            raise AttributeUnreadableError(path, f"it is not text: {content[:16]!r}")
        return text

    def optional(self, path: str, *, absent: Iterable[int] = ()) -> str | None:
        """As `text`, or None where the driver has no such attribute.

        Args:
            path: The attribute.
            absent: More error numbers by which a driver says so.

        Raises:
            AttributeUnreadableError: It is there and cannot be read.
        """
        try:
            return self.text(path)
        except AttributeUnreadableError as error:
            if error.number in _ABSENT or error.number in absent:
                return None
            raise

    def number(self, path: str) -> int | None:
        """An attribute that holds a decimal or 0x-number; None where the driver has no such attribute.

        Raises:
            AttributeUnreadableError: It is there and cannot be read, or is no number.
        """
        text = self.optional(path)
        if text is None:
            return None
        try:
            number = int(text, 0)
        except ValueError:
            number = _NO_NUMBER
        if not _LEAST <= number <= _MOST:
            raise AttributeUnreadableError(path, f"{text[:32]!r} is not a number of 64 bits")
        return number

    def raw(self, path: str) -> bytes:
        """A short binary attribute; empty where there is none, or it cannot be read."""
        try:
            return self._content(path)[:_LIMIT_BYTES]
        except AttributeUnreadableError:
            return b""

    def names(self, path: str) -> list[str]:
        """What is in a folder, sorted; empty where there is no such folder.

        Raises:
            AttributeUnreadableError: It is there and cannot be listed.
        """
        try:
            return sorted(os.listdir(self._prefix + path))  # noqa: PTH208 - names alone, many times a scan
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise AttributeUnreadableError(path, _reason(error), error.errno or 0) from error

    def target(self, path: str) -> str:
        """The folder that a link leads to, relative to the root; the path itself if it is no link."""
        try:
            link = os.readlink(self._prefix + path)  # noqa: PTH115 - strings, many times a scan
        except OSError:
            return path
        return os.path.normpath(f"{path}/../{link}")

    def exists(self, path: str) -> bool:
        return os.path.exists(self._prefix + path)  # noqa: PTH110 - strings, many times a scan

    def _content(self, path: str) -> bytes:
        try:
            # O_NONBLOCK: a pipe in its place must not hold the scan up.
            file = os.open(self._prefix + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                content = os.read(file, _LIMIT_BYTES + 1)
            finally:
                os.close(file)
        except OSError as error:
            raise AttributeUnreadableError(path, _reason(error), error.errno or 0) from error
        except ValueError as error:  # a NUL in the name
            raise AttributeUnreadableError(path, str(error)) from error
        return content


def pci_addresses(path: str) -> tuple[str, ...]:
    """The PCI functions along a path of the kernel's, from the root port down."""
    return tuple(part for part in path.split("/") if _PCI_ADDRESS.fullmatch(part))


def is_pci_address(name: str) -> bool:
    return _PCI_ADDRESS.fullmatch(name) is not None


def card_order(card: str) -> tuple[int, tuple[int, ...], str]:
    """Sort key for cards: by PCI address as a number, then what is not on PCI by name."""
    parts = re.split(r"[:.]", card)
    if len(parts) >= 3 and all(re.fullmatch(r"[0-9a-f]+", part) for part in parts):
        return 0, tuple(int(part, 16) for part in parts), card
    return 1, (), card


def number_in(name: str) -> int:
    """The last number in a name: 3 of `renderD3`; -1 if there is none."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else -1


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
