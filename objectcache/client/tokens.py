"""The token that a client shows, read again as the kubelet renews it."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from objectcache.client.errors import TokenError

# As often as pfio. The kubelet renews long before a token expires, so that seldomer would do; but reading 1 KiB of
# memory a second is nothing.
_FRESH_SECONDS: Final = 1.0

# RFC 6750, b64token.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Token:
    """Of a file, a text, or none at all; it never shows what it holds.

    Threads may share it: what was read is one tuple, which is replaced.
    """

    def __init__(
        self, path: str | Path | None, text: str = "", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """No file is read before a token is needed.

        Raises:
            TokenError: Both are given, or the text is no token.
        """
        if path is not None and text:
            raise TokenError("both a token and a token's file are given; give one")
        self._path = None if path is None else Path(path)
        self._text = _checked(text, "the token") if text else ""
        self._monotonic = monotonic
        self._read: tuple[float, str] | None = None

    def __repr__(self) -> str:
        if self._path is not None:
            return f"Token({str(self._path)!r})"
        return "Token(text)" if self._text else "Token(none)"

    def __getstate__(self) -> tuple[Path | None, str]:
        return self._path, self._text

    def __setstate__(self, state: tuple[Path | None, str]) -> None:
        self._path, self._text = state
        self._monotonic = time.monotonic
        self._read = None

    def header(self) -> dict[str, str]:
        """`Authorization`, if there is a token.

        Raises:
            TokenError: The file cannot be read, and has never been.
        """
        token = self.current()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def current(self) -> str:
        """The token; of a file that cannot be read any more it is the last one, which mostly still holds."""
        if self._path is None:
            return self._text
        now, read = self._monotonic(), self._read
        if read is not None and now - read[0] < _FRESH_SECONDS:
            return read[1]
        try:
            token = _from(self._path)
        except TokenError:
            if read is None:
                raise
            token = read[1]
        self._read = (now, token)
        return token

    def changed_from(self, refused: str) -> bool:
        """Whether the file by now holds another one than the one that was refused."""
        if self._path is None:
            return False
        try:
            token = _from(self._path)
        except TokenError:
            return False
        self._read = (self._monotonic(), token)
        return token != refused


def _from(path: Path) -> str:
    try:
        text = path.read_text("ascii")
    except UnicodeDecodeError as error:
        raise TokenError(f"the token's file {path} is no ASCII; is it the right file?") from error
    except OSError as error:
        raise TokenError(
            f"the token's file {path} cannot be read ({error.strerror}); with the annotation tasuki.dev/cache a pod "
            "gets one, and PFIO_HTTP_BEARER_TOKEN_PATH says where"
        ) from error
    # The kubelet writes none, an editor does.
    return _checked(text.strip(), f"the token's file {path}")


def _checked(text: str, what: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise TokenError(f"{what} holds {len(text)} characters that are no bearer token; is it the right one?")
    return text
