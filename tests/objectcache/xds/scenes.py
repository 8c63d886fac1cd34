"""A scene of one Envoy, seven caches in two zones, and a control plane."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from objectcache.xds.member import Member
from tests.objectcache.xds.envoys import Cache, Envoy, Plane, predicted, until

NEAR: Final = ("node-a", "node-b", "node-c", "node-d", "node-e")
FAR: Final = ("far-a", "far-b")
ZONES: Final = {"client": "z1", **dict.fromkeys(NEAR, "z1"), **dict.fromkeys(FAR, "z2")}
SHAPES: Final = (
    "bk/object-{}", "bk/s3://host/bucket/train/{}.jpg", "bk/file://tmp/d//{}.bin", "bk/a%2Fb/{}", "bk/{}?versionId=7",
    "bk/../%2e%2e/{}/./x", "bk/{}%00%20%F0", "bk/x{}?", "bk/{}/pfio-zipfs/a+b&c=d;e", "bk/{}?a?b",
)  # fmt: skip
NAMES: Final = tuple(shape.format(number) for number in range(40) for shape in SHAPES)
FEW: Final = NAMES[::8]


@dataclass
class Scene:
    plane: Plane
    envoy: Envoy
    caches: dict[str, Cache]

    def member(self, node: str, **changed: object) -> Member:
        made = Member(node, "127.0.0.1", self.caches[node].port, ZONES[node])
        return replace(made, **changed)  # type: ignore[arg-type]

    def members(self, *nodes: str) -> list[Member]:
        return [self.member(node) for node in nodes or (*NEAR, *FAR)]

    def tell(self, members: Sequence[Member]) -> list[Member]:
        """Publish, and wait until Envoy goes by it."""
        self.plane.publish(members, ZONES)
        expected = predicted(members, "z1", FEW)
        until(lambda: self.envoy.owners(FEW) == expected)
        return list(members)
