"""The head of a request, from its bytes.

Strict where two readers of the same bytes could see different requests: RFC 9112, section 11.2.
"""

import re
from functools import lru_cache
from typing import Final

import msgspec

# Objects beyond that have no place in a signed 64-bit offset.
MOST_CONTENT_BYTES: Final = 2**63 - 1

_MOST_LENGTH_DIGITS: Final = len(str(MOST_CONTENT_BYTES))
_LONGEST_SHOWN: Final = 60

_PRINTABLE: Final = bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_IN_A_LINE: Final = _PRINTABLE + b"\t"
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VERSION: Final = re.compile(rb"HTTP/[0-9](\.[0-9])?")
_AUTHORITY: Final = re.compile(rb"(?i:https?)://[^/?#@]+")
_HOST_AND_PORT: Final = re.compile(rb"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:[0-9]*)?")
# Clients know a cache by a few names, and hosts that are refused are not remembered.
_HOSTS_REMEMBERED: Final = 256
_METHODS: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"POST", b"OPTIONS", b"PATCH"})

# Fields that mean something here; only their values are looked at.
_AUTHORIZATION: Final = "Authorization"
_CONNECTION: Final = "Connection"
_CONTENT_DIGEST: Final = "Content-Digest"
_CONTENT_ENCODING: Final = "Content-Encoding"
_CONTENT_LENGTH: Final = "Content-Length"
_CONTENT_MD5: Final = "Content-MD5"
_CONTENT_RANGE: Final = "Content-Range"
_EXPECT: Final = "Expect"
_HOST: Final = "Host"
_IF_MATCH: Final = "If-Match"
_IF_NONE_MATCH: Final = "If-None-Match"
_IF_RANGE: Final = "If-Range"
_PINNED: Final = "Tasuki-Pinned"
_RANGE: Final = "Range"
_TRANSFER_ENCODING: Final = "Transfer-Encoding"

_MEANINGFUL: Final = (
    _AUTHORIZATION, _CONNECTION, _CONTENT_DIGEST, _CONTENT_ENCODING, _CONTENT_LENGTH, _CONTENT_MD5, _CONTENT_RANGE,
    _EXPECT, _HOST, _IF_MATCH, _IF_NONE_MATCH, _IF_RANGE, _PINNED, _RANGE, _TRANSFER_ENCODING,
)  # fmt: skip

# What clients and Envoy send besides; only so that these names need no closer look.
_PASSED_OVER: Final = (
    "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Content-Type", "Cookie", "Pragma", "Traceparent",
    "Tracestate", "User-Agent", "X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-External-Address", "X-Envoy-Internal",
    "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id",
)  # fmt: skip

# Lists: several lines are as good as one line with commas (RFC 9110, section 5.3). All others come once.
_LISTS: Final = frozenset({_CONNECTION, _CONTENT_DIGEST, _EXPECT, _IF_MATCH, _IF_NONE_MATCH, _TRANSFER_ENCODING})

# Without a value they would count as absent: a condition would be passed over, and a body kept unchecked.
_NEVER_EMPTY: Final = frozenset({_CONTENT_DIGEST, _CONTENT_MD5, _IF_MATCH, _IF_NONE_MATCH, _IF_RANGE})

# By name as sent: usual spellings are found at once. Empty for fields that mean nothing here.
_FIELDS: Final = {
    **{spelling: "" for name in _PASSED_OVER for spelling in (name.encode(), name.lower().encode())},
    **{spelling: name for name in _MEANINGFUL for spelling in (name.encode(), name.lower().encode())},
}


class HttpError(Exception):
    """A request that is answered with this status and text, after which the connection is closed.

    Where one request ends and the next begins may be unknown by then.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status: Final = status
        self.text: Final = text

    def __str__(self) -> str:
        return self.text


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for; bytes are empty for fields that it lacks.

    Attributes:
        target: As sent and beginning with a slash, or `*` of OPTIONS; of `http://host/path`, the path on.
        lines: The head without its request line; for `parse_head`.
        version10: Whether it is of HTTP/1.0, not HTTP/1.1.
        keep_alive: Whether the client wants to send others over the same connection.
        token: Of `Authorization: Bearer`; empty for any other scheme.
        content_length: In bytes; -1 if it says none.
        chunked: Whether a body comes in chunks.
        expects_continue: Whether it wants to be told to go on before it sends the body.
    """

    method: bytes
    target: bytes
    lines: bytes
    version10: bool = False
    keep_alive: bool = True
    token: bytes = b""
    content_length: int = -1
    chunked: bool = False
    expects_continue: bool = False
    range: bytes = b""
    if_range: bytes = b""
    if_match: bytes = b""
    if_none_match: bytes = b""
    content_md5: bytes = b""
    content_digest: bytes = b""
    pinned: bool = False

    def __repr__(self) -> str:
        # Neither the token nor the lines, which hold it.
        return f"Head({self.method!r}, {self.target!r})"


def parse_head(head: bytes, before: Head | None = None) -> Head:
    r"""Read a head, from its request line to its empty line inclusive.

    Args:
        head: The caller found `\r\n\r\n` and passed over what `start_of_head` passes over.
        before: An earlier head of the same connection. Most clients change nothing but the request line, and lines
            that are the same need no second look. A token that is the same is the very same object.

    Raises:
        HttpError: 400, 413, 415, 417, 501 or 505; the request's end, or its meaning, is not certain.
    """
    end = head.find(b"\r\n")
    if end < 0:
        raise HttpError(400, "the head has no line; end each line with CR LF")
    method, target, version10 = _request_line(head[:end])
    lines = head[end + 2 :]
    if before is not None and before.lines == lines and before.version10 is version10:
        return Head(
            method, target, before.lines, version10, before.keep_alive, before.token, before.content_length,
            before.chunked, before.expects_continue, before.range, before.if_range, before.if_match,
            before.if_none_match, before.content_md5, before.content_digest, before.pinned,
        )  # fmt: skip
    fields = _fields(lines)
    if _HOST in fields:
        _check_host(fields[_HOST])
    elif not version10:
        raise HttpError(400, "the request has no Host; HTTP/1.1 requires it")
    token = _token(fields[_AUTHORIZATION], before) if _AUTHORIZATION in fields else b""
    # Most requests have nothing else.
    if len(fields) == 2 and token and not version10:
        return Head(method, target, lines, False, True, token)
    _check_content(fields)
    get = fields.get
    chunked = _is_chunked(fields, version10=version10)
    return Head(
        method, target, lines, version10, _keep_alive(get(_CONNECTION, b""), version10=version10), token,
        _length(fields[_CONTENT_LENGTH]) if _CONTENT_LENGTH in fields else -1, chunked,
        _expects_continue(fields[_EXPECT], version10=version10) if _EXPECT in fields else False,
        get(_RANGE, b""), get(_IF_RANGE, b""), get(_IF_MATCH, b""), get(_IF_NONE_MATCH, b""),
        get(_CONTENT_MD5, b""), get(_CONTENT_DIGEST, b""), _is_pinned(get(_PINNED, b"false")),
    )  # fmt: skip


def start_of_head(buffer: bytes | bytearray, start: int) -> int:
    """Where the next head begins: behind empty lines, which some clients send after a body (RFC 9112, section 2.2)."""
    while buffer[start : start + 2] == b"\r\n":
        start += 2
    return start


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Method, target, and whether it is of HTTP/1.0."""
    if line.translate(None, _PRINTABLE):
        raise HttpError(400, f"the request line has control characters: {shown(line)}; percent-encode them")
    try:
        method, target, version = line.split(b" ")
    except ValueError:
        raise _not_three(line) from None
    if method not in _METHODS and not _TOKEN.fullmatch(method):
        raise HttpError(400, f"the method is {shown(method)}; use GET, HEAD, PUT or DELETE")
    if target[:1] != b"/":
        target = _path(method, target)
    if version == b"HTTP/1.1":
        return method, target, False
    if version == b"HTTP/1.0":
        return method, target, True
    if _VERSION.fullmatch(version):
        raise HttpError(505, f"the version is {shown(version)}; use HTTP/1.1")
    raise HttpError(400, f"the request line ends in {shown(version)}; end it in HTTP/1.1")


def _not_three(line: bytes) -> HttpError:
    if line.count(b" ") == 1:
        return HttpError(505, "the request line has no version, as in HTTP/0.9; use HTTP/1.1")
    return HttpError(400, f"the request line is {shown(line)}; send a method, a target without spaces, and HTTP/1.1")


def _path(method: bytes, target: bytes) -> bytes:
    """Of a target that does not begin with a slash."""
    if target == b"*" and method == b"OPTIONS":
        return target
    authority = _AUTHORITY.match(target)
    rest = target[authority.end() :] if authority else b""
    if authority and rest[:1] in {b"", b"?"}:
        return b"/" + rest
    if rest[:1] == b"/":
        return rest
    # Without what precedes an at sign, which may be a password.
    raise HttpError(400, f"the target is {shown(target.rpartition(b'@')[2])}; send a path that begins with a slash")


def _fields(lines: bytes) -> dict[str, bytes]:
    """Values by name of the fields that mean something here."""
    each = lines.splitlines()
    # splitlines() also ends lines at a lone CR or LF: if these and other control characters are that many CR LF, each
    # line has its own.
    if lines.translate(None, _IN_A_LINE) != b"\r\n" * len(each):
        raise HttpError(400, "a header has a control character, or a line ends without CR LF; send neither")
    if not each or each.pop():
        raise HttpError(400, "the head does not end in an empty line; send CR LF twice")
    fields: dict[str, bytes] = {}
    for line in each:
        name, colon, value = line.partition(b":")
        field = _FIELDS.get(name)
        if field is None or not colon:
            field = _field(name, colon)
        if field:
            value = value.strip(b" \t")
            fields[field] = value if value and field not in fields else _odd_value(field, fields, value)
    return fields


def _field(name: bytes, colon: bytes) -> str:
    """Of a name that is not spelt as usual; empty if it means nothing here."""
    if name[:1] in {b" ", b"\t"}:
        raise HttpError(400, "a header goes on in a second line; write it in one line")
    # None of these texts shows the line: it may be a token's.
    if not colon:
        raise HttpError(400, "a header has no colon; write `Name: value`")
    if not _TOKEN.fullmatch(name):
        raise HttpError(400, "a header's name is empty, or has a space or another character that no name has")
    return _FIELDS.get(name.lower(), "")


def _odd_value(field: str, fields: dict[str, bytes], value: bytes) -> bytes:
    """The whole value of a field that is empty, or that came before."""
    if not value and field in _NEVER_EMPTY:
        raise HttpError(400, f"{field} is empty; give it a value or leave it out")
    if field not in fields:
        return value
    if field not in _LISTS:
        raise HttpError(400, f"{field} comes twice; send it once")
    return fields[field] + b", " + value


@lru_cache(_HOSTS_REMEMBERED)
def _check_host(value: bytes) -> None:
    # Nothing here depends on it, but RFC 9112, section 3.2, has it refused.
    if not _HOST_AND_PORT.fullmatch(value):
        raise HttpError(400, f"Host is {shown(value)}; send a host's name or address, and a port if it is not 80")


def _token(authorization: bytes, before: Head | None) -> bytes:
    if authorization[:7] != b"Bearer " and authorization[:7].lower() != b"bearer ":
        return b""
    token = authorization[7:].lstrip(b" ")
    if before is not None and token == before.token:
        return before.token
    if not token.isascii():
        raise HttpError(400, "Authorization has a token that is not ASCII; send the token's file as it is")
    return token


def _check_content(fields: dict[str, bytes]) -> None:
    """Refuse bodies that would be kept as something that they are not."""
    if _CONTENT_RANGE in fields:
        raise HttpError(400, "Content-Range: an object is put whole; send all of it, without Content-Range")
    coding = fields.get(_CONTENT_ENCODING, b"identity")
    if coding.lower() != b"identity":
        raise HttpError(
            415,
            f"Content-Encoding is {shown(coding)}, which would not come back with the object; leave it out and put "
            "the bytes as they are",
        )


def _is_chunked(fields: dict[str, bytes], *, version10: bool) -> bool:
    coding = fields.get(_TRANSFER_ENCODING)
    if coding is None:
        return False
    if _CONTENT_LENGTH in fields:
        raise HttpError(400, "both Content-Length and Transfer-Encoding; send one of them")
    if version10:
        raise HttpError(400, "Transfer-Encoding in HTTP/1.0; use HTTP/1.1 or Content-Length")
    if coding.lower() != b"chunked":
        raise HttpError(501, f"Transfer-Encoding is {shown(coding)}; use chunked")
    return True


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise HttpError(400, f"Content-Length is {shown(value)}; send a number of bytes in digits")
    digits = value.lstrip(b"0")
    if len(digits) > _MOST_LENGTH_DIGITS or int(digits or b"0") > MOST_CONTENT_BYTES:
        raise HttpError(413, f"Content-Length is {shown(value)}, beyond {MOST_CONTENT_BYTES}; put a smaller object")
    return int(digits or b"0")


def _keep_alive(connection: bytes, *, version10: bool) -> bool:
    if not connection:
        return not version10
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    return b"close" not in options and (not version10 or b"keep-alive" in options)


def _expects_continue(value: bytes, *, version10: bool) -> bool:
    if value.lower() != b"100-continue":
        raise HttpError(417, f"Expect is {shown(value)}; only 100-continue is known")
    # A client of HTTP/1.0 cannot know what 100 is (RFC 9110, section 10.1.1).
    return not version10


def _is_pinned(value: bytes) -> bool:
    if value not in {b"true", b"false"}:
        raise HttpError(400, f"{_PINNED} is {shown(value)}; write true or false")
    return value == b"true"


def shown(value: bytes) -> str:
    """What a client sent, for an error's text: quoted, escaped, and not too much of it."""
    return repr(value[:_LONGEST_SHOWN])[1:] + ("…" if len(value) > _LONGEST_SHOWN else "")
