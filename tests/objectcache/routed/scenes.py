"""Real caches behind a real Envoy that a real control plane tells, and a way to see who answered."""

import http.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from objectcache.xds.member import Member
from tests.objectcache.caches import TOKEN, RunningCache, running_cache
from tests.objectcache.xds.envoys import PREFIX, Envoy, Plane, predicted, running_envoy, until
from tests.ports import free_port

NODES: Final = ("node-a", "node-b", "node-c", "node-d", "node-e")
ZONE: Final = "z1"
FAR_ZONE: Final = "z2"
SECONDS: Final = 20.0
BUCKETS: Final = (
    {"Name": "bk", "BucketQuota": "256Mi", "AllowNamespaces": ["research"], "PinnedQuota": "1Ki"},
    {"Name": "small", "BucketQuota": "1Mi", "AllowNamespaces": ["research"]},
    {"Name": "other", "BucketQuota": "1Mi", "AllowNamespaces": ["other"]},
)
TOKENS: Final = {TOKEN: "research", "token-of-other": "other", "t" * 16_384: "research"}
SHAPES: Final = (
    "bk/{}/object", "bk/{}/s3://host/bucket/train//0.jpg", "bk/{}/a%2Fb", "bk/{}/x?versionId=7", "bk/{}/../%2e%2e/./x",
    "bk/{}/%00%20%F0", "bk/{}/pfio-zipfs/a+b&c=d;e", "bk/{}/x?a?b",
)  # fmt: skip
# Each cache has an object of each of these names, which says whose it is. Only on some is it where it belongs.
MARKS: Final = tuple(f"bk/mark/{number}" for number in range(40))

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        headers: With names in lower case.
    """

    status: int
    headers: Headers
    body: bytes


def named(group: str, count: int) -> tuple[str, ...]:
    """So many names of objects, of all shapes, that no other group has."""
    return tuple(SHAPES[number % len(SHAPES)].format(f"{group}/{number}") for number in range(count))


class Asking:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)

    def __call__(self, method: str, name: str, body: bytes | None = None, headers: Headers | None = None) -> Answer:
        """Ask for an object, `bucket/object` as it is to be sent.

        Raises:
            OSError, http.client.HTTPException: No answer came.
        """
        known = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        self._connection.request(method, PREFIX + name, body, known)
        answer = self._connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())

    def close(self) -> None:
        self._connection.close()


@contextmanager
def asking(port: int) -> Iterator[Asking]:
    made = Asking(port)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Scene:
    """One zone with five nodes, and the Envoy of a client in it."""

    plane: Plane
    envoy: Envoy
    caches: dict[str, RunningCache]

    def members(self, *nodes: str) -> list[Member]:
        return [Member(node, "127.0.0.1", self.caches[node].direct_port, ZONE) for node in nodes or NODES]

    def tell(self, members: Sequence[Member]) -> None:
        """Publish, and wait until Envoy goes by it."""
        self.plane.publish(members, {"client": ZONE})
        expected = predicted(members, ZONE, MARKS)
        until(lambda: self.answering(MARKS) == expected)

    def answering(self, names: Sequence[str]) -> list[str]:
        """Who answers for MARKS, through Envoy; the status where nobody does."""
        with asking(self.envoy.port) as ask:
            found = [ask("GET", name) for name in names]
        return [each.body.decode() if each.status == 200 else str(each.status) for each in found]

    def holders(self, names: Sequence[str]) -> list[list[str]]:
        """For each name, which caches hold it, asked one by one without Envoy."""
        found: list[list[str]] = [[] for _ in names]
        for node, cache in sorted(self.caches.items()):
            with asking(cache.direct_port) as ask:
                for name, holding in zip(names, found, strict=True):
                    if ask("HEAD", name).status == 200:
                        holding.append(node)
        return found

    @contextmanager
    def one_more(self, folder: Path, *, drain_seconds: int) -> Iterator[tuple[RunningCache, list[Member]]]:
        """A sixth cache, `node-f`, that may be stopped or killed, and all members with it; at the end it goes."""
        with marked_cache(folder, "node-f", ("--drain-seconds", str(drain_seconds))) as cache:
            members = [*self.members(), replace(self.members("node-a")[0], node="node-f", port=cache.direct_port)]
            self.tell(members)
            try:
                yield cache, members
            finally:
                self.tell(self.members())


@contextmanager
def marked_cache(folder: Path, node: str, options: Sequence[str] = ()) -> Iterator[RunningCache]:
    """A real one, whose MARKS say that they are this node's."""
    with running_cache(folder, buckets=BUCKETS, tokens=TOKENS, options=options) as cache:
        with asking(cache.direct_port) as ask:
            for name in MARKS:
                assert ask("PUT", name, node.encode()).status == 201
        yield cache


@contextmanager
def running_scene(folder: Path, caches: dict[str, RunningCache]) -> Iterator[Scene]:
    plane = Plane(free_port())
    plane.start()
    try:
        with running_envoy(plane.port, plane.options.listen[1], folder) as envoy:
            until(lambda: plane.connected == 1)
            scene = Scene(plane, envoy, caches)
            plane.publish(scene.members(), {"client": ZONE})
            until(lambda: _is_ready(envoy))
            yield scene
    finally:
        plane.close()


def _is_ready(envoy: Envoy) -> bool:
    try:
        return envoy.ask("GET", "/ready")[0] == 200
    except ConnectionRefusedError:
        return False
