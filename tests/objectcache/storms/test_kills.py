"""What was answered stays, and nothing else is ever answered, however often the cache's processes are killed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

import xxhash
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.objectcache.storms.flights import Request, fly
from tests.objectcache.storms.nodes import Node, bucket, content, eventually

NAMES: Final = ("a", "b", "c/d", "e", "f", "g")
NAME: Final = st.sampled_from(NAMES)
SIZE: Final = st.sampled_from([0, 1, 4_096, 65_537]) | st.integers(0, 300 * 2**10)
# A worker that is killed again is started again later and later.
MOST_WORKER_KILLS: Final = 2


class Storm(RuleBasedStateMachine):
    """A model of few names, over the real processes.

    Attributes:
        quiet: Whether there is room for everything that this machine ever puts.
    """

    quiet: ClassVar[bool]
    capacity: ClassVar[str]
    workers: ClassVar[int]

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        buckets = [bucket("bk", "1Gi", PinnedQuota="600Ki")]
        self.node = Node(Path(self.folder.name), buckets, capacity=self.capacity, workers=self.workers)
        # What may lie under a name by what was answered; None for nothing.
        self.possible: dict[str, set[bytes | None]] = {name: {None} for name in NAMES}
        self.pinned: set[bytes] = set()
        self.checksums: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.serial = 0
        self.worker_kills = 0
        self.node.start()

    def teardown(self) -> None:
        if hasattr(self, "node"):
            try:
                if self.node.is_running:
                    self.everything_adds_up()
            finally:
                self.node.close()
                self.folder.cleanup()

    # One after the other.

    @rule(name=NAME, size=SIZE, pinned=st.booleans())
    def put(self, name: str, size: int, *, pinned: bool) -> None:
        body = self.body(size)
        status = self.node.put(name, body, Tasuki_Pinned=str(pinned).lower())

        assert status == 201 or (status == 507 and pinned), status
        if status == 201:
            self.possible[name] = {body}
            if pinned:
                self.pinned.add(body)

    @rule(name=NAME)
    def get(self, name: str) -> None:
        self.found(name)

    @rule(name=NAME, first=st.integers(0, 2**18), length=st.integers(1, 2**17))
    def get_a_part(self, name: str, first: int, length: int) -> None:
        whole = self.found(name)
        asked = {"Range": f"bytes={first}-{first + length - 1}"}
        status, _, part = self.node.cache.request("GET", f"/v1/objects/bk/{name}", headers=asked)

        if whole is None or (status == 404 and self.may_go(whole)):
            assert status == 404
        elif first >= len(whole):
            assert status == 416
        else:
            assert (status, part) == (206, whole[first : first + length])

    @rule(name=NAME)
    def delete(self, name: str) -> None:
        before = self.found(name)
        status, _, _ = self.node.cache.request("DELETE", f"/v1/objects/bk/{name}")

        assert status == (404 if before is None else 204) or (status == 404 and self.may_go(before)), status
        self.possible[name] = {None}

    @rule()
    def everything_adds_up(self) -> None:
        bodies: dict[str, bytes] = {}

        def adds_up() -> bool:
            bodies.clear()
            bodies.update({name: body for name in NAMES if (body := self.found(name)) is not None})
            sizes = {name: len(body) for name, body in bodies.items()}
            held = self.node.held()["bk"]
            pinned = sum(len(body) for body in bodies.values() if body in self.pinned)
            return (
                {name: each.bytes for name, each in self.node.listed().items()} == sizes
                and sorted(self.note_files()) == sorted(sizes.values())
                and (held.bytes, held.objects, held.pinned_bytes) == (sum(sizes.values()), len(sizes), pinned)
                # Nothing is promised to uploads that have ended.
                and self.node.metric("tasuki_cache_used_bytes") == sum(sizes.values())
                and not self.node.incoming()
            )

        eventually(adds_up, lambda: self.disagreement({name: len(body) for name, body in bodies.items()}))

    # All at once.

    @rule(
        asked=st.lists(
            st.tuples(st.sampled_from(["PUT", "PUT", "PUT", "GET", "DELETE"]), NAME, SIZE, st.booleans()),
            min_size=1, max_size=6,
        ),
        ending=st.sampled_from(["none", "keeper", "keeper", "worker", "stop"]),
        percent=st.integers(0, 100),
    )  # fmt: skip
    def fly(self, asked: list[tuple[str, str, int, bool]], ending: str, percent: int) -> None:
        """Requests are under way when some process ends."""
        if ending == "worker" and self.worker_kills >= MOST_WORKER_KILLS:
            ending = "keeper"
        ends: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "keeper": self.node.kill,
            "worker": self.kill_a_worker,
            "stop": self.node.stop,
        }
        for name in NAMES:
            self.found(name)
        requests = [
            Request(method, name, self.body(size) if method == "PUT" else b"", chunked=chunked)
            for method, name, size, chunked in asked
        ]
        fly(self.node.cache.direct_port, requests, percent / 100, ends[ending])
        if ending in ("keeper", "stop"):
            self.start_again()

        self.check(requests, may_be_unanswered=ending != "none")
        for name in NAMES:
            self.found(name)

    @rule()
    def kill(self) -> None:
        self.node.kill()
        self.start_again()

    @rule()
    def stop(self) -> None:
        self.node.stop()
        self.start_again()

    @precondition(lambda self: self.worker_kills < MOST_WORKER_KILLS)
    @rule()
    def kill_a_worker(self) -> None:
        self.worker_kills += 1
        self.node.kill_worker()

    # The model.

    def start_again(self) -> None:
        self.worker_kills = 0
        self.node.close()
        self.node.start()

        assert self.node.incoming() == []

    def check(self, requests: list[Request], *, may_be_unanswered: bool) -> None:
        """What was answered is possible; what may lie here now follows from it."""
        for name in sorted({each.name for each in requests}):
            those = [each for each in requests if each.name == name]
            changes = [each for each in those if each.method != "GET"]
            before = self.possible[name]
            written = {each.body if each.method == "PUT" else None for each in changes}
            for each in those:
                assert each.status or may_be_unanswered, each
                assert each.status in self.statuses(each), (each.method, each.name, each.status, each.found[:500])
                if each.status == 200:
                    assert each.found in before | written, f"a GET of {name} found what was never put there"
                if each.method == "GET" and each.status == 404:
                    assert None in before | written or any(map(self.may_go, before | written)), name
            effects = {
                each.body if each.method == "PUT" else None for each in changes if each.status in (0, 201, 204, 404)
            }
            is_certain = any(each.status in (201, 204, 404) for each in changes)
            self.possible[name] = effects if is_certain else before | effects

    def statuses(self, request: Request) -> set[int]:
        """Which answers make sense; 0 is none."""
        full = set() if self.quiet else {507}
        return {"PUT": {0, 201} | full, "GET": {0, 200, 404}, "DELETE": {0, 204, 404}}[request.method]

    def found(self, name: str) -> bytes | None:
        """What lies under a name now."""
        body = self.node.get(name)
        possible = self.possible[name]
        if any(map(self.may_go, possible)):
            possible = possible | {None}
        sizes = [None if each is None else len(each) for each in possible]
        assert body in possible, f"{name} has {None if body is None else len(body)} bytes instead of one of {sizes}"
        self.possible[name] = {body}
        return body

    def may_go(self, body: bytes | None) -> bool:
        """Whether it may be evicted."""
        return not self.quiet and body is not None and body not in self.pinned

    def body(self, size: int) -> bytes:
        """Never used before, unless it is of a byte or none."""
        self.serial += 1
        return content(self.serial, size)

    def note_files(self) -> list[int]:
        """Sizes of all objects' files; an id has the same content for ever, and never comes back."""
        sizes = []
        files = self.node.files()
        for object_id, path in files.items():
            try:
                found = path.read_bytes()
            except FileNotFoundError:
                continue
            sizes.append(len(found))
            assert self.checksums.setdefault(object_id, xxhash.xxh3_128_digest(found)) == xxhash.xxh3_128_digest(found)
            assert object_id not in self.gone, f"object id {object_id} was used twice"
        self.gone |= self.checksums.keys() - files.keys()
        return sizes

    def disagreement(self, sizes: dict[str, int]) -> str:
        listed = {name: each.bytes for name, each in self.node.listed().items()}
        files = {object_id: path.stat().st_size for object_id, path in self.node.files().items()}
        used = self.node.metric("tasuki_cache_used_bytes")
        return (
            f"read {sizes}\nlisted {listed}\nfiles {files}\nheld {self.node.held()}\nused {used}\n"
            f"incoming {self.node.incoming()}\n{self.node.output}"
        )


class WithRoom(Storm):
    quiet = True
    capacity = "1Gi"
    workers = 2


class WithoutRoom(Storm):
    quiet = False
    capacity = "1Mi"
    workers = 1


_SETTINGS: Final = settings(
    max_examples=3, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

TestWithRoom = WithRoom.TestCase
TestWithRoom.settings = _SETTINGS
TestWithoutRoom = WithoutRoom.TestCase
TestWithoutRoom.settings = _SETTINGS
