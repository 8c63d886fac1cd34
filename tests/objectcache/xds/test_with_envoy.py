"""A live Envoy is told what changes, and goes by what `tasuki.routing.maglev` predicts."""

import threading
from dataclasses import replace

import pytest

from objectcache.xds.snapshot import LISTENER, LISTENERS, Resource
from tests.objectcache.xds.envoys import HELD, PREFIX, predicted, until
from tests.objectcache.xds.scenes import FEW, NAMES, NEAR, ZONES, Scene


@pytest.fixture(scope="module", params=["delta", "sotw"])
def variant(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_each_object_goes_to_the_owner_that_the_table_names(scene: Scene) -> None:
    owners = scene.envoy.owners(NAMES)

    assert owners == predicted(scene.members(), "z1", NAMES)
    assert set(owners) == set(NEAR)


def test_a_node_that_is_removed_moves_what_the_table_moves(scene: Scene) -> None:
    before = scene.envoy.owners(NAMES)
    fewer = scene.tell([each for each in scene.members() if each.node != "node-c"])

    after = scene.envoy.owners(NAMES)

    assert after == predicted(fewer, "z1", NAMES)
    kept = sum(old == new for old, new in zip(before, after, strict=True) if old != "node-c")
    assert kept >= 0.95 * sum(old != "node-c" for old in before)


def test_a_cache_that_leaves_ends_what_it_began_and_owns_nothing(scene: Scene) -> None:
    leaving = scene.caches["node-a"]
    name = next(name for name in NAMES if predicted(scene.members(), "z1", [name]) == ["node-a"])
    leaving.hold.set()
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(scene.envoy.ask("GET", PREFIX + name, headers=HELD)))
    seen = len(leaving.seen)
    asking.start()
    until(lambda: len(leaving.seen) > seen)
    members = scene.tell([replace(each, leaving=each.node == "node-a") for each in scene.members()])

    leaving.hold.clear()
    asking.join()

    assert answers == [(200, b"node-a")]
    assert scene.envoy.owners(NAMES) == predicted(members, "z1", NAMES)


def test_the_zone_of_an_envoy_may_change(scene: Scene) -> None:
    scene.plane.publish(scene.members(), {**ZONES, "client": "z2"})

    expected = predicted(scene.members(), "z2", FEW)
    until(lambda: scene.envoy.owners(FEW) == expected)

    assert scene.envoy.owners(NAMES) == predicted(scene.members(), "z2", NAMES)


def test_a_refused_listener_changes_nothing_and_is_told(scene: Scene) -> None:
    broken = {**scene.plane.fixed, LISTENERS: {LISTENER: Resource(LISTENER, "broken", b"\x0a\x0etasuki-objects")}}
    scene.plane.publish(scene.members(), ZONES, broken)
    until(lambda: scene.plane.count("tasuki_xds_refusing_envoys") == 1)
    told = scene.plane.notes[-1]
    pushed = scene.plane.count("tasuki_xds_pushes_total", type="lds")
    fewer = [each for each in scene.members() if each.node != "node-e"]

    scene.plane.publish(fewer, ZONES, broken)
    until(lambda: scene.envoy.owners(FEW) == predicted(fewer, "z1", FEW))

    assert "1 of 1 Envoys" in told
    assert "'client' refuses lds" in told
    assert "address" in told
    assert scene.plane.count("tasuki_xds_pushes_total", type="lds") == pushed
    scene.tell(scene.members())
    until(lambda: scene.plane.count("tasuki_xds_refusing_envoys") == 0)
    assert not scene.plane.notes[-1]


def test_envoys_go_on_while_the_control_plane_is_away_and_follow_the_next_one(scene: Scene) -> None:
    scene.plane.stop()
    away = scene.envoy.owners(NAMES)
    scene.plane.start()
    until(lambda: scene.plane.connected == 1)
    not_told = scene.envoy.owners(NAMES)

    fewer = scene.tell([each for each in scene.members() if each.node != "node-d"])

    assert away == not_told == predicted(scene.members(), "z1", NAMES)
    assert scene.envoy.owners(NAMES) == predicted(fewer, "z1", NAMES)
