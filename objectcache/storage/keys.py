"""By which number an object is found in the index."""

import hashlib
from collections.abc import Iterable
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int]

SECRET_BYTES: Final = 32

_KEY_BYTES: Final = 16
# Enough for any cluster; names of buckets may come from clients.
_MOST_PREPARED: Final = 2**14
_KEY: Final = Struct("<QQ")


class KeyMaker:
    """Keys of one cache; prepares what all names of a bucket have in common.

    Args:
        secret: Known to the cache alone. Names come from users, and whoever could compute keys could look for two names
            of one key: a read of one would answer with the other.

    Raises:
        ValueError: The secret is not of SECRET_BYTES.
    """

    __slots__ = ("_prepared", "_secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret of a cache's keys has {len(secret)} bytes instead of {SECRET_BYTES}")
        self._secret = secret
        self._prepared: dict[str, hashlib.blake2b] = {}

    def __repr__(self) -> str:
        return "KeyMaker()"

    def key(self, bucket: str, name: bytes) -> Key:
        """The key of an object; its first number is never 0, which marks free slots of the index."""
        prepared = self._prepared.get(bucket)
        if prepared is None:
            prepared = self._prepare(bucket)
        hashing = prepared.copy()
        hashing.update(name)
        high, low = _KEY.unpack(hashing.digest())
        return high or 1, low

    def keys(self, objects: Iterable[tuple[str, bytes]]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The keys of many objects, by bucket and name: their first numbers, and their second ones."""
        digests: list[bytes] = []
        for bucket, name in objects:
            hashing = (self._prepared.get(bucket) or self._prepare(bucket)).copy()
            hashing.update(name)
            digests.append(hashing.digest())
        halves = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        return np.maximum(halves[:, 0], np.uint64(1)), halves[:, 1].copy()

    def _prepare(self, bucket: str) -> hashlib.blake2b:
        # A null ends the bucket: no name has one, so that "a" with "b/c" is never "ab" with "/c".
        prepared = hashlib.blake2b(bucket.encode() + b"\0", digest_size=_KEY_BYTES, key=self._secret)
        if len(self._prepared) >= _MOST_PREPARED:
            self._prepared.clear()
        self._prepared[bucket] = prepared
        return prepared


def object_key(secret: bytes, bucket: str, name: bytes) -> Key:
    """The key of a single object; of many, `KeyMaker` is the faster."""
    return KeyMaker(secret).key(bucket, name)
