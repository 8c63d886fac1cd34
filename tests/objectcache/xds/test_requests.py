"""What a live Envoy does with requests, as the control plane means it."""

import threading
from dataclasses import replace

import pytest

from objectcache.xds.member import Member
from tests.objectcache.xds.envoys import HELD, PREFIX, predicted, running_caches, until
from tests.objectcache.xds.scenes import FAR, FEW, NAMES, NEAR, ZONES, Scene
from tests.ports import free_port


def test_a_pod_with_a_new_address_keeps_its_nodes_objects(scene: Scene) -> None:
    with running_caches(["node-b"]) as restarted:
        moved = [each for each in scene.members() if each.node != "node-b"]
        moved.append(scene.member("node-b", port=restarted["node-b"].port))
        scene.plane.publish(moved, ZONES)
        name = next(name for name in NAMES if predicted(moved, "z1", [name]) == ["node-b"])
        until(lambda: scene.envoy.owners([name]) == ["node-b"] and bool(restarted["node-b"].seen))

        assert scene.envoy.owners(NAMES) == predicted(scene.members(), "z1", NAMES)


def test_a_zone_is_used_while_one_of_its_caches_stays(scene: Scene) -> None:
    scene.tell([replace(each, leaving=each.node in NEAR[1:]) for each in scene.members()])

    assert set(scene.envoy.owners(NAMES)) == {"node-a"}


@pytest.mark.parametrize("leaving", [True, False], ids=["leaving", "removed"])
def test_another_zone_serves_while_the_own_one_has_nobody(scene: Scene, leaving: bool) -> None:
    near = [scene.member(node, leaving=True) for node in NEAR] if leaving else []
    members = scene.tell([*near, *scene.members(*FAR)])

    owners = scene.envoy.owners(NAMES)
    scene.tell(scene.members())

    assert owners == predicted(members, "z2", NAMES)
    assert set(owners) == set(FAR)
    assert scene.envoy.owners(NAMES) == predicted(scene.members(), "z1", NAMES)


def test_without_caches_requests_fail_at_once(scene: Scene) -> None:
    scene.plane.publish([], ZONES)

    until(lambda: set(scene.envoy.owners(FEW[:5])) == {"503"})


def test_very_many_zones_are_taken(scene: Scene) -> None:
    others = [Member(f"other-{number}", f"127.0.1.{number}", 1, f"y{number:03}") for number in range(1, 140)]

    members = scene.tell([*scene.members(*NEAR[1:]), *others])

    assert scene.envoy.owners(NAMES) == predicted(members, "z1", NAMES)


def test_weights_are_shares(scene: Scene) -> None:
    weighted = scene.tell([scene.member(node, weight=weight) for weight, node in enumerate(NEAR, 1)])

    owners = scene.envoy.owners(NAMES)

    assert owners == predicted(weighted, "z1", NAMES)
    assert owners.count("node-a") < owners.count("node-e") / 3


def test_a_cache_that_is_gone_unnoticed_fails_its_own_objects_only(scene: Scene) -> None:
    members = [replace(each, port=free_port()) if each.node == "node-b" else each for each in scene.members()]
    expected = ["503" if owner == "node-b" else owner for owner in predicted(members, "z1", FEW)]
    scene.plane.publish(members, ZONES)

    until(lambda: scene.envoy.owners(FEW) == expected)


def test_targets_reach_the_cache_as_they_were_sent(scene: Scene) -> None:
    seen = sum(len(cache.seen) for cache in scene.caches.values())

    scene.envoy.owners(NAMES)

    arrived = [target for cache in scene.caches.values() for _, target, _ in cache.seen]
    assert len(arrived) == seen + len(NAMES)
    assert {PREFIX + name for name in NAMES} <= set(arrived)


def test_large_bodies_pass_both_ways_and_a_put_is_sent_once(scene: Scene) -> None:
    size = 9 * 2**20
    target = f"{PREFIX}bk/large"
    [owner] = predicted(scene.members(), "z1", ["bk/large"])

    put = scene.envoy.ask("PUT", target, b"y" * size)
    status, got = scene.envoy.ask("GET", target, headers={"Answer-Bytes": str(size)})

    assert put == (201, owner.encode())
    assert (status, len(got)) == (200, size)
    puts = [each for cache in scene.caches.values() for each in cache.seen if each[:2] == ("PUT", target)]
    assert puts == [("PUT", target, size)]


def test_a_token_of_16_kib_passes(scene: Scene) -> None:
    status, _ = scene.envoy.ask("GET", f"{PREFIX}bk/x", headers={"Authorization": f"Bearer {'t' * 16_384}"})

    assert status == 200


def test_clients_cannot_steer_a_request_by_headers(scene: Scene) -> None:
    [owner] = predicted(scene.members(), "z1", ["bk/slow"])
    scene.caches[owner].hold.set()
    timer = threading.Timer(0.5, scene.caches[owner].hold.clear)
    timer.start()

    status, _ = scene.envoy.ask("GET", f"{PREFIX}bk/slow", headers={**HELD, "X-Envoy-Upstream-Rq-Timeout-Ms": "1"})

    timer.join()
    assert status == 200


def test_other_paths_are_not_for_caches(scene: Scene) -> None:
    assert scene.envoy.ask("GET", "/v1/summary")[0] == 404
    assert scene.envoy.ask("GET", "/")[0] == 404
