"""What a request's target names.

An object's name is what follows the bucket's slash, byte for byte as sent: the query belongs to it, and nothing is
decoded or normalised. pfio sends names raw, and Envoy hashes what is sent: only so has one key one owner.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from objectcache.wire.head import HttpError, shown
from tasuki.kube.names import CACHE_BUCKET_PATTERN

# S3's keys have up to 1,024 bytes; pfio puts scheme, host and bucket before them, and a zip member's path behind, whose
# parts Linux bounds at 4,096 in all (PATH_MAX).
MOST_NAME_BYTES: Final = 4096
MOST_LISTED: Final = 1000

_OBJECTS: Final = b"/v1/objects/"
_OBJECTS_LENGTH: Final = len(_OBJECTS)
_BUCKET: Final = re.compile(CACHE_BUCKET_PATTERN.encode())
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_KNOWN: Final = "/v1/objects/{bucket}/{object}, /v1/objects/{bucket}, /v1/objects and /v1/summary"
# Whole lines at once: most requests are such, and reading them step by step takes three times as long.
_PLAIN_GET: Final = re.compile(
    rb"GET /v1/objects/(?P<bucket>%b)/(?P<name>[\x21-\x7e\x80-\xff]{1,%d}) HTTP/1\.1"
    % (CACHE_BUCKET_PATTERN.encode(), MOST_NAME_BYTES)
)
# Of names that passed; a node's buckets are tens, and what is no bucket's name is not remembered.
_BUCKETS_REMEMBERED: Final = 1024


class ObjectTarget(msgspec.Struct, frozen=True, gc=False):
    """An object."""

    bucket: str
    name: bytes


class BucketTarget(msgspec.Struct, frozen=True, gc=False):
    """A page of a bucket's objects: names that begin with `prefix` and come after `after`, bytewise.

    Attributes:
        limit: How many at most, from 1 to MOST_LISTED.
    """

    bucket: str
    prefix: bytes = b""
    after: bytes = b""
    limit: int = MOST_LISTED


class BucketsTarget(msgspec.Struct, frozen=True, gc=False):
    """All buckets."""


class SummaryTarget(msgspec.Struct, frozen=True, gc=False):
    """What the cache holds, in short."""


Target = ObjectTarget | BucketTarget | BucketsTarget | SummaryTarget

_OTHERS: Final[dict[bytes, BucketsTarget | SummaryTarget]] = {
    b"/v1/objects": BucketsTarget(),
    b"/v1/objects/": BucketsTarget(),
    b"/v1/summary": SummaryTarget(),
}


def read_target(target: bytes) -> Target:
    """What `Head.target` names.

    Raises:
        HttpError: 404 for what is not served here, 414 for a name beyond MOST_NAME_BYTES, 400 for any other mistake.
    """
    if target[:_OBJECTS_LENGTH] == _OBJECTS:
        rest = target[_OBJECTS_LENGTH:]
        bucket, slash, name = rest.partition(b"/")
        if slash:
            try:
                known = _bucket(bucket)
            except HttpError:
                # The slash is one of a listing's query.
                if b"?" in bucket:
                    return _page(rest)
                raise
            if 0 < len(name) <= MOST_NAME_BYTES:
                return ObjectTarget(known, name)
            raise _wrong_name(name)
        if rest:
            return _page(rest)
    found = _OTHERS.get(target)
    if found is None:
        raise HttpError(404, f"nothing is served at {shown(target)}; there are {_KNOWN}")
    return found


def object_of(line: bytes) -> ObjectTarget | None:
    """The object of a GET's request line, without its CR LF; None for any other line, of which `parse_head` tells."""
    found = _PLAIN_GET.fullmatch(line)
    return None if found is None else ObjectTarget(found["bucket"].decode(), found["name"])


@lru_cache(_BUCKETS_REMEMBERED)
def _bucket(name: bytes) -> str:
    if not _BUCKET.fullmatch(name):
        raise HttpError(
            400,
            f"the bucket is {shown(name)}; a bucket's name has up to 63 letters a-z, digits, dots and dashes, and "
            "begins and ends with a letter or a digit",
        )
    return name.decode()


def _wrong_name(name: bytes) -> HttpError:
    if not name:
        return HttpError(
            400, "the object's name is empty; put it behind the bucket's slash, or list without that slash"
        )
    return HttpError(414, f"the object's name has {len(name)} bytes; {MOST_NAME_BYTES} are the most, so shorten it")


def _page(target: bytes) -> BucketTarget:
    """Of a bucket's name with or without a query."""
    bucket, _, query = target.partition(b"?")
    given: dict[bytes, bytes] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if not pair:
            continue
        if name not in {b"prefix", b"after", b"limit"}:
            raise HttpError(400, f"the query has {shown(name)}; there are prefix, after and limit")
        if name in given:
            raise HttpError(400, f"the query has {name.decode()} twice; give it once")
        given[name] = _decoded(name, value)
    return BucketTarget(
        _bucket(bucket), given.get(b"prefix", b""), given.get(b"after", b""), _limit(given.get(b"limit", b"1000"))
    )


def _decoded(name: bytes, value: bytes) -> bytes:
    """As a form writes it (https://url.spec.whatwg.org/#concept-urlencoded-parser)."""
    if _BAD_ESCAPE.search(value):
        raise HttpError(400, f"{name.decode()} is {shown(value)}; write a percent sign itself as %25")
    return unquote_to_bytes(value.replace(b"+", b" "))


def _limit(value: bytes) -> int:
    # Four digits hold every limit, and int() must not be given thousands.
    digits = value.lstrip(b"0")
    if not value.isdigit() or not 0 < len(digits) <= 4 or int(digits) > MOST_LISTED:
        raise HttpError(400, f"limit is {shown(value)}; give a number from 1 to {MOST_LISTED}")
    return int(digits)
