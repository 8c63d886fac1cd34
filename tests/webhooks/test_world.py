"""What the scenes of arriving pods are made of, as policies and snapshots come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.webhook_builders import priority_classes
from webhooks.catalogue import Catalogue
from webhooks.cluster import Cluster, PriorityClass
from webhooks.nodes import NodeFacts
from webhooks.policy.model import Accelerators, CpuOnly, Policy, Team
from webhooks.scene import Scene
from webhooks.world import World


def nodes(resource: str) -> dict[str, NodeFacts]:
    return {"a": NodeFacts(name="a", labels={}, taints=(), resources=frozenset({resource}), kubelet_version=(1, 36))}


@asynccontextmanager
async def turning(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.run())
    yield world
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def scene_in(world: World, namespace: str = "research") -> Scene:
    scene = world.scene(namespace)
    assert scene is not None
    return scene


async def offered(world: World, *expected: str) -> None:
    async with asyncio.timeout(5):
        while (known := scene_in(world).nodes) is None or tuple(known.resources) != expected:
            await asyncio.sleep(0.005)


async def test_nodes_are_indexed_anew_when_they_change_and_when_the_policy_does() -> None:
    async with turning(World("tasuki-system")) as world:
        world.use_policy(Policy())
        world.use_cluster(Cluster(nodes=nodes("nvidia.com/gpu")))
        await offered(world, "nvidia.com/gpu")
        world.use_cluster(Cluster(nodes=nodes("example.com/npu")))
        await offered(world)
        world.use_policy(Policy(accelerators=Accelerators(resources=("example.com/*",))))

        await offered(world, "example.com/npu")


async def test_nodes_may_come_before_the_policy() -> None:
    async with turning(World("tasuki-system")) as world:
        world.use_cluster(Cluster(nodes=nodes("nvidia.com/gpu")))
        await asyncio.sleep(0)
        world.use_policy(Policy())

        await offered(world, "nvidia.com/gpu")


def test_the_catalogue_outlives_snapshots_of_the_cluster() -> None:
    world = World("tasuki-system")
    world.use_policy(Policy())
    world.use_catalogue(Catalogue({"gcc": ("12",)}))
    world.use_cluster(Cluster(server_version=(1, 36)))

    cluster = scene_in(world).cluster

    assert cluster.catalogue == Catalogue({"gcc": ("12",)})
    assert cluster.server_version == (1, 36)


def test_a_scene_has_the_labels_of_its_namespace_as_they_are_now() -> None:
    world = World("tasuki-system")
    world.use_policy(Policy())
    unknown = scene_in(world).namespace_labels
    world.use_cluster(Cluster(namespaces={"research": {"team": "vision"}}))

    assert unknown is None
    assert scene_in(world).namespace_labels == {"team": "vision"}
    assert scene_in(world, "other").namespace_labels is None


@pytest.mark.parametrize("namespace", ["kube-system", "kube-node-lease", "kube-public", "mine", "ops-1"])
def test_some_namespaces_are_left_alone(namespace: str) -> None:
    world = World("mine")
    world.use_policy(Policy(exempt_namespaces=("ops-?",)))

    assert world.scene(namespace) is None


def test_what_does_not_change_is_the_same_scene() -> None:
    world = World("tasuki-system")
    world.use_policy(Policy())

    assert scene_in(world) is scene_in(world)


def test_without_a_policy_there_is_no_scene() -> None:
    with pytest.raises(RuntimeError, match="policy"):
        World("tasuki-system").scene("research")


def test_classes_that_the_cluster_lacks_are_told_of_until_they_come() -> None:
    told: list[str] = []
    world = World("tasuki-system", told.append)
    world.use_policy(Policy(cpu_only=CpuOnly(priority_class="low"), teams=(Team(maximum_priority_class="hihg"),)))
    world.use_cluster(Cluster(priority_classes={"low": PriorityClass(name="low", value=-10)}))
    world.use_cluster(Cluster(priority_classes=priority_classes(low=-10)))
    world.use_policy(Policy(cpu_only=CpuOnly(priority_class="low")))

    assert told == ["the cluster lacks hihg, which the policy names; apply or correct them", ""]
