"""What the keeper calls; read `Store`."""

from collections.abc import Callable, Sequence
from typing import Final

from objectcache.link import BucketRules, Reserve, TakeIds, Writable
from objectcache.room.order import Order, S3Fifo
from objectcache.storage.index import SUSPECT, IndexWriter
from objectcache.store.answering import Answering
from objectcache.store.asking import Answer, Asked, Stretch, Unverified
from objectcache.store.evicting import Evicting, Limits
from objectcache.store.granted import IDS_AT_ONCE
from objectcache.store.kept import Disk, Kept
from objectcache.store.ruled import Ruled
from objectcache.store.upkeep import Upkeep
from objectcache.store.view import View, viewed

# One transaction takes no more, so that an index that is nearly due for a rebuild cannot overflow in one.
_MOST_AT_ONCE: Final = 200
# What `note` keeps begins with it in the catalogue.
_NOTE: Final = "note."


class Store:
    """Synchronous, of one thread. If `generation` moved in a call, workers get `index` before anything is answered.

    What was answered is kept, whatever happens; `Kept` says how.

    Attributes:
        view: As of the last `tick`.
    """

    def __init__(self, disk: Disk, limits: Limits, order: Callable[[], Order] = S3Fifo) -> None:
        self._kept: Final = Kept(disk)
        self._ruled: Final = Ruled()
        self._evicting: Final = Evicting(self._kept, self._ruled, limits, order)
        self._answering: Final = Answering(self._kept, self._ruled, self._evicting)
        self._upkeep: Final = Upkeep(self._kept, self._ruled, self._evicting)
        self.view = self.look()

    @property
    def index(self) -> IndexWriter:
        """The one that counts."""
        return self._kept.index

    @property
    def generation(self) -> int:
        """How often there was a new index."""
        return self._kept.generation

    @property
    def damaged(self) -> int:
        """How many objects were found damaged."""
        return self._kept.damaged

    @property
    def writable(self) -> Writable:
        return self._kept.condition.writable

    def look(self) -> View:
        """As of now: whoever has just put sees it. O(buckets)."""
        return viewed(self._kept, self._ruled, self._evicting)

    def number_of(self, bucket: str) -> int:
        """For BucketRules; never another bucket's.

        Raises:
            CatalogueError: The disk does not take a new one.
        """
        return self._kept.catalogue.number_of(bucket)

    def set_rules(self, rules: Sequence[BucketRules], now: int, *, complete: bool = True) -> None:
        """Quotas and shares of now; what exceeds them goes in `tick`, or when others need it.

        Args:
            rules: Of all buckets that are known.
            now: Seconds since 1970.
            complete: Whether a bucket that is absent is gone; false until the rules were read from all their sources.
                What lies in it stays meanwhile, however long.

        Raises:
            CatalogueError: The names of buckets cannot be read.
        """
        self._ruled.set(rules, self._kept.catalogue.buckets(), now, complete=complete)

    def handle(self, batch: Sequence[Asked], now: int) -> list[Answer | None]:
        """Do what was asked, in order; an answer, or None where none is due, for each.

        Args:
            batch: In the order of arrival.
            now: Seconds since 1970.
        """
        answers: list[Answer | None] = []
        for first in range(0, len(batch), _MOST_AT_ONCE):
            answers += self._handle_part(batch[first : first + _MOST_AT_ONCE], now)
        return answers

    def _handle_part(self, part: Sequence[Asked], now: int) -> list[Answer | None]:
        self._evicting.measure(now)
        self._kept.rebuild_if_due()
        if not self._kept.condition.takes_changes:
            return [self._answering.without_disk(each) for each in part]
        done: list[Answer | None] = []
        fresh = sum(map(_fresh_ids, part))
        error = self._kept.transaction(lambda: done.extend(self._answering.answer(each, now) for each in part), fresh)
        return done if error is None else [self._answering.without_disk(each) for each in part]

    def worker_ended(self, worker: int) -> None:
        """What it had reserved is free again, and what it had begun to write is gone."""
        for object_id in self._kept.accounts.reserved_by(worker):
            self._kept.release(object_id)
        for object_id in self._kept.granted.of(worker):
            self._kept.granted.take(worker, object_id)
            self._kept.release(object_id)

    def took_index(self) -> None:
        """All workers have the new index: the old one's memory is given back."""
        self._kept.took_index()

    def tick(self, now: int) -> bool:
        """A step of what nobody waits for, some milliseconds; whether there is more to do at once."""
        self._evicting.measure(now)
        more = self._upkeep.step(now)
        if self._kept.condition.is_ok:
            self._kept.rebuild_if_due()
        self.view = self.look()
        return more

    def stretch(self, after_id: int, limit: int) -> Stretch:
        """The next objects behind this id, to have their content verified; `handle` takes what was found.

        Raises:
            CatalogueError: They cannot be read.
        """
        rows = self._kept.catalogue.stretch(after_id, limit)
        names = {number: name for name, number in self._kept.catalogue.buckets().items()}
        objects = tuple(
            Unverified(object_id, names[bucket], name, size, checksum, bool(flags & SUSPECT))
            for object_id, bucket, name, size, checksum, flags in rows
        )
        return Stretch(objects, rows[-1][0] if rows else after_id, is_last=len(rows) < limit)

    def note(self, name: str, number: int) -> None:
        """Remember a number of the caller's for the next start.

        Raises:
            CatalogueError: The disk does not take it.
        """
        self._kept.catalogue.set_note(_NOTE + name, number)

    def noted(self, name: str) -> int:
        """What was noted by this name; 0 if nothing was.

        Raises:
            CatalogueError: It cannot be read.
        """
        return self._kept.catalogue.note(_NOTE + name)

    def close(self, *, clean: bool) -> None:
        """Nobody asks any more.

        Args:
            clean: Whether the next start may trust what is here; false if the disk was in trouble, whatever is given.

        Raises:
            CatalogueError: It could not be closed cleanly.
            OSError: The content of objects may not outlive a loss of power.
        """
        self._kept.close(clean=clean)


def _fresh_ids(asked: Asked) -> int:
    """How many it may be given."""
    match asked.message:
        case Reserve(object_id=0):
            return 1
        case TakeIds():
            return IDS_AT_ONCE
    return 0
