"""What the keeper and its workers say to one another, over one socket a worker.

Workers answer requests and write files; the keeper alone changes what is kept. A ticket is the asker's own number, and
comes back with the answer.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

# Beyond any frame: the rules of ten thousand buckets with ten namespaces each are some 10 MiB.
MOST_FRAME_BYTES: Final = 64 * 2**20
LENGTH_BYTES: Final = 4


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Whom a token names.

    Attributes:
        pod_uid: Empty for a token that is bound to no pod.
    """

    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""


class BucketRules(msgspec.Struct, frozen=True, array_like=True):
    """Who may do what with one bucket.

    Attributes:
        number: The bucket's in the store and in the index; never another bucket's.
        quota_bytes: What it may hold on this node, and so the largest object.
        pinned_bytes: How much of that may be pinned.
        weight: Of its share where buckets compete.
        readers: Namespaces; None for every one.
        writers: As `readers`.
    """

    name: str
    number: int
    quota_bytes: int
    pinned_bytes: int
    weight: float
    readers: frozenset[str] | None
    writers: frozenset[str] | None


# From workers.


class Review(msgspec.Struct, frozen=True, tag=True, array_like=True):
    ticket: int
    token: str


class Reserve(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask for room before a body is read.

    Attributes:
        size_bytes: Of the body; of one in chunks, what was received so far and is about to be.
        object_id: Of an earlier reservation that is to become larger; 0 for a new one.
    """

    ticket: int
    bucket: str
    size_bytes: int
    pinned: bool = False
    object_id: int = 0


class TakeIds(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask for ids of objects to come, which need no reservation; the answer is a Granted.

    Attributes:
        unused: Ids that were granted and are given back.
    """

    ticket: int
    unused: tuple[int, ...] = ()


class Commit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Its file lies in `incoming`, whole; the keeper moves it to its place.

    Attributes:
        object_id: Reserved, or granted: then room is found now, and 507 is answered if there is none.
        checksum: XXH3-128 of the content, 16 bytes, big-endian.
        if_absent: Refuse with 412 if there is such an object (`If-None-Match: *`).
        if_match: Refuse with 412 unless there is one with such a checksum; empty for no condition.
    """

    ticket: int
    object_id: int
    bucket: str
    name: bytes
    size_bytes: int
    checksum: bytes
    pinned: bool = False
    if_absent: bool = False
    if_match: tuple[bytes, ...] = ()


class Abandon(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give a reservation or a granted id back, for nobody to use; the worker has removed its file.

    Attributes:
        error_number: Of the OSError for which the file could not be written; 0 if there was none.
    """

    object_id: int
    error_number: int = 0


class Remove(msgspec.Struct, frozen=True, tag=True, array_like=True):
    ticket: int
    bucket: str
    name: bytes
    if_match: tuple[bytes, ...] = ()


class List(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Objects of a bucket whose names begin with `prefix` and come after `after`, bytewise."""

    ticket: int
    bucket: str
    prefix: bytes
    after: bytes
    limit: int


class Sum(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How much lies in some buckets."""

    ticket: int
    buckets: tuple[str, ...]


class Damaged(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An object's file is not what the catalogue says: gone, short, unreadable, or of another checksum."""

    object_id: int
    bucket: str
    name: bytes
    reason: str


class Sound(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A suspect object's content has its checksum."""

    object_id: int
    bucket: str
    name: bytes


# From the keeper.


class Reviewed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a token is worth.

    Attributes:
        identity: None if it is worth nothing.
        status: Of the answer to the client without an identity: 401, or 503 if nobody could say.
        reason: For the client, without an identity.
        lasts_seconds: For how long that holds.
    """

    ticket: int
    identity: Identity | None
    status: int
    reason: str
    lasts_seconds: float


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Granted, kept, or removed.

    Attributes:
        object_id: That was reserved or committed; 0 otherwise.
        replaced: Whether there was such an object before.
    """

    ticket: int
    object_id: int = 0
    replaced: bool = False


class Granted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ids that are the worker's alone, until it ends."""

    ticket: int
    ids: tuple[int, ...]


class Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    ticket: int
    status: int
    reason: str


class Listed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A page of a bucket.

    Attributes:
        objects: Name, bytes, checksum, when it was put (seconds since 1970).
        more: Whether others follow.
    """

    ticket: int
    objects: tuple[tuple[bytes, int, bytes, int], ...]
    more: bool


class Summed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What was asked for by `Sum`: bucket, bytes, objects, pinned bytes; sorted."""

    ticket: int
    buckets: tuple[tuple[str, int, int, int], ...]


class Rules(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All buckets, whenever one changed.

    Attributes:
        rows: What `of` was given; readers and writers are there as indices into `namespaces`.
        namespaces: Each set once: thousands of buckets may be for the same thousands of namespaces.
    """

    rows: tuple[tuple[str, int, int, int, float, int | None, int | None], ...]
    namespaces: tuple[frozenset[str], ...] = ()

    @classmethod
    def of(cls, buckets: Iterable[BucketRules]) -> "Rules":
        numbers: dict[frozenset[str], int] = {}

        def number(namespaces: frozenset[str] | None) -> int | None:
            return None if namespaces is None else numbers.setdefault(namespaces, len(numbers))

        rows = tuple(
            (each.name, each.number, each.quota_bytes, each.pinned_bytes, each.weight, number(each.readers),
             number(each.writers))
            for each in buckets
        )  # fmt: skip
        return cls(rows, tuple(numbers))

    @property
    def buckets(self) -> tuple[BucketRules, ...]:
        def chosen(number: int | None) -> frozenset[str] | None:
            return None if number is None else self.namespaces[number]

        return tuple(BucketRules(*row[:5], chosen(row[5]), chosen(row[6])) for row in self.rows)


class Forget(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Tokens of this pod are worth nothing any more."""

    pod_uid: str


class Writable(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Whether the disk takes new objects; if not, PUT is answered with this status and reason."""

    status: int = 0
    reason: str = ""


class NewIndex(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The index is another piece of memory from now on, whose descriptor comes with this frame; to be answered."""

    ticket: int


class Drain(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer with `Connection: close` from now on, and end.

    Attributes:
        accepting_seconds: New connections are taken for so long.
        finishing_seconds: After that, requests in flight may take so long.
    """

    accepting_seconds: float
    finishing_seconds: float


class TookIndex(msgspec.Struct, frozen=True, tag=True, array_like=True):
    ticket: int


class Times(msgspec.Struct, frozen=True, array_like=True):
    """How long a client may take.

    Attributes:
        head_seconds: From a request's first byte to its head's last, and from a connection's beginning to that.
        idle_seconds: Between two requests. Longer than Envoy and pfio keep a connection, so that it is never we who
            close one that they are about to use.
        progress_seconds: For a body or an answer to move at all.
        least_bytes_per_second: Of a body or an answer as a whole, while it is the client that is waited for.
        patience_seconds: Before it is held to that rate.
        linger_seconds: For a client to notice a refusal before the connection is closed.
    """

    head_seconds: float = 10.0
    idle_seconds: float = 3_900.0
    progress_seconds: float = 30.0
    least_bytes_per_second: int = 32 * 2**10
    patience_seconds: float = 60.0
    linger_seconds: float = 2.0


class Setup(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a worker is to do; its first message, and the only one of its kind.

    Attributes:
        number: Of the worker, from 0; its row of the counters.
        secret: What object names are hashed with.
        fsync: never | data | full, of files before they are committed.
        bytes_per_second: At most, of all it sends; 0 for as many as it can.
    """

    number: int
    data_dir: str
    secret: bytes
    fsync: str
    most_connections: int
    bytes_per_second: int
    times: Times = Times()


FromWorker = Review | Reserve | TakeIds | Commit | Abandon | Remove | List | Sum | Damaged | Sound | TookIndex
FromKeeper = (
    Setup | Reviewed | Done | Granted | Refused | Listed | Summed | Rules | Forget | Writable | NewIndex | Drain
)


class LinkError(Exception):
    """The other side does not speak this language."""


class Frames:
    """Cuts what is received into messages of one kind."""

    def __init__(self, kind: object) -> None:
        self._decoder: Final = msgspec.msgpack.Decoder(kind)
        self._rest = bytearray()
        # Of the frame that `_rest` begins with; until so much has come, nothing is looked at again.
        self._wanted = LENGTH_BYTES

    def feed(self, received: bytes) -> "list[FromWorker | FromKeeper]":
        """The messages that are whole now.

        Raises:
            LinkError: A frame is too large or is no message.
        """
        buffer: bytes | bytearray = received
        if self._rest:
            self._rest += received
            if len(self._rest) < self._wanted:
                return []
            buffer, self._rest = self._rest, bytearray()
        self._wanted = LENGTH_BYTES
        found: list[FromWorker | FromKeeper] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            size = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if size > MOST_FRAME_BYTES:
                raise LinkError(f"a frame of {size} bytes; at most {MOST_FRAME_BYTES} are read")
            end = start + LENGTH_BYTES + size
            if end > len(buffer):
                self._wanted = LENGTH_BYTES + size
                break
            try:
                found.append(self._decoder.decode(memoryview(buffer)[start + LENGTH_BYTES : end]))
            except msgspec.MsgspecError as error:
                raise LinkError(f"a frame is no message: {error}") from error
            start = end
        self._rest += memoryview(buffer)[start:]
        return found


_encoder: Final = msgspec.msgpack.Encoder()


def frame(message: FromWorker | FromKeeper) -> bytes:
    packed = _encoder.encode(message)
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed
