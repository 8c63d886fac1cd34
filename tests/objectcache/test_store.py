"""What a store keeps, refuses and lets go, on a real disk."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from objectcache.link import (
    Abandon,
    BucketRules,
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
from objectcache.room.order import Batch, Candidate, Fifo, Order, S3Fifo
from objectcache.storage.catalogue import Catalogue, CatalogueDiskError, CatalogueFullError
from objectcache.storage.files import DataFolder, create_incoming, open_object
from objectcache.storage.index import SUSPECT, IndexReader
from objectcache.storage.keys import KeyMaker
from objectcache.storage.recovery import recover
from objectcache.store import Answer, Asked, Disk, Limits, Message, Store
from objectcache.store.granted import IDS_AT_ONCE

NOW = 1_800_000_000
LIMITS = Limits(capacity_bytes=1000)


class Cache:
    """A store, its folder, and a worker with number 1."""

    def __init__(
        self, path: Path, limits: Limits = LIMITS, boot: str = "boot", order: Callable[[], Order] = S3Fifo
    ) -> None:
        self.path = path
        self.folder = DataFolder.open(path)
        found = recover(self.folder, boot, NOW, lambda _: None)
        self.catalogue = found.catalogue
        self.report = found.report
        self.store = Store(Disk(self.folder, found.catalogue, found.index, dict(found.usage)), limits, order)
        self.now = NOW

    def rules(self, *, complete: bool = True, **quotas: int) -> None:
        found = [BucketRules(n, self.store.number_of(n), q, q // 2, 1.0, None, None) for n, q in quotas.items()]
        self.set_rules(found, complete=complete)

    def set_rules(self, rules: Sequence[BucketRules], *, complete: bool = True) -> None:
        self.store.set_rules(rules, self.now, complete=complete)

    def ask(self, message: Message, worker: int = 1) -> Answer | None:
        return self.store.handle([Asked(worker, message)], self.now)[0]

    def write(self, object_id: int, content: bytes) -> None:
        fd = create_incoming(self.folder.incoming_fd, object_id, len(content))
        os.write(fd, content)
        os.close(fd)

    def reserve(self, size: int, bucket: str = "bk", *, pinned: bool = False) -> int:
        answer = self.ask(Reserve(1, bucket, size, pinned))
        assert isinstance(answer, Done), answer
        return answer.object_id

    def put(self, name: bytes, content: bytes, bucket: str = "bk", *, pinned: bool = False) -> Answer | None:
        reserved = self.ask(Reserve(1, bucket, len(content), pinned))
        if not isinstance(reserved, Done):
            return reserved
        self.write(reserved.object_id, content)
        return self.ask(commit(reserved.object_id, name, content, bucket, pinned=pinned))

    def get(self, name: bytes, bucket: str = "bk") -> bytes | None:
        """As a worker does."""
        reader = IndexReader.open(self.store.index.fd)
        entry = reader.find(KeyMaker(self.catalogue.header.secret).key(bucket, name))
        if entry is not None:
            reader.touch(entry.slot, self.now)
        reader.close()
        if entry is None:
            return None
        fd = open_object(self.folder.data_fd, entry.object_id)
        content = os.read(fd, 2**20)
        os.close(fd)
        assert len(content) == entry.size
        assert xxhash.xxh3_128_digest(content) == entry.checksum
        return content

    def used(self, bucket: str = "bk") -> tuple[int, int]:
        """Bytes and objects."""
        account = self.store._kept.accounts.of(self.store.number_of(bucket))
        return account.used_bytes, account.objects

    def files(self) -> int:
        """Bytes of all published files."""
        return sum(each.stat().st_size for each in (self.path / "data").glob("*/*"))

    def incoming(self) -> list[str]:
        return sorted(each.name for each in (self.path / "incoming").iterdir())

    def kill(self) -> None:
        """As if the process had ended here."""
        self.catalogue._connection.close()
        self.folder.close()

    def close(self) -> None:
        self.store.close(clean=True)
        self.folder.close()


def commit(object_id: int, name: bytes, content: bytes, bucket: str = "bk", *, pinned: bool = False) -> Commit:
    return Commit(2, object_id, bucket, name, len(content), xxhash.xxh3_128_digest(content), pinned)


def status(answer: Answer | None) -> int:
    return answer.status if isinstance(answer, Refused) else 0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    found = Cache(tmp_path / "cache")
    found.rules(bk=600, other=1000)
    yield found
    with suppress(Exception):
        found.kill()


def test_what_was_put_is_there_with_its_bytes(cache: Cache) -> None:
    answer = cache.put(b"a", b"content")

    assert isinstance(answer, Done)
    assert not answer.replaced
    assert cache.get(b"a") == b"content"
    assert cache.used() == (7, 1)


def test_the_last_commit_wins_while_whoever_reads_keeps_the_file_before(cache: Cache) -> None:
    first = cache.put(b"a", b"before")
    assert isinstance(first, Done)
    fd = open_object(cache.folder.data_fd, first.object_id)

    second = cache.put(b"a", b"after")

    assert isinstance(second, Done)
    assert second.replaced
    assert (cache.get(b"a"), os.read(fd, 99)) == (b"after", b"before")
    assert (cache.used(), cache.files()) == ((5, 1), 5)
    os.close(fd)


def test_two_commits_of_one_name_in_one_batch_leave_the_second(cache: Cache) -> None:
    first, second = cache.reserve(1), cache.reserve(2)
    cache.write(first, b"1")
    cache.write(second, b"22")

    batch = [Asked(1, commit(first, b"a", b"1")), Asked(1, replace_if_absent(commit(second, b"a", b"22")))]
    answers = cache.store.handle(batch, NOW)

    assert [status(each) for each in answers] == [0, 412]
    assert cache.get(b"a") == b"1"
    assert (cache.used(), cache.incoming()) == ((1, 1), [])


def replace_if_absent(each: Commit) -> Commit:
    return Commit(each.ticket, each.object_id, each.bucket, each.name, each.size_bytes, each.checksum, if_absent=True)


def test_if_match_takes_the_checksum_that_is_there(cache: Cache) -> None:
    cache.put(b"a", b"old")
    object_id = cache.reserve(3)
    cache.write(object_id, b"new")

    refused = cache.ask(
        Commit(1, object_id, "bk", b"a", 3, xxhash.xxh3_128_digest(b"new"), if_match=(xxhash.xxh3_128_digest(b"x"),))
    )

    assert status(refused) == 412
    assert (cache.get(b"a"), cache.incoming(), cache.used()) == (b"old", [], (3, 1))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(Reserve(1, "bk", 601), 413, id="larger than the quota"),
        pytest.param(Reserve(1, "gone", 1), 403, id="a bucket in no rules"),
        pytest.param(Reserve(1, "bk", 5, object_id=12345), 503, id="enlarging what was never reserved"),
        pytest.param(Reserve(1, "bk", 301, pinned=True), 507, id="more pinned than may be"),
        pytest.param(Reserve(1, "bk", -1), 400, id="a negative size"),
        pytest.param(Commit(1, 12345, "bk", b"a", 1, b"0" * 16), 503, id="committing what was never reserved"),
        pytest.param(Remove(1, "bk", b"nothing"), 404, id="removing what is not there"),
    ],
)
def test_what_cannot_be_is_refused(cache: Cache, message: Message, expected: int) -> None:
    assert status(cache.ask(message)) == expected
    assert cache.used() == (0, 0)


def test_another_workers_reservation_is_not_for_taking(cache: Cache) -> None:
    object_id = cache.reserve(5)

    assert status(cache.ask(commit(object_id, b"a", b"x"), worker=2)) == 503
    assert cache.ask(Abandon(object_id), worker=2) is None
    assert cache.used() == (5, 0)


def test_a_worker_that_ended_gives_back_what_it_had_reserved(cache: Cache) -> None:
    cache.write(cache.reserve(5), b"begun")

    cache.store.worker_ended(1)

    assert (cache.used(), cache.incoming()) == ((0, 0), [])


def granted(cache: Cache, worker: int = 1) -> tuple[int, ...]:
    answer = cache.ask(TakeIds(1), worker)
    assert isinstance(answer, Granted)
    return answer.ids


def test_what_was_granted_needs_no_reservation(cache: Cache) -> None:
    first, second, *_ = granted(cache)
    cache.write(first, b"content")

    assert cache.ask(commit(first, b"a", b"content")) == Done(2, first)
    assert (cache.get(b"a"), cache.used(), cache.incoming()) == (b"content", (7, 1), [])
    # Only once.
    assert status(cache.ask(commit(first, b"a", b"content"))) == 503
    assert second != first


@pytest.mark.parametrize(
    ("size", "bucket", "pinned", "expected"),
    [
        pytest.param(601, "bk", False, 413, id="larger than the quota"),
        pytest.param(1, "gone", False, 403, id="a bucket in no rules"),
        pytest.param(301, "bk", True, 507, id="more pinned than may be"),
        pytest.param(600, "bk", False, 507, id="others are being put"),
    ],
)
def test_what_there_is_no_room_for_is_refused_with_its_file(
    cache: Cache, size: int, bucket: str, pinned: bool, expected: int
) -> None:
    cache.put(b"kept", b"kept")
    cache.reserve(100)
    object_id, *_ = granted(cache)
    cache.write(object_id, bytes(size))

    assert status(cache.ask(commit(object_id, b"a", bytes(size), bucket, pinned=pinned))) == expected
    assert (cache.get(b"a"), len(cache.incoming()), cache.used()[0]) == (None, 0, 104)
    assert status(cache.ask(commit(object_id, b"a", b""))) == 503


def test_room_for_what_was_granted_is_made_as_for_what_is_reserved(cache: Cache) -> None:
    for each in range(6):
        cache.put(b"%d" % each, bytes(100))
    object_id, *_ = granted(cache)
    cache.write(object_id, bytes(200))

    assert isinstance(cache.ask(commit(object_id, b"new", bytes(200))), Done)
    assert [each for each in range(6) if cache.get(b"%d" % each) is None] == [0, 1]
    assert cache.used() == (600, 5)


def test_what_was_granted_to_a_worker_is_its_alone_until_it_ends(cache: Cache) -> None:
    first, second, *_ = granted(cache)
    cache.write(first, b"begun")

    assert status(cache.ask(commit(first, b"a", b"begun"), worker=2)) == 503
    assert cache.ask(Abandon(first), worker=2) is None
    cache.store.worker_ended(2)
    assert cache.incoming() == [f"{first:016x}"]
    cache.store.worker_ended(1)

    assert cache.incoming() == []
    assert {status(cache.ask(commit(each, b"a", b"begun"))) for each in (first, second)} == {503}


def test_what_was_granted_and_given_back_is_nobodys(cache: Cache) -> None:
    first, second, third, *_ = granted(cache)

    assert cache.ask(Abandon(first)) is None
    others = cache.ask(TakeIds(1, (second,)))

    assert isinstance(others, Granted)
    assert not {first, second, third} & {*others.ids}
    assert {status(cache.ask(commit(each, b"a", b""))) for each in (first, second)} == {503}
    cache.write(third, b"x")
    assert isinstance(cache.ask(commit(third, b"a", b"x")), Done)


def test_what_is_given_back_while_the_disk_takes_nothing_is_nobodys_all_the_same(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = granted(cache)
    monkeypatch.setattr(DataFolder, "is_read_only", lambda _: True)
    cache.now += 1

    assert status(cache.ask(TakeIds(1, before))) == 503
    assert cache.store._kept.granted.of(1) == []


def test_a_reservation_grows_with_a_body_in_chunks(cache: Cache) -> None:
    object_id = cache.reserve(100)

    grown = cache.ask(Reserve(1, "bk", 400, object_id=object_id))

    assert (grown, cache.used()) == (Done(1, object_id), (400, 0))
    assert status(cache.ask(Reserve(1, "bk", 601, object_id=object_id))) == 413


def test_a_bucket_above_its_share_makes_room_for_one_below(cache: Cache) -> None:
    for each in range(10):
        assert isinstance(cache.put(b"%d" % each, bytes(100), "other"), Done)

    assert isinstance(cache.put(b"mine", bytes(300)), Done)
    assert (cache.used(), cache.used("other")) == ((300, 1), (700, 7))
    assert cache.files() == 1000


def test_nobody_gives_up_an_object_for_room_that_another_object_has_left(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(400))
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    cache.set_rules([BucketRules(n, cache.store.number_of(n), 300, 0, w, None, None) for n, w in weights.items()])
    for bucket, size in {"a": 68, "b": 136, "c": 133}.items():
        cache.put(b"1", bytes(size), bucket)

    cache.put(b"2", bytes(65), "a")

    assert (cache.get(b"1", "a"), cache.get(b"1", "c")) == (None, bytes(133))
    cache.kill()


def test_pinned_objects_stay_whatever_others_need(cache: Cache) -> None:
    cache.put(b"pinned", bytes(250), pinned=True)

    for each in range(8):
        cache.put(b"%d" % each, bytes(150))

    assert cache.get(b"pinned") == bytes(250)
    assert cache.used()[0] <= 600


def test_what_was_read_outlives_what_was_not(cache: Cache) -> None:
    for each in range(6):
        cache.put(b"%d" % each, bytes(100))
    cache.get(b"0")
    cache.now += 1

    cache.put(b"new", bytes(200))

    assert [each for each in range(6) if cache.get(b"%d" % each) is None] == [1, 2]


def test_a_batch_whose_transaction_fails_leaves_all_as_it_was(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(b"a", b"old")
    object_id, (ahead, *_) = cache.reserve(3), granted(cache)
    cache.write(object_id, b"new")
    cache.write(ahead, b"new")

    def full(self: Catalogue, row: object) -> None:
        raise CatalogueFullError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Catalogue, "insert", full)
        batch = [
            Asked(1, TakeIds(8)),
            Asked(1, Reserve(7, "bk", 50)),
            Asked(1, commit(object_id, b"a", b"new")),
            Asked(1, commit(ahead, b"b", b"new")),
        ]
        answers = cache.store.handle(batch, NOW)

    assert [status(each) for each in answers] == [507, 507, 507, 507]
    # Those of before, less the one that was used: nobody got those of this batch.
    assert len(cache.store._kept.granted.of(1)) == IDS_AT_ONCE - 1
    assert (cache.get(b"a"), cache.used(), cache.files(), cache.incoming()) == (b"old", (3, 1), 3, [])
    assert cache.store.writable.status == 507


def test_a_disk_that_fails_is_not_written_to_until_a_probe_succeeds(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(b"a", b"kept")

    def broken(self: Catalogue, *_: object) -> None:
        raise CatalogueDiskError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Catalogue, "changes", broken)
        assert status(cache.ask(Reserve(1, "bk", 1))) == 503
        cache.store.tick(NOW)
        assert cache.store.view.disk == "broken"
        assert cache.get(b"a") == b"kept"
        assert isinstance(cache.ask(List(1, "bk", b"", b"", 10)), Listed)
    cache.store.tick(NOW)

    assert cache.store.writable.status == 0
    assert isinstance(cache.put(b"b", b"new"), Done)


def test_a_file_that_cannot_be_published_is_refused_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id, lost = cache.reserve(1), cache.reserve(1)
    cache.write(object_id, b"x")

    batch = [Asked(1, commit(lost, b"lost", b"y")), Asked(1, commit(object_id, b"a", b"x"))]
    answers = cache.store.handle(batch, NOW)

    assert [status(each) for each in answers] == [503, 0]
    assert (cache.get(b"a"), cache.used(), cache.store.writable.status) == (b"x", (1, 1), 0)


def test_files_that_cannot_be_removed_are_removed_later(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(b"a", b"content")

    def failing(self: DataFolder, ids: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(DataFolder, "remove", failing)
        cache.ask(Remove(1, "bk", b"a"))
    assert cache.files() == 7

    cache.store.tick(NOW)

    assert (cache.files(), cache.store.writable.status) == (0, 0)


def test_a_damaged_object_goes_unless_another_has_its_name(cache: Cache) -> None:
    first = cache.put(b"a", b"one")
    assert isinstance(first, Done)
    cache.put(b"a", b"two")

    cache.ask(Damaged(first.object_id, "bk", b"a", "short"))
    assert cache.get(b"a") == b"two"
    second = cache.store._kept.find(cache.store._kept.keys.key("bk", b"a"))
    assert second is not None
    cache.ask(Damaged(second.object_id, "bk", b"a", "short"))

    assert (cache.get(b"a"), cache.store.damaged, cache.used(), cache.files()) == (None, 1, (0, 0), 0)


def test_a_suspect_object_that_is_sound_is_trusted_and_keeps_when_it_was_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.rules(bk=600)
    put = cache.put(b"a", b"one")
    assert isinstance(put, Done)
    cache.kill()
    cache = Cache(tmp_path / "cache", boot="another")
    cache.rules(bk=600)
    key = cache.store._kept.keys.key("bk", b"a")
    found = cache.store._kept.find(key)
    assert found is not None
    assert found.flags & SUSPECT
    cache.get(b"a")

    cache.ask(Sound(put.object_id, "bk", b"a"))

    sound = cache.store._kept.find(key)
    assert sound is not None
    assert not sound.flags & SUSPECT
    assert cache.store._kept.accessed(key) == cache.now
    cache.kill()


def test_above_the_high_watermark_ticks_empty_the_cache_to_the_low_one(cache: Cache) -> None:
    for each in range(240):
        cache.put(b"%d" % each, bytes(4), "other")

    while cache.store.tick(NOW):
        pass

    assert cache.used("other")[0] == 900
    assert sum(cache.store.view.evicted.values()) == 15


def test_a_quota_that_shrank_is_reached_in_ticks(cache: Cache) -> None:
    for each in range(5):
        cache.put(b"%d" % each, bytes(100))

    cache.rules(bk=250, other=1000)
    while cache.store.tick(NOW):
        pass

    assert cache.used() == (200, 2)


def test_a_bucket_gone_from_the_rules_is_emptied_after_a_while_with_its_pins(cache: Cache) -> None:
    cache.put(b"a", bytes(100), pinned=True)
    cache.rules(other=1000)
    cache.store.tick(cache.now)
    assert cache.used() == (100, 1)

    cache.now += 600
    cache.store.tick(cache.now)

    assert (cache.used(), cache.files()) == ((0, 0), 0)


def test_other_rules_that_change_do_not_put_off_the_end_of_one_that_is_gone(cache: Cache) -> None:
    cache.put(b"a", bytes(100))
    for other in range(7):
        cache.rules(other=1000 + other)
        cache.now += 100

    cache.store.tick(cache.now)

    assert cache.used() == (0, 0)


def test_objects_of_no_bytes_go_with_their_bucket(cache: Cache) -> None:
    for each in range(20):
        cache.put(b"%d" % each, b"")
    cache.rules(other=1000)

    while cache.store.tick(cache.now + 600):
        pass

    assert cache.used() == (0, 0)


def test_a_bucket_that_came_back_in_time_keeps_its_objects(cache: Cache) -> None:
    cache.put(b"a", bytes(100))
    cache.rules(other=1000)
    cache.now += 500
    cache.rules(bk=600, other=1000)
    cache.now += 500

    cache.store.tick(cache.now)

    assert cache.get(b"a") == bytes(100)


def test_a_bucket_whose_rules_were_not_read_yet_keeps_its_objects_however_long(cache: Cache) -> None:
    cache.put(b"a", bytes(100), pinned=True)
    cache.put(b"b", bytes(100))
    cache.rules(other=1000, complete=False)
    cache.now += 10_000
    while cache.store.tick(cache.now):
        pass
    assert cache.used() == (200, 2)

    cache.rules(other=1000)
    cache.store.tick(cache.now + 599)
    assert cache.used() == (200, 2)
    while cache.store.tick(cache.now + 600):
        pass
    assert cache.used() == (0, 0)


def test_a_bucket_whose_rules_were_not_read_yet_gives_up_no_more_than_what_exceeds_its_share(cache: Cache) -> None:
    for each in range(6):
        cache.put(b"%d" % each, bytes(100), pinned=each == 0)
    cache.rules(other=1000, complete=False)

    for each in range(10):
        cache.put(b"%d" % each, bytes(100), "other")

    assert (cache.used(), cache.used("other")) == ((500, 5), (500, 5))
    assert cache.get(b"0") == bytes(100)


def test_a_smaller_cache_starts_and_shrinks_before_any_rules_are_read(cache: Cache) -> None:
    for each in range(6):
        cache.put(b"%d" % each, bytes(100))
    cache.close()

    small = Cache(cache.path, Limits(400))
    while small.store.tick(NOW):
        pass

    assert (small.used()[0] <= 400, small.store.view.names) == (True, {1: "bk"})
    small.kill()


def test_a_look_shows_what_was_just_put_and_the_view_what_the_last_tick_saw(cache: Cache) -> None:
    cache.put(b"a", b"content")

    assert [each.kept_bytes for each in cache.store.look().accounts.values()] == [7]
    assert cache.store.view.objects == 0
    cache.store.tick(NOW)
    assert cache.store.view == cache.store.look()


def test_how_old_evicted_objects_were_is_added_up(cache: Cache) -> None:
    cache.put(b"a", bytes(600))
    cache.now += 100
    cache.get(b"a")
    cache.now += 50

    cache.put(b"b", bytes(600))

    view = cache.store.look()
    assert (view.put_seconds, view.read_seconds) == (150, 50)
    assert (sum(view.put_ages), sum(view.read_ages)) == (1, 1)


def test_a_file_system_that_became_read_only_is_noticed_before_bodies_are_sent(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DataFolder, "is_read_only", lambda self: True)
        cache.now += 1
        refused = cache.ask(Reserve(1, "bk", 1))
    assert (status(refused), cache.store.look().disk) == (503, "read_only")

    cache.store.tick(cache.now + 1)

    assert cache.store.look().disk == "ok"


def test_an_id_is_never_handed_out_twice_though_a_transaction_failed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [cache.reserve(0) for _ in range(10)]

    def full(self: Catalogue, row: object) -> None:
        raise CatalogueFullError("database or disk is full")

    cache.write(ids[0], b"")
    with monkeypatch.context() as patched:
        patched.setattr(Catalogue, "insert", full)
        assert status(cache.ask(commit(ids[0], b"a", b""))) == 507
    cache.store.tick(NOW)
    ids += [cache.reserve(0) for _ in range(100)]
    cache.kill()
    cache = Cache(cache.path)
    cache.rules(bk=600)
    ids += [cache.reserve(0) for _ in range(10)]

    assert sorted(set(ids)) == ids
    cache.kill()


def test_a_damaged_object_that_the_disk_still_has_is_settled_though_another_took_its_name(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = cache.put(b"a", b"damaged")
    assert isinstance(put, Done)
    object_id = cache.reserve(3)
    cache.write(object_id, b"new")
    kept = cache.store._kept
    kept.condition.note(CatalogueDiskError("disk I/O error"))
    cache.ask(Damaged(put.object_id, "bk", b"a", "short"))
    assert cache.get(b"a") is None
    kept.condition.recovered()
    assert isinstance(cache.ask(commit(object_id, b"a", b"new")), Done)

    cache.store.tick(NOW)

    assert (cache.get(b"a"), cache.used(), cache.files()) == (b"new", (3, 1), 3)


def test_many_small_objects_make_way_for_a_large_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(3000))
    cache.rules(bk=3000)
    for each in range(600):
        cache.put(b"%d" % each, bytes(5))
        if each % 3:
            cache.get(b"%d" % each)

    assert isinstance(cache.put(b"large", bytes(2900)), Done)
    assert cache.used()[0] <= 3000
    cache.kill()


def test_whole_batches_of_pinned_objects_are_passed_over(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.rules(bk=1000)
    for each in range(150):
        cache.put(b"pinned %d" % each, bytes(3), pinned=True)
    for each in range(5):
        cache.put(b"%d" % each, bytes(100))

    assert [status(cache.put(b"new %d" % each, bytes(100))) for each in range(20)] == [0] * 20
    assert cache.used()[1] == 150 + 5
    cache.kill()


class OneAtATime(Fifo):
    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:
        return super().choose(batch, 1, now)


def test_an_order_that_lets_go_little_at_once_is_asked_until_it_is_enough(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(3000), order=OneAtATime)
    cache.rules(bk=3000)
    for each in range(300):
        cache.put(b"%d" % each, bytes(10))

    assert isinstance(cache.put(b"large", bytes(2900)), Done)
    cache.kill()


def test_what_comes_back_soon_after_it_had_to_go_stays_longer(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.rules(bk=1000)
    for each in range(11):
        cache.put(b"%d" % each, bytes(100))
    assert cache.used() == (1000, 10)
    cache.put(b"0", bytes(100))

    for each in range(12):
        cache.put(b"new %d" % each, bytes(100))

    assert cache.get(b"0") == bytes(100)
    cache.kill()


def test_a_stretch_goes_on_behind_the_last_and_says_when_nothing_follows(cache: Cache) -> None:
    for name in (b"a", b"b", b"c"):
        cache.put(name, name)

    first = cache.store.stretch(0, 2)
    second = cache.store.stretch(first.upto_id, 2)

    assert ([each.name for each in first.objects], first.is_last) == ([b"a", b"b"], False)
    assert ([each.name for each in second.objects], second.is_last) == ([b"c"], True)
    assert (second.objects[0].bucket, second.objects[0].checksum) == ("bk", xxhash.xxh3_128_digest(b"c"))


def test_a_note_outlives_the_process(cache: Cache) -> None:
    cache.store.note("place", 2**60)
    cache.kill()

    again = Cache(cache.path)

    assert (again.store.noted("place"), again.store.noted("nothing")) == (2**60, 0)
    again.kill()


def test_when_objects_were_read_outlives_the_process(cache: Cache) -> None:
    put = cache.put(b"a", b"one")
    cache.put(b"b", b"two")
    cache.store.tick(cache.now)
    cache.now += 300
    cache.get(b"a")
    cache.now += 300

    while cache.store.tick(cache.now):
        pass

    assert isinstance(put, Done)
    row = cache.catalogue.row(put.object_id)
    assert row is not None
    assert row.accessed == NOW + 300


def test_an_index_that_fills_up_is_replaced_before_anything_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", Limits(10**9))
    cache.rules(bk=10**9)
    small = cache.store.index
    cache.store._kept.index = type(small).create(1024)
    small.close()
    for each in range(800):
        cache.put(b"%d" % each, b"x")
    cache.store.tick(NOW)

    assert cache.store.generation >= 1
    cache.store.took_index()
    assert [each for each in range(800) if cache.get(b"%d" % each) != b"x"] == []
    cache.kill()


def test_a_disk_without_room_gives_files_up_before_rows(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in range(5):
        cache.put(b"%d" % each, bytes(100))

    def full(self: Catalogue, ids: object) -> None:
        raise CatalogueFullError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Catalogue, "delete", full)
        assert status(cache.ask(Remove(1, "bk", b"4"))) == 507
        cache.store.tick(NOW)
    assert cache.files() == 400
    cache.store.tick(NOW)

    assert (cache.used(), cache.files(), cache.store.writable.status) == ((400, 4), 400, 0)


def test_others_on_the_file_system_are_left_their_floor(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.kill()
    cache = Cache(cache.path, replace(LIMITS, floor_bytes=1000))
    cache.rules(bk=600)
    monkeypatch.setattr(DataFolder, "free_bytes", lambda self: 1000 + 450 - cache.files())
    for each in range(4):
        assert isinstance(cache.put(b"%d" % each, bytes(100)), Done)

    assert isinstance(cache.put(b"5", bytes(100)), Done)
    assert cache.files() == 400
    cache.kill()


def test_a_page_goes_on_behind_its_last_name(cache: Cache) -> None:
    for name in (b"a/1", b"a/2", b"a/3", b"b"):
        cache.put(name, b"x")

    first = cache.ask(List(1, "bk", b"a/", b"", 2))
    second = cache.ask(List(1, "bk", b"a/", b"a/2", 2))

    assert isinstance(first, Listed)
    assert isinstance(second, Listed)
    assert ([each[0] for each in first.objects], first.more) == ([b"a/1", b"a/2"], True)
    assert ([each[0] for each in second.objects], second.more) == ([b"a/3"], False)


def test_a_store_that_closed_is_trusted_by_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.rules(bk=600)
    cache.put(b"a", b"one")
    cache.close()

    cache = Cache(tmp_path / "cache")
    cache.rules(bk=600)

    assert (cache.report.before, cache.get(b"a"), cache.used()) == ("closed", b"one", (3, 1))
    cache.kill()
