"""What a store does that nobody waits for, a step of some milliseconds at a time; read `Upkeep.step`."""

import os
from collections.abc import Callable
from typing import Final

from objectcache.storage.catalogue import CatalogueError
from objectcache.storage.files import create_incoming
from objectcache.store.evicting import Evicting
from objectcache.store.kept import Kept
from objectcache.store.ruled import Ruled

_WALKED_AT_ONCE: Final = 500
# A walk over all objects that notes when they were read begins no sooner after the one before.
_WALK_SECONDS: Final = 600
_PROBE: Final = b"\0" * 4096


class Upkeep:
    """Recovers the disk, evicts ahead of need, and notes when objects were read."""

    def __init__(self, kept: Kept, ruled: Ruled, evicting: Evicting) -> None:
        self._kept: Final = kept
        self._ruled: Final = ruled
        self._evicting: Final = evicting
        # The walk that notes accesses: bucket's number and id behind which it goes on, when it and the last one began.
        self._walk = (0, 0)
        self._walk_began = 0
        self._walked_since = 0

    def step(self, now: int) -> bool:
        """Whether there is more to do at once."""
        if not self._kept.condition.is_ok:
            self._recover(now)
        if not (self._kept.condition.is_ok and self._has_names()):
            return False
        self._kept.sweep()
        return self._tried(lambda: self._evicting.step(now) | self._note_accesses(now))

    def _has_names(self) -> bool:
        """Objects may have to go before any rules are read, and are found by the names of their buckets."""
        if not self._ruled.names:
            return self._tried(self._learn_names)
        return True

    def _learn_names(self) -> bool:
        self._ruled.learn(self._kept.catalogue.buckets())
        return True

    def _tried(self, work: Callable[[], bool]) -> bool:
        """False if the catalogue cannot be read."""
        try:
            return work()
        except CatalogueError as error:
            self._kept.condition.note(error)
            return False

    def _note_accesses(self, now: int) -> bool:
        """Lets when objects were read outlive this process, to some ten minutes."""
        kept = self._kept
        if not self._walk_began:
            self._walk_began = self._walked_since = now
        if self._walk == (0, 0):
            if now - self._walk_began < _WALK_SECONDS:
                return False
            self._walked_since, self._walk_began = self._walk_began, now
        behind, after_id = self._walk
        number = next((each for each in kept.accounts.all() if each >= behind), None)
        if number is None:
            self._walk = (0, 0)
            return False
        rows = kept.catalogue.candidates(number, after_id if number == behind else 0, _WALKED_AT_ONCE)
        bucket = self._ruled.names[number]
        times = [(kept.accessed(kept.keys.key(bucket, name)), each) for each, name, *_ in rows]
        read = [(seconds, each) for seconds, each in times if seconds >= self._walked_since]
        if read and kept.transaction(lambda: kept.catalogue.set_accessed(read)) is not None:
            return False
        self._walk = (number, rows[-1][0]) if len(rows) == _WALKED_AT_ONCE else (number + 1, 0)
        return True

    def _recover(self, now: int) -> None:
        """Whether the disk takes objects again, found out by writing to it."""
        kept = self._kept
        try:
            # What went before may be room enough; if not even its rows can go, more has to.
            if kept.condition.state == "full" and self._learn_names() and not kept.settle():
                self._evicting.make_emergency_room(now)
            self._probe()
        except (OSError, CatalogueError) as error:
            kept.condition.note(error)
        else:
            kept.condition.recovered()

    def _probe(self) -> None:
        """Write to the catalogue and to a file.

        Raises:
            CatalogueError: Or OSError: the disk does not take it.
        """
        folder = self._kept.folder
        (object_id,) = self._kept.catalogue.take_ids(1)
        fd = create_incoming(folder.incoming_fd, object_id, len(_PROBE))
        try:
            os.write(fd, _PROBE)
            os.fsync(fd)
        finally:
            os.close(fd)
            folder.remove_incoming(object_id)
