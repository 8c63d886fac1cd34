"""A store does what a few dictionaries say, also when it is killed and started again."""

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from objectcache.link import BucketRules, Commit, Done, Granted, Refused, Remove, Reserve, TakeIds
from objectcache.room.victims import Holding, shares
from objectcache.store import Asked, Limits
from tests.objectcache.test_store import NOW, Cache, commit

BUCKETS: Final = ("a", "b", "c")
CAPACITY: Final = 400
NAMES: Final = st.sampled_from([b"1", b"2", b"3", b"4", b"5", b"6"])
IN: Final = st.sampled_from(BUCKETS)
Name = tuple[str, bytes]


class Model(RuleBasedStateMachine):
    """What was answered, less what the store says that it has let go."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.kept: dict[Name, bytes] = {}
        self.pinned: set[Name] = set()
        self.reserved: dict[int, tuple[str, int]] = {}
        self.serial = 0
        self.quotas = dict.fromkeys(BUCKETS, 300)
        self.now = NOW
        self.open()

    def open(self) -> None:
        self.cache = Cache(Path(self.folder.name, "cache"), Limits(CAPACITY))
        self.cache.now = self.now
        self.spare: list[int] = []
        self.set_rules()

    def set_rules(self) -> None:
        weights = {"a": 1.0, "b": 2.0, "c": 1.0}
        self.cache.set_rules(
            [
                BucketRules(name, self.cache.store.number_of(name), quota, 60, weights[name], None, None)
                for name, quota in self.quotas.items()
            ]
        )

    def there(self) -> dict[Name, bytes]:
        found = {}
        for bucket, name in self.kept:
            entry = self.cache.store._kept.find(self.cache.store._kept.keys.key(bucket, name))
            if entry is not None:
                place = self.cache.path / "data" / f"{entry.object_id >> 8 & 0xFFF:03x}" / f"{entry.object_id:016x}"
                found[bucket, name] = place.read_bytes()
        return found

    def vanished(self, before: int) -> set[Name]:
        """What went since `before` evictions were counted: as many as the store says, and none that is pinned."""
        there = self.there()
        gone = self.kept.keys() - there.keys()
        assert len(gone) == sum(self.cache.store._evicting.evicted.values()) - before
        assert not {each for each in gone & self.pinned if each[0] in self.quotas}
        assert there == {each: content for each, content in self.kept.items() if each not in gone}
        for each in gone:
            del self.kept[each]
            self.pinned.discard(each)
        return gone

    @rule(bucket=IN, name=NAMES, size=st.integers(0, 150), pinned=st.booleans(), absent=st.booleans())
    def put(self, bucket: str, name: bytes, size: int, *, pinned: bool, absent: bool) -> None:
        store = self.cache.store
        evicted = sum(store._evicting.evicted.values())
        holdings = store._evicting.holdings()
        reserved = self.cache.ask(Reserve(1, bucket, size, pinned))
        lost = self.vanished(evicted)
        if not isinstance(reserved, Done):
            assert isinstance(reserved, Refused)
            assert reserved.status in {403, 413, 507}
            return
        number = store.number_of(bucket)
        asking = holdings.get(number, Holding(bucket, 0, 0, 0, self.quotas[bucket], 1.0))
        weight = store._ruled.holding(number, store._kept.accounts.of(number)).weight
        wanted = {**holdings, number: replace(asking, reserved_bytes=asking.reserved_bytes + size, weight=weight)}
        entitled = shares(wanted, CAPACITY)
        for other in {each for each, _ in lost} - {bucket}:
            assert holdings[store.number_of(other)].used_bytes > entitled[store.number_of(other)]
        self.serial += 1
        content = (b"%d " % self.serial * (size + 1))[:size]
        self.cache.write(reserved.object_id, content)
        asked = commit(reserved.object_id, name, content, bucket, pinned=pinned)
        asked = Commit(1, asked.object_id, bucket, name, size, asked.checksum, pinned, absent)
        answer = self.cache.ask(asked)
        if absent and (bucket, name) in self.kept:
            assert isinstance(answer, Refused)
            assert answer.status == 412
            return
        assert answer == Done(1, reserved.object_id, replaced=(bucket, name) in self.kept)
        self.kept[bucket, name] = content
        (self.pinned.add if pinned else self.pinned.discard)((bucket, name))

    @rule(bucket=IN, name=NAMES, size=st.integers(0, 150), absent=st.booleans())
    def put_ahead(self, bucket: str, name: bytes, size: int, *, absent: bool) -> None:
        evicted = sum(self.cache.store._evicting.evicted.values())
        if not self.spare:
            granted = self.cache.ask(TakeIds(1))
            assert isinstance(granted, Granted)
            self.spare += granted.ids
        object_id = self.spare.pop()
        self.serial += 1
        content = (b"%d " % self.serial * (size + 1))[:size]
        self.cache.write(object_id, content)
        asked = commit(object_id, name, content, bucket)
        answer = self.cache.ask(Commit(1, object_id, bucket, name, size, asked.checksum, False, absent))
        if not isinstance(answer, Done):
            assert isinstance(answer, Refused)
            assert answer.status in ({403, 412, 413, 507} if absent else {403, 413, 507})
            self.vanished(evicted)
            return
        before = self.kept.pop((bucket, name), None)
        assert before is not None or not answer.replaced
        # Room may have been made by the very object that was to be replaced.
        self.vanished(evicted + (before is not None and not answer.replaced))
        self.kept[bucket, name] = content
        self.pinned.discard((bucket, name))

    @rule(bucket=IN, size=st.integers(0, 100))
    def reserve(self, bucket: str, size: int) -> None:
        evicted = sum(self.cache.store._evicting.evicted.values())
        answer = self.cache.ask(Reserve(1, bucket, size))
        self.vanished(evicted)
        if isinstance(answer, Done):
            self.cache.write(answer.object_id, b"half")

    @rule()
    def end_the_worker(self) -> None:
        self.cache.store.worker_ended(1)
        self.spare.clear()

    @rule(bucket=IN, name=NAMES)
    def remove(self, bucket: str, name: bytes) -> None:
        answer = self.cache.ask(Remove(1, bucket, name))

        if bucket not in self.quotas:
            assert isinstance(answer, Refused)
        elif self.kept.pop((bucket, name), None) is None:
            assert isinstance(answer, Refused)
            assert answer.status == 404
        else:
            assert answer == Done(1, replaced=True)
            self.pinned.discard((bucket, name))

    @rule(bucket=IN, name=NAMES)
    def read(self, bucket: str, name: bytes) -> None:
        self.cache.now = self.now
        assert self.cache.get(name, bucket) == self.kept.get((bucket, name))

    @rule(names=st.lists(st.tuples(IN, NAMES), max_size=4))
    def remove_many_in_one_batch(self, names: list[Name]) -> None:
        answers = self.cache.store.handle([Asked(1, Remove(1, *each)) for each in names], self.now)

        for each, answer in zip(names, answers, strict=True):
            assert isinstance(answer, Done) == (each[0] in self.quotas and self.kept.pop(each, None) is not None)

    @rule(bucket=IN, quota=st.integers(0, 300))
    def change_a_quota(self, bucket: str, quota: int) -> None:
        self.quotas[bucket] = quota
        self.set_rules()

    @rule(bucket=IN)
    def forget_a_bucket(self, bucket: str) -> None:
        self.quotas.pop(bucket, None)
        self.set_rules()

    @rule(seconds=st.integers(0, 700))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.cache.now = self.now
        evicted = sum(self.cache.store._evicting.evicted.values())
        while self.cache.store.tick(self.now):
            pass
        self.vanished(evicted)
        for name, quota in self.quotas.items():
            account = self.cache.store._kept.accounts.of(self.cache.store.number_of(name))
            stuck = account.pinned_bytes + account.reserved_bytes
            assert account.used_bytes <= max(quota, stuck)

    @rule()
    def kill(self) -> None:
        self.cache.kill()
        self.open()
        assert self.there() == self.kept

    @rule()
    def close(self) -> None:
        self.cache.store.worker_ended(1)
        self.cache.close()
        self.open()
        assert self.there() == self.kept

    @invariant()
    def accounts_are_what_lies_on_the_disk(self) -> None:
        store = self.cache.store
        accounts = store._kept.accounts.all()
        sizes = {
            number: sum(len(c) for (b, _), c in self.kept.items() if store.number_of(b) == number)
            for number in accounts
        }
        assert {number: each.kept_bytes for number, each in accounts.items()} == sizes
        assert self.cache.files() == sum(sizes.values())
        assert store._kept.accounts.used_bytes == sum(each.used_bytes for each in accounts.values()) <= CAPACITY
        assert len(store.index) == len(self.kept)

    def teardown(self) -> None:
        with suppress(AttributeError):
            self.cache.kill()
            self.folder.cleanup()


TestStoreModel = Model.TestCase
TestStoreModel.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
