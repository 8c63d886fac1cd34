"""What a node publishes: deterministic, small, and valid for its CRD."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import msgspec
import pytest
import yaml

from deviceplugin.config.model import Config, Flags, MigStrategy, SharedResource, Sharing, SharingStrategy
from deviceplugin.machine import Machine
from deviceplugin.node_status import MOST_LISTED_SLICES, Holder, Holders, NodeFacts, node_status
from deviceplugin.resources import plan
from tasuki.devices.model import Place, unhealthy
from tasuki.devices.topology import LinkKind, NVLink, Topology
from tasuki.kube.accelerator_node import AcceleratorNode, AcceleratorNodeStatus, ResourceStatus
from tasuki.kube.objects import ObjectMeta
from tests.builders import a_gpu, a_machine, a_mig_instance

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CRD = Path(__file__).parents[2] / "manifests/crd/acceleratornodes.yaml"


def facts(machine: Machine, *, replicas: int = 0, mig: MigStrategy = MigStrategy.NONE) -> NodeFacts:
    entry = SharedResource(name="nvidia.com/gpu", rename="nvidia.com/gpu", replicas=replicas)
    sharing = Sharing(strategy=SharingStrategy.TIME_SLICING, resources=(entry,)) if replicas else Sharing()
    config = Config(flags=Flags(mig_strategy=mig), sharing=sharing)
    return NodeFacts(machine, plan(machine, config), config, origin="/etc/tasuki/config.yaml", digest="sha256:0")


def holder(*slice_ids: str, pod: str = "p", resource: str = "nvidia.com/gpu") -> Holder:
    return Holder("default", pod, "main", resource, slice_ids)


def status(of: NodeFacts, *holders: Holder) -> AcceleratorNodeStatus:
    return node_status(of, Holders(holders), (), NOW)


def counts(resource: ResourceStatus) -> str:
    return f"{resource.slices} = {resource.held} + {resource.unhealthy} + {resource.free}"


def is_valid(node: AcceleratorNode) -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.Draft202012Validator(closed(schema)).validate(msgspec.json.decode(msgspec.json.encode(node)))


def closed(schema: Any) -> Any:
    """The schema with every unknown field forbidden: the API server would drop it without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, "additionalProperties": False} if schema.get("properties") else inner


def big_machine() -> Machine:
    """16 GPUs, each with seven MIG devices, all linked by NVLink."""
    ids = [f"GPU-{i:08x}-1111-2222-3333-444444444444" for i in range(16)]
    gpus = []
    for i, gpu_id in enumerate(ids):
        path = (f"pci0000:{i:02x}", f"0000:{i:02x}:01.0", f"0000:{i + 1:02x}:00.0", f"0000:{i + 2:02x}:10.0")
        gpu = a_gpu(i, mig=tuple(a_mig_instance(i, n) for n in range(7)))
        place = Place(i // 8, path[-1], path)
        mig = tuple(
            replace(m, device=replace(m.device, id=f"MIG-{i:04x}{n:04x}-1111-2222-3333-444444444444", parent=gpu_id))
            for n, m in enumerate(gpu.mig)
        )
        gpus.append(replace(gpu, device=replace(gpu.device, id=gpu_id, place=place), mig=mig))
    nvlinks = {(min(a, b), max(a, b)): NVLink(12, 25e9) for a, b in combinations(ids, 2)}
    return replace(a_machine(*gpus), topology=Topology(nvlinks))


def test_the_power_limit_is_published_of_what_has_one() -> None:
    gpu = a_gpu(0, mig=(a_mig_instance(0, 0),))
    limited = replace(gpu, device=replace(gpu.device, power_limit_watts=400.0))

    whole, partition = status(facts(a_machine(limited), mig=MigStrategy.MIXED)).devices

    assert (whole.power_limit_watts, partition.power_limit_watts) == (400.0, 0.0)
    assert b'"powerLimitWatts":400' in msgspec.json.encode(whole)
    assert b"powerLimitWatts" not in msgspec.json.encode(partition)


def test_a_published_object_is_valid_for_its_crd() -> None:
    sick = a_gpu(1, health=unhealthy("XID 79: the GPU has fallen off the bus"))
    machine = a_machine(a_gpu(0, mig=(a_mig_instance(0, 0),)), sick)
    of = replace(facts(machine, mig=MigStrategy.MIXED), problems=("something is left out",), trouble="no kubelet")

    found = status(of, holder("GPU-1"))

    is_valid(AcceleratorNode(metadata=ObjectMeta(name="n"), status=found))


def test_an_empty_node_is_valid_for_the_crd_too() -> None:
    found = status(facts(Machine()))

    is_valid(AcceleratorNode(metadata=ObjectMeta(name="n"), status=found))
    assert found.summary == "nothing"
    assert found.conditions[0].reason == "NothingToOffer"


def test_free_held_and_unhealthy_slices_add_up() -> None:
    machine = a_machine(a_gpu(0), a_gpu(1, health=unhealthy("lost")))

    (gpu,) = status(facts(machine, replicas=4), holder("GPU-0::1", "GPU-0::3"), holder("GPU-1::0", pod="q")).resources

    assert counts(gpu) == "8 = 3 + 3 + 2"
    assert [(d.device, d.replicas, d.held, d.free) for d in gpu.devices] == [("GPU-0", 4, 2, 2), ("GPU-1", 4, 1, 0)]
    assert [(h.pod, h.slices) for h in gpu.holders] == [("p", ("GPU-0::1", "GPU-0::3")), ("q", ("GPU-1::0",))]


def test_a_slice_that_two_pods_are_said_to_hold_is_held_once() -> None:
    (gpu,) = status(facts(a_machine(count=1)), holder("GPU-0", pod="ended"), holder("GPU-0", pod="new")).resources

    assert counts(gpu) == "1 = 1 + 0 + 0"
    assert [h.pod for h in gpu.holders] == ["ended", "new"]


def test_a_resource_that_is_no_longer_offered_stays_while_somebody_holds_it() -> None:
    held = holder("GPU-0", resource="nvidia.com/old-name")

    resources = status(facts(a_machine(count=1), replicas=2), held).resources

    assert [(r.name, r.slices, len(r.holders)) for r in resources] == [
        ("nvidia.com/gpu", 2, 0),
        ("nvidia.com/old-name", 0, 1),
    ]


@pytest.mark.parametrize("replicas", [pytest.param(0, id="whole by now"), pytest.param(2, id="in fewer parts by now")])
def test_shares_of_a_resource_that_is_no_longer_offered_stay_while_somebody_holds_them(replicas: int) -> None:
    held = holder("GPU-0::3", resource="nvidia.com/gpu.shared")

    resources = status(facts(a_machine(count=1), replicas=replicas), held).resources

    assert [(r.name, len(r.holders)) for r in resources] == [("nvidia.com/gpu", 0), ("nvidia.com/gpu.shared", 1)]


def test_devices_of_other_plugins_are_not_ours_to_publish() -> None:
    resources = status(facts(a_machine(count=1)), holder("nic-7", resource="example.com/nic")).resources

    assert [r.name for r in resources] == ["nvidia.com/gpu"]


def test_partitions_leave_their_place_to_their_parents() -> None:
    machine = a_machine(a_gpu(0, mig=(a_mig_instance(0, 0),)))

    whole, part = status(facts(machine)).devices

    assert (whole.numa_node, part.numa_node) == (0, None)
    assert (part.parent, part.profile) == ("GPU-0", "1g.5gb")


def test_links_are_grouped_the_fastest_first() -> None:
    machine = replace(a_machine(count=3), topology=Topology({("GPU-0", "GPU-1"): NVLink(12, 25e9)}))

    fast, slow = status(facts(machine)).links

    assert (fast.kind, fast.bytes_per_second) == (LinkKind.NVLINK, 300_000_000_000)
    assert [(p.origin, p.target) for p in fast.pairs] == [("GPU-0", "GPU-1")]
    assert [(p.origin, p.target) for p in slow.pairs] == [("GPU-0", "GPU-2"), ("GPU-1", "GPU-2")]


def test_equal_facts_give_equal_bytes() -> None:
    holders = [holder(f"GPU-{i % 4}::{i}", pod=f"p{i}") for i in range(20)]
    shuffled = holders.copy()
    random.Random(7).shuffle(shuffled)
    of = facts(a_machine(count=4), replicas=20)

    assert msgspec.json.encode(status(of, *holders)) == msgspec.json.encode(status(of, *shuffled))


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    of = facts(a_machine(count=1))
    first = node_status(of, Holders(), (), NOW)
    later = NOW + timedelta(hours=1)

    same = node_status(of, Holders(), first.conditions, later)
    worse = node_status(replace(of, trouble="the kubelet is away"), Holders(), first.conditions, later)

    assert same == first
    assert [(c.status, c.last_transition_time) for c in worse.conditions] == [
        ("False", "2026-01-02T04:04:05Z"),
        ("True", "2026-01-02T03:04:05Z"),
    ]
    assert worse.conditions[0].message == "the kubelet is away"


def test_unknown_holders_are_said_to_be_unknown_beside_the_last_known() -> None:
    found = node_status(facts(a_machine(count=1)), Holders((holder("GPU-0"),), "no socket"), (), NOW)

    condition = found.conditions[1]
    assert (condition.type, condition.status, condition.message) == ("HoldersKnown", "False", "no socket")
    assert found.resources[0].held == 1


def test_problems_are_listed_once() -> None:
    of = facts(replace(a_machine(count=1), unreadable=("GPU 1 does not answer",)))

    assert status(replace(of, problems=("GPU 1 does not answer",))).problems == ("GPU 1 does not answer",)


def test_sixteen_gpus_with_seven_mig_devices_each_stay_under_100_kib() -> None:
    machine = big_machine()
    held = [holder(i.device.id, pod=f"pod-{i.device.id}") for gpu in machine.gpus for i in gpu.mig]

    found = status(facts(machine, mig=MigStrategy.SINGLE), *held)

    assert found.resources[0].held == 112
    assert len(msgspec.json.encode(found)) < 100 * 1024


@pytest.mark.parametrize("held", [0, 110, 60_000], ids=["idle", "a slice a pod", "all held by one pod"])
def test_sixty_thousand_slices_stay_small(held: int) -> None:
    of = facts(a_machine(count=8), replicas=7_500)
    ids = [s.id for s in of.plan.resources[0].slices][:held]
    holders = [holder(*ids)] if held > 1000 else [holder(i, pod=f"pod-{i}") for i in ids]

    found = status(of, *holders)

    assert found.resources[0].free == 60_000 - held
    assert sum(len(h.slices) for h in found.resources[0].holders) == min(held, MOST_LISTED_SLICES)
    assert sum(h.count for h in found.resources[0].holders) == held
    assert len(msgspec.json.encode(found)) < 100 * 1024
