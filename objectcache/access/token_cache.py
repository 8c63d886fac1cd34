"""What a worker knows of tokens, so that it need not ask the keeper about each request."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from objectcache.link import Identity, Reviewed

# An answer may already be under way when its pod is forgotten.
_UNDER_WAY_SECONDS: Final = 1.0
_MOST_FORGOTTEN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request with a token that is worth nothing is answered."""

    status: int
    reason: str


class TokenCache:
    """At most so many of tokens that are valid, and a quarter as many of others: a flood of these drops none of those.

    The oldest makes room. Times are monotonic.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._most: Final = most
        self._most_refused: Final = max(1, most // 4)
        # Never the tokens themselves, and no hashes that can be compared with those of another process.
        self._new_hash: Final[Callable[[], blake2b]] = blake2b(key=token_bytes(16), digest_size=16).copy
        self._known: Final[dict[bytes, tuple[float, Identity]]] = {}
        self._refused: Final[dict[bytes, tuple[float, Refusal]]] = {}
        self._by_pod: Final[dict[str, set[bytes]]] = {}
        self._forgotten: Final[dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._refused)

    def find(self, token: bytes, now: float) -> Identity | Refusal | None:
        """None if the keeper must be asked."""
        digest = self._new_hash()
        digest.update(token)
        key = digest.digest()
        found = self._known.get(key)
        if found is not None:
            if now < found[0]:
                return found[1]
            self._drop(key)
            return None
        refused = self._refused.get(key)
        if refused is None:
            return None
        if now < refused[0]:
            return refused[1]
        del self._refused[key]
        return None

    def put(self, token: bytes, reviewed: Reviewed, now: float) -> None:
        digest = self._new_hash()
        digest.update(token)
        key = digest.digest()
        # Whatever is new is also the youngest.
        self._drop(key)
        self._refused.pop(key, None)
        if reviewed.lasts_seconds <= 0:
            return
        until = now + reviewed.lasts_seconds
        if reviewed.identity is None:
            self._refused[key] = (until, Refusal(reviewed.status, reviewed.reason))
            if len(self._refused) > self._most_refused:
                del self._refused[next(iter(self._refused))]
            return
        pod = reviewed.identity.pod_uid
        if pod:
            if now < self._forgotten.get(pod, 0.0):
                return
            self._by_pod.setdefault(pod, set()).add(key)
        self._known[key] = (until, reviewed.identity)
        if len(self._known) > self._most:
            self._drop(next(iter(self._known)))

    def forget(self, pod_uid: str, now: float) -> None:
        """Nothing of this pod is known any more, nor is an answer taken that may be older than this."""
        for key in self._by_pod.pop(pod_uid, ()):
            del self._known[key]
        self._forgotten.pop(pod_uid, None)
        self._forgotten[pod_uid] = now + _UNDER_WAY_SECONDS
        if len(self._forgotten) > _MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def clear(self) -> None:
        """The keeper is another: what it was told to forget meanwhile is not known here."""
        self._known.clear()
        self._refused.clear()
        self._by_pod.clear()

    def _drop(self, key: bytes) -> None:
        found = self._known.pop(key, None)
        if found is None:
            return
        pod = found[1].pod_uid
        keys = self._by_pod.get(pod)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._by_pod[pod]
