"""The verdicts that are known, found by their tokens' hashes and by their pods.

While a pod's end is not known here, its tokens last as long as their verdicts do. A pod's name comes again with another
uid (StatefulSet), and a review may be ahead of the watch of pods or behind it: dropping a verdict too many costs one
review, so whatever does not fit is dropped.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes
from typing import Final, TypeVar

from objectcache.link import Identity
from tasuki.kube.collection import ObjectName

T = TypeVar("T")

# Of pods; what is forgotten of them only makes a verdict last its full time.
_MOST_PODS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """A verdict of the API server. Times are monotonic.

    Attributes:
        identity: None if the token is worth nothing.
        reason: Why not.
        fresh_until: It needs no review before then.
        known_until: It stands so long if there can be no review.
    """

    identity: Identity | None
    reason: str
    fresh_until: float
    known_until: float


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod that has not ended.

    Attributes:
        is_ending: Whether it is asked to end; its tokens are valid until it has.
    """

    uid: str
    is_ending: bool = False


class Verdicts:
    """At most so many of tokens that are valid, and a quarter as many of others: a flood of these drops none of those.

    What was not asked for the longest makes room.
    """

    def __init__(self, most: int = 20_000) -> None:
        # Not even the hashes of tokens can be compared with those of another process.
        self._secret: Final = token_bytes(32)
        self._most: Final = most
        self._most_invalid: Final = max(1, most // 4)
        self._valid: Final[OrderedDict[bytes, Known]] = OrderedDict()
        self._invalid: Final[OrderedDict[bytes, Known]] = OrderedDict()
        self._by_pod: Final[dict[ObjectName, set[bytes]]] = {}
        # Deleted and not seen again since: the API server accepts their tokens for up to a minute more
        # (kubernetes, pkg/serviceaccount/claims.go), and what it says then must not be kept.
        self._deleted: Final[OrderedDict[ObjectName, None]] = OrderedDict()
        self._ending: Final[OrderedDict[str, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._valid) + len(self._invalid)

    def key_of(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._secret, digest_size=32).digest()

    def find(self, key: bytes) -> Known | None:
        for known in (self._valid, self._invalid):
            if key in known:
                known.move_to_end(key)
                return known[key]
        return None

    def keep(self, key: bytes, known: Known) -> bool:
        """False if it must not be kept, as the pod is deleted already."""
        self._drop(key)
        if known.identity is None:
            self._invalid[key] = known
            if len(self._invalid) > self._most_invalid:
                self._invalid.popitem(last=False)
            return True
        pod = _pod_of(known.identity)
        if pod in self._deleted:
            return False
        self._valid[key] = known
        if pod is not None:
            self._by_pod.setdefault(pod, set()).add(key)
        if len(self._valid) > self._most:
            self._drop(next(iter(self._valid)))
        return True

    def pods_listed(self, pods: Mapping[ObjectName, SeenPod]) -> tuple[str, ...]:
        """These there are, and no others; as the other two, answers the uids of which something was dropped, sorted."""
        for name in [name for name in self._deleted if name in pods]:
            del self._deleted[name]
        dropped: set[str] = set()
        for name in list(self._by_pod):
            dropped.update(self.pod_seen(name, pods[name]) if name in pods else self._drop_pod(name))
        return tuple(sorted(dropped))

    def pod_seen(self, name: ObjectName, pod: SeenPod) -> tuple[str, ...]:
        self._deleted.pop(name, None)
        if name not in self._by_pod:
            return ()
        dropped = self._drop_pod(name, unless=pod.uid)
        if pod.is_ending and pod.uid not in self._ending:
            # Once: until it has ended, the API server decides.
            _remember(self._ending, pod.uid)
            dropped += self._drop_pod(name)
        return dropped

    def pod_deleted(self, name: ObjectName) -> tuple[str, ...]:
        _remember(self._deleted, name)
        return self._drop_pod(name)

    def _drop_pod(self, name: ObjectName, unless: str | None = None) -> tuple[str, ...]:
        """Drop what is known of pods of this name, but of the one with the uid `unless`."""
        found = [(key, self._uid(key)) for key in self._by_pod.get(name, ())]
        gone = [(key, uid) for key, uid in found if uid != unless]
        for key, _ in gone:
            self._drop(key)
        return tuple(sorted({uid for _, uid in gone}))

    def _uid(self, key: bytes) -> str:
        identity = self._valid[key].identity
        assert identity is not None
        return identity.pod_uid

    def _drop(self, key: bytes) -> None:
        self._invalid.pop(key, None)
        known = self._valid.pop(key, None)
        pod = _pod_of(known.identity) if known is not None and known.identity is not None else None
        if pod is not None:
            keys = self._by_pod[pod]
            keys.discard(key)
            if not keys:
                del self._by_pod[pod]


def _pod_of(identity: Identity) -> ObjectName | None:
    return ObjectName(identity.namespace, identity.pod_name) if identity.pod_uid else None


def _remember(them: OrderedDict[T, None], one: T) -> None:
    them[one] = None
    if len(them) > _MOST_PODS:
        them.popitem(last=False)
