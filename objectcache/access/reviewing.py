"""What any way of reviewing tokens answers, and which tokens none of them looks at."""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from objectcache.link import Identity

# A service account's token takes 1 to 2 kB.
MOST_TOKEN_BYTES: Final = 16 * 1024

# https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_BEARER_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")

# For how long a token counts as worth nothing.
INVALID_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a token is worth.

    Attributes:
        identity: None if it is worth nothing.
        status: 200 with an identity, 401 without, 503 if nobody could say.
        reason: For the client, without an identity; never anything of the token.
        lasts_seconds: For how long that holds; 0 for this one request.
    """

    identity: Identity | None
    status: int
    reason: str
    lasts_seconds: float


class Reviewer(Protocol):
    async def review(self, token: str) -> Verdict:
        """Never raises for a token, whatever it is."""


def malformed(token: str) -> Verdict | None:
    """Why a token is not even looked up; None for one that could be valid."""
    if not token:
        return _refused("there is no token; send `Authorization: Bearer <token>`")
    if len(token) > MOST_TOKEN_BYTES:
        return _refused(f"the token has {len(token)} bytes; none has more than {MOST_TOKEN_BYTES}")
    if _BEARER_TOKEN.fullmatch(token) is None:
        return _refused("the token has characters that no bearer token has, perhaps a line's end after it")
    return None


def _refused(reason: str) -> Verdict:
    return Verdict(None, 401, reason, INVALID_SECONDS)
