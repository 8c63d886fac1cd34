"""What a store is asked, and what it answers."""

from dataclasses import dataclass

from objectcache.link import (
    Abandon,
    Commit,
    Damaged,
    Done,
    Granted,
    List,
    Listed,
    Refused,
    Remove,
    Reserve,
    Sound,
    TakeIds,
)

Message = Reserve | TakeIds | Commit | Abandon | Remove | List | Damaged | Sound
Answer = Done | Granted | Refused | Listed


@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker said; `worker` is the keeper's number for it, never another's later."""

    worker: int
    message: Message


@dataclass(frozen=True, slots=True)
class Unverified:
    """An object whose content may be compared with its checksum.

    Attributes:
        suspect: Whether nobody is to be served it before.
    """

    object_id: int
    bucket: str
    name: bytes
    size_bytes: int
    checksum: bytes
    suspect: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Objects by ascending id, which is about as they were put.

    Attributes:
        upto_id: The next stretch begins behind it.
        is_last: Whether nothing lies behind.
    """

    objects: tuple[Unverified, ...]
    upto_id: int
    is_last: bool
