"""What a PUT says its body's digests are: Content-MD5 (RFC 1864) and Content-Digest (RFC 9530)."""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from objectcache.wire.head import Head, HttpError, shown

# Bytes of a digest by algorithm, as RFC 9530 names them; `hashlib` leaves the dash out.
_DIGEST_BYTES: Final = {b"sha-256": 32, b"sha-512": 64}
_MD5_BYTES: Final = 16

# A dictionary's member whose value is bytes (RFC 8941, section 3.2).
_MEMBER: Final = re.compile(rb"([a-z*][a-z0-9_.*-]*)=:([^:]*):")


@dataclass(frozen=True, slots=True)
class Digest:
    """What the body's hash must be.

    Attributes:
        algorithm: As `hashlib.new` takes it.
    """

    algorithm: str
    value: bytes


def digests(head: Head) -> tuple[Digest, ...]:
    """All that the body is to be checked against; empty if the client asked for no check.

    Digests of other algorithms are passed over if there is a known one beside them.

    Raises:
        HttpError: 400 if one is malformed, or none is known: the client would believe the body checked.
    """
    if not head.content_md5 and not head.content_digest:
        return ()
    return tuple(_read(head))


def _read(head: Head) -> Iterator[Digest]:
    if head.content_md5:
        yield Digest("md5", _decoded("Content-MD5", head.content_md5, _MD5_BYTES))
    if head.content_digest:
        members = _members(head.content_digest)
        if not members.keys() & _DIGEST_BYTES.keys():
            raise HttpError(400, f"Content-Digest is {shown(head.content_digest)}; give sha-256 or sha-512")
        for algorithm, length in _DIGEST_BYTES.items():
            if algorithm in members:
                name = algorithm.decode()
                yield Digest(name.replace("-", ""), _decoded(f"Content-Digest's {name}", members[algorithm], length))


def _members(value: bytes) -> dict[bytes, bytes]:
    """Base64 by algorithm; of one that comes twice, the last (RFC 8941, section 4.2.2)."""
    members = [_MEMBER.fullmatch(member.strip(b" \t")) for member in value.split(b",")]
    found = {member[1]: member[2] for member in members if member}
    if None in members:
        raise HttpError(400, f"Content-Digest is {shown(value)}; write it as sha-256=:BASE64:")
    return found


def _decoded(name: str, value: bytes, length: int) -> bytes:
    try:
        digest = binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error:
        digest = b""
    if len(digest) != length:
        raise HttpError(400, f"{name} is {shown(value)}; give {length} bytes in base64")
    return digest
