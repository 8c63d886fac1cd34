"""What content-addressed things are called, by the registry and in the cache."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from tasuki.process.sentences import shown

# OCI image spec, descriptor.md, "Registered algorithms": nothing else has to be known by an implementation.
_HEX_DIGITS: Final[Mapping[str, int]] = MappingProxyType({"sha256": 64, "sha512": 128})
_FORM: Final = re.compile(r"(sha256|sha512):([0-9a-f]+)", re.ASCII)


class Hasher(Protocol):
    def update(self, piece: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


_HASHERS: Final[Mapping[str, Callable[[], Hasher]]] = MappingProxyType(
    {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
)
# RFC 9530, section 5.
_FIELD_NAMES: Final[Mapping[str, str]] = MappingProxyType({"sha256": "sha-256", "sha512": "sha-512"})


@dataclass(frozen=True, slots=True)
class Digest:
    """Of a blob's or manifest's bytes.

    Attributes:
        hexadecimal: In lower case, as long as the algorithm says.
    """

    algorithm: str
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexadecimal}"

    @property
    def blob_name(self) -> str:
        """Of the cache's object, whatever repository it is from."""
        return f"{self.algorithm}/{self.hexadecimal}"

    @property
    def manifest_name(self) -> str:
        """Apart from blobs: a blob that looks like a manifest must never be served as one (CVE-2021-41190)."""
        return f"manifests/{self.algorithm}/{self.hexadecimal}"

    @property
    def content_digest(self) -> str:
        """As the `Content-Digest` of a request that carries the content (RFC 9530)."""
        encoded = base64.b64encode(bytes.fromhex(self.hexadecimal)).decode()
        return f"{_FIELD_NAMES[self.algorithm]}=:{encoded}:"

    def hasher(self) -> Hasher:
        return _HASHERS[self.algorithm]()

    def is_of(self, content: bytes) -> bool:
        hasher = self.hasher()
        hasher.update(content)
        return hasher.hexdigest() == self.hexadecimal


def read_digest(text: str) -> Digest:
    """A digest as registries spell it.

    Raises:
        ValueError: It is none, or one of an algorithm that is not known here.
    """
    match = _FORM.fullmatch(text)
    if match is None or len(match[2]) != _HEX_DIGITS[match[1]]:
        raise ValueError(
            f"{shown(text)} is no digest: sha256: and 64 hexadecimal digits in lower case, or sha512: and 128"
        )
    return Digest(match[1], match[2])


def sha256_of(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())
