import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from schedext import judging
from schedext.costs import DEFAULT_COSTS, Way
from schedext.deciding import Choice, Decider
from schedext.placement import Refusal
from schedext.pod import Pod
from schedext.tracked import TrackedPod
from schedext.wire import Victims
from tasuki.kube.collection import Deleted, ObjectName
from tasuki.kube.names import BOUND_SLICES, PLAN
from tasuki.kube.placement import Plan, plan_text, slices_text
from tests.schedext.clusters import GI, NOON, ACluster, accelerator_node, fpga_node, gpu_ids
from tests.schedext.pods import GPU, Json, a_container

UNTIL = "2026-01-01T12:05:00Z"


@pytest.fixture
def cluster() -> ACluster:
    return ACluster()


@pytest.fixture
def decider(cluster: ACluster) -> Decider:
    return Decider(cluster.world, DEFAULT_COSTS, lambda: cluster.now)


def bound(cluster: ACluster, name: str, node: str, devices: Sequence[str], **options: object) -> Pod:
    """A pod that holds one slice of each of these devices."""
    counts = {device: devices.count(device) for device in devices}
    annotations = {BOUND_SLICES: slices_text({"main": {GPU: counts}})}
    return cluster.pod(a_container(gpus=len(devices)), name=name, node=node, annotations=annotations, **options)


def scored(decider: Decider, pod: Pod, *names: str) -> dict[str, int]:
    answer = [json.loads(each) for each in decider.prioritize(pod, names)]
    assert [each["Host"] for each in answer] == list(names)
    return {each["Host"]: each["Score"] for each in answer}


def tracked(cluster: ACluster, pod: Pod) -> TrackedPod:
    found = cluster.world.pod(pod.metadata.uid)
    assert found is not None
    return found


def test_a_node_without_room_is_busy_and_one_without_devices_never_suits(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("free")
    cluster.gpu_node("full", gpus=1)
    cluster.node("none")
    bound(cluster, "other", "full", gpu_ids("full", 1))

    found = decider.filter(cluster.pod(a_container(gpus=1)), ["none", "full", "free"])

    assert found.names == ["free"]
    assert list(found.failed) == ["full"]
    assert list(found.unresolvable) == ["none"]


def test_names_stay_in_order(cluster: ACluster, decider: Decider) -> None:
    names = [f"n{number}" for number in (3, 1, 2)]
    for name in names:
        cluster.gpu_node(name)

    assert decider.filter(cluster.pod(a_container(gpus=1)), names).names == names


def test_a_node_that_is_not_known_yet_is_busy(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("known")

    found = decider.filter(cluster.pod(a_container(gpus=1)), ["known", "new"])

    assert found.names == ["known"]
    assert found.failed == {"new": "the extender has not seen it yet"}


def test_a_pod_without_devices_fits_everywhere(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a")

    assert decider.filter(cluster.pod(a_container(cpu=1)), ["a", "unknown"]).names == ["a", "unknown"]


def test_resources_that_no_node_publishes_are_the_schedulers(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a")

    pod = cluster.pod(a_container(gpus=1, example_com__rdma=4))

    assert decider.filter(pod, ["a"]).names == ["a"]


def test_what_cannot_be_read_suits_nowhere_and_says_why(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a")
    pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/spread": "racks"})

    found = decider.filter(pod, ["a"])

    assert found.names == []
    assert "write devices or none" in found.unresolvable["a"]
    assert scored(decider, pod, "a") == {"a": 0}


def test_filter_leaves_everything_as_it_is(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a", gpus=1)
    pods = [cluster.pod(a_container(gpus=1), name=f"p{number}") for number in range(3)]

    assert all(decider.filter(pod, ["a"]).names == ["a"] for pod in pods)
    assert not cluster.world.reservations


def test_a_pods_own_reservation_does_not_stand_in_its_way(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a", gpus=1)
    pod, other = cluster.pod(a_container(gpus=1)), cluster.pod(a_container(gpus=1), name="other")
    cluster.world.reserve(tracked(cluster, pod), "a", {"main": {GPU: {gpu_ids("a")[0]: 1}}}, (), 60.0)

    assert decider.filter(pod, ["a"]).names == ["a"]
    assert list(decider.filter(other, ["a"]).failed) == ["a"]


def test_while_a_binding_is_under_way_the_pod_fits_nowhere_else(cluster: ACluster, decider: Decider) -> None:
    for name in "ab":
        cluster.gpu_node(name)
    pod = cluster.pod(a_container(gpus=1))
    cluster.world.reserve(tracked(cluster, pod), "a", {"main": {GPU: {gpu_ids("a")[0]: 1}}}, (), 60.0)

    found = decider.filter(pod, ["a", "b"])

    assert found.names == ["a"]
    assert found.failed == {"b": "a binding to node a is under way, and may still succeed"}


class TestForeignDevicePlugins:
    def test_are_left_to_the_scheduler(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("ours")
        cluster.node("theirs", nvidia_com__gpu=4)
        pod = cluster.pod(a_container(gpus=1))

        assert decider.filter(pod, ["ours", "theirs"]).names == ["ours", "theirs"]
        assert decider.choose(tracked(cluster, pod), cluster.world.nodes["theirs"]) == Choice({})

    def test_cannot_keep_what_needs_to_know_devices(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("ours")
        cluster.node("theirs", nvidia_com__gpu=4)
        pod = cluster.pod(a_container(gpus=2), annotations={"tasuki.dev/spread": "devices"})

        found = decider.filter(pod, ["ours", "theirs"])

        assert found.names == ["ours"]
        assert "tasuki.dev/spread" in found.unresolvable["theirs"]


class TestRegionsThatHoldAnotherFunction:
    def cluster_with_one(self, cluster: ACluster) -> None:
        """A region that is held as `resize`, of whose four channels one container may hold any."""
        functions = {"resize": 2.0, "blur": 2.0}
        published = fpga_node(
            "a", ["resize"], functions, {"fpga.tasuki.dev/resize": [0], "fpga.intel.com/region-x": []}
        )
        published["status"]["devices"][0]["claimed"] = True
        # The kubelet's word, which is some seconds old.
        cluster.node("a", accelerators=published, fpga_tasuki_dev__blur=1)
        slices = {"main": {"fpga.tasuki.dev/resize": {"FPGA-a-0": 1}}}
        holds = a_container(fpga_tasuki_dev__resize=1)
        cluster.pod(holds, name="holder", node="a", annotations={BOUND_SLICES: slices_text(slices)})

    @pytest.mark.parametrize(
        ("resource", "count"),
        [
            pytest.param("fpga.tasuki.dev/blur", 1, id="another function"),
            pytest.param("fpga.tasuki.dev/resize", 2, id="more channels than are listed while it is held"),
            pytest.param("fpga.intel.com/region-x", 1, id="under the name of another vendor's plugin"),
        ],
    )
    def test_are_busy(self, cluster: ACluster, decider: Decider, resource: str, count: int) -> None:
        self.cluster_with_one(cluster)
        limits = {resource: str(count)}
        pod = cluster.pod({"name": "main", "resources": {"limits": limits, "requests": limits}})

        found = decider.filter(pod, ["a"])

        assert (found.names, list(found.failed), found.unresolvable) == ([], ["a"], {})


def test_what_an_earlier_configuration_handed_out_is_in_use(cluster: ACluster, decider: Decider) -> None:
    """A whole GPU is held, and then offered in four slices of another name."""
    cluster.gpu_node("a", gpus=1)
    holder = bound(cluster, "holder", "a", gpu_ids("a", 1))
    shared = accelerator_node("a", 1, 4, resource="nvidia.com/gpu.shared")
    held = {"namespace": "research", "pod": "holder", "container": "main", "count": 1, "slices": gpu_ids("a", 1)}
    shared["status"]["resources"].append({"name": GPU, "devices": [], "holders": [held]})
    cluster.publish(shared)
    limits = {"nvidia.com/gpu.shared": "1"}
    pod = cluster.pod({"name": "main", "resources": {"limits": limits, "requests": limits}}, name="p")
    assert list(decider.filter(pod, ["a"]).failed) == ["a"]

    cluster.gone(holder)

    assert decider.filter(pod, ["a"]).names == ["a"]
    assert "a" in cluster.freed


@pytest.mark.parametrize("declared_first", [True, False])
def test_declared_memory_is_kept_from_those_who_declare_none(
    cluster: ACluster, decider: Decider, declared_first: bool
) -> None:
    cluster.gpu_node("a", gpus=1, replicas=4)
    memory = {"tasuki.dev/gpu-memory": "38Gi"}
    slices = {BOUND_SLICES: slices_text({"main": {GPU: {gpu_ids("a")[0]: 1}}})}
    here, next_ = (memory, {}) if declared_first else ({}, memory)
    cluster.pod(a_container(gpus=1), name="first", node="a", annotations=slices | here)

    found = decider.filter(cluster.pod(a_container(gpus=1), name="second", annotations=next_), ["a"])

    assert (found.names, list(found.failed)) == ([], ["a"])


def test_functions_without_devices_are_best_on_one_node(cluster: ACluster, decider: Decider) -> None:
    chain = {"tasuki.dev/dataflow": "camera"}
    for name in ("here", "near"):
        cluster.node(name, "z1")
    cluster.pod(a_container(cpu=1), name="a", node="here", labels=chain | {"tasuki.dev/function": "decode"})
    pod = cluster.pod(a_container(cpu=1), name="b", labels=chain | {"tasuki.dev/function": "resize"})

    assert scored(decider, pod, "near", "here") == {"near": 0, "here": 10}


class TestPlans:
    def planned(self, cluster: ACluster, node: str, until: str = UNTIL, **options: object) -> Pod:
        plan = Plan(node=node, until=until, slices={"main": {GPU: {gpu_ids(node)[0]: 1}}})
        created = NOON.isoformat()
        return cluster.pod(
            a_container(gpus=1), annotations={PLAN: plan_text(plan)}, creationTimestamp=created, **options
        )

    def test_admit_only_their_node(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("a")
        cluster.gpu_node("b")

        found = decider.filter(self.planned(cluster, "b"), ["a", "b"])

        assert found.names == ["b"]
        assert found.unresolvable == {"a": f"its chain is planned with it on node b until {UNTIL}"}

    def test_end(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("a")
        cluster.gpu_node("b")
        pod = self.planned(cluster, "b")

        cluster.now += timedelta(minutes=6)

        assert decider.filter(pod, ["a", "b"]).names == ["a", "b"]

    def test_keep_their_devices_from_others(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("a", gpus=1)
        pod = self.planned(cluster, "a", name="planned")
        other = cluster.pod(a_container(gpus=1), name="other")

        assert list(decider.filter(other, ["a"]).failed) == ["a"]
        assert decider.filter(pod, ["a"]).names == ["a"]

    def test_bind_only_there(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("a")
        cluster.gpu_node("b")
        pod = self.planned(cluster, "b")

        assert isinstance(decider.choose(tracked(cluster, pod), cluster.world.nodes["a"]), Refusal)


class TestScores:
    def test_are_equal_where_it_makes_no_difference(self, cluster: ACluster, decider: Decider) -> None:
        for name in "ab":
            cluster.gpu_node(name)

        found = scored(decider, cluster.pod(a_container(gpus=1)), "a", "b")

        assert found["a"] == found["b"]

    def test_small_requests_leave_whole_nodes_whole(self, cluster: ACluster, decider: Decider) -> None:
        for name in ("whole", "begun"):
            cluster.gpu_node(name)
        bound(cluster, "other", "begun", gpu_ids("begun")[:5])

        found = scored(decider, cluster.pod(a_container(gpus=1)), "whole", "begun")

        assert found == {"whole": 0, "begun": 10}

    def test_a_neighbour_on_the_node_counts_more_than_one_in_the_zone(
        self, cluster: ACluster, decider: Decider
    ) -> None:
        cluster.gpu_node("here", "z1", replicas=4)
        cluster.gpu_node("near", "z1", replicas=4)
        cluster.gpu_node("far", "z2", replicas=4)
        chain = {"tasuki.dev/dataflow": "camera"}
        bound(cluster, "decode", "here", gpu_ids("here")[:1], labels=chain | {"tasuki.dev/function": "decode"})
        pod = cluster.pod(a_container(gpus=1), labels=chain | {"tasuki.dev/function": "infer"})

        found = scored(decider, pod, "far", "near", "here")

        assert found["here"] == 10 > found["near"] > found["far"] == 0

    def test_and_the_same_device_is_chosen_there(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("here", replicas=4)
        chain = {"tasuki.dev/dataflow": "camera"}
        bound(cluster, "decode", "here", gpu_ids("here")[6:7], labels=chain | {"tasuki.dev/function": "decode"})
        edges = {"tasuki.dev/edges": "decode=1G@30"}
        pod = cluster.pod(a_container(gpus=1), labels=chain | {"tasuki.dev/function": "infer"}, annotations=edges)

        found = decider.choose(tracked(cluster, pod), cluster.world.nodes["here"])

        assert isinstance(found, Choice)
        assert found.devices == (gpu_ids("here")[6],)

    def test_data_in_the_zone_counts(self, cluster: ACluster, decider: Decider) -> None:
        for name, zone in (("has", "z1"), ("beside", "z1"), ("away", "z2")):
            cluster.gpu_node(name, zone)
        cluster.cache("has", "z1", imagenet=1000 * GI)
        pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/cache-buckets": "imagenet"})

        found = scored(decider, pod, "away", "beside", "has")

        assert found["has"] >= found["beside"] > found["away"] == 0

    def test_data_counts_where_every_gpu_is_yet_to_be_shared(self, cluster: ACluster, decider: Decider) -> None:
        for name, zone in (("a", "z1"), ("b", "z2"), ("c", "z3")):
            cluster.gpu_node(name, zone, replicas=10)
        cluster.cache("b", "z2", imagenet=150 * GI)
        pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/cache-buckets": "imagenet"})

        assert scored(decider, pod, "a", "b", "c") == {"a": 0, "b": 10, "c": 0}

    def test_the_owner_of_named_objects_goes_before_others_that_hold_as_much(self, cluster: ACluster) -> None:
        slow_network = replace(DEFAULT_COSTS, zone=Way(1e9, 30e-6))
        decider = Decider(cluster.world, slow_network, lambda: cluster.now)
        for name in ("n1", "n2", "n3"):
            cluster.gpu_node(name, "z")
            cluster.cache(name, "z", imagenet=10_000 * GI)
        table = cluster.make_table("z")
        objects = [key for n in range(900) if table.owner(key := f"imagenet/{n}") == "n2"]
        pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/cache-objects": ",".join(objects)})

        assert scored(decider, pod, "n1", "n2", "n3") == {"n1": 0, "n2": 10, "n3": 0}

    def test_a_region_that_holds_the_function_goes_before_one_to_be_programmed(
        self, cluster: ACluster, decider: Decider
    ) -> None:
        functions, offered = (
            {"resize": 20.0, "blur": 20.0},
            {"fpga.tasuki.dev/resize": [0], "fpga.tasuki.dev/blur": [0]},
        )
        cluster.node("loaded", accelerators=fpga_node("loaded", ["resize"], functions, offered))
        cluster.node("other", accelerators=fpga_node("other", ["blur"], functions, offered))
        pod = cluster.pod(a_container(fpga_tasuki_dev__resize=1))

        assert decider.filter(pod, ["other", "loaded"]).names == ["other", "loaded"]
        assert scored(decider, pod, "other", "loaded") == {"other": 0, "loaded": 10}

    def test_efficiency_goes_by_watts(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("thirsty", watts=700)
        cluster.gpu_node("frugal", watts=300)
        pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/objective": "efficiency"})

        assert scored(decider, pod, "thirsty", "frugal") == {"thirsty": 0, "frugal": 10}

    def test_nodes_that_do_not_fit_or_are_unknown_get_the_least(self, cluster: ACluster, decider: Decider) -> None:
        cluster.gpu_node("whole")
        cluster.gpu_node("begun")
        cluster.node("none")
        bound(cluster, "other", "begun", gpu_ids("begun")[:5])

        found = scored(decider, cluster.pod(a_container(gpus=1)), "none", "begun", 'strange "name"', "whole")

        assert found == {"none": 0, "begun": 10, 'strange "name"': 0, "whole": 0}


class TestPreemption:
    def test_keeps_nodes_where_the_victims_free_what_is_needed(self, cluster: ACluster, decider: Decider) -> None:
        for name in ("right", "wrong"):
            cluster.gpu_node(name, gpus=2, replicas=2)
        # On `right` both victims are on one device, on `wrong` each is on another beside a pod that stays.
        for name, devices in (("right", (0, 0, 1, 1)), ("wrong", (0, 1, 0, 1))):
            ids = gpu_ids(name)
            for number, device in enumerate(devices):
                bound(cluster, f"{name}-{number}", name, [ids[device]])
        pod = cluster.pod(a_container(gpus=2), annotations={"tasuki.dev/pack": "device"})
        victims = {
            name: Victims((f"uid-of-research-{name}-0", f"uid-of-research-{name}-1")) for name in ("right", "wrong")
        }

        assert decider.preempt(pod, victims) == {"right": victims["right"]}

    def test_of_pods_without_devices_is_the_schedulers(self, cluster: ACluster, decider: Decider) -> None:
        victims = {"a": Victims(("u",), 1)}

        assert decider.preempt(cluster.pod(a_container(cpu=1)), victims) == victims


def test_choosing_names_devices_for_each_container(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("a", gpus=4)
    pod = cluster.pod(a_container("x", gpus=1), a_container("y", gpus=2), init=(a_container("i", gpus=3),))

    found = decider.choose(tracked(cluster, pod), cluster.world.nodes["a"])

    assert isinstance(found, Choice)
    assert {name: sum(r[GPU].values()) for name, r in found.slices.items()} == {"x": 1, "y": 2, "i": 3}
    assert len(found.devices) == 3
    assert set(found.slices["i"][GPU]) == set(found.slices["x"][GPU]) | set(found.slices["y"][GPU])


async def no_rest() -> None:
    """But others have a turn."""
    await asyncio.sleep(0)


def test_what_containers_are_called_and_how_many_take_turns_is_not_judged_anew(
    cluster: ACluster, decider: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.gpu_node("n")
    init = [a_container(f"prepare-{number}", gpus=1) for number in range(1000)]
    first, second = cluster.pod(a_container("one", gpus=1)), cluster.pod(a_container("main", gpus=1), init=init)
    assert decider.filter(first, ["n"]).names == ["n"]

    monkeypatch.setattr(judging, "place", None)

    assert decider.filter(second, ["n"]).names == ["n"]
    assert len(decider.prioritize(second, ["n"])) == 1


async def test_explaining_leaves_time_to_others(cluster: ACluster, decider: Decider) -> None:
    for number in range(200):
        cluster.gpu_node(f"n{number:03}")
    pod = cluster.pod(a_container(gpus=1))
    explaining = asyncio.ensure_future(decider.explain(pod, no_rest))
    await asyncio.sleep(0)

    cluster.world.take_nodes(Deleted(ObjectName("", "n199")))

    assert not explaining.done()
    assert len((await explaining).nodes) == 199


def test_explaining_tells_every_node(cluster: ACluster, decider: Decider) -> None:
    cluster.gpu_node("good", "z1")
    cluster.gpu_node("full", "z1", gpus=1)
    cluster.node("none")
    bound(cluster, "other", "full", gpu_ids("full", 1))
    pod = cluster.pod(a_container(gpus=1), annotations={"tasuki.dev/objective": "efficiency"})

    found = asyncio.run(decider.explain(pod, no_rest))

    assert (found.pod, found.objective) == ("research/example", "efficiency")
    by_name = {node.name: node for node in found.nodes}
    assert by_name["good"].fits
    assert by_name["good"].devices == (gpu_ids("good")[0],)
    assert by_name["good"].seconds
    assert (by_name["full"].fits, by_name["full"].never) == (False, False)
    assert (by_name["none"].fits, by_name["none"].never) == (False, True)


def test_explaining_agrees_with_the_scores(cluster: ACluster, decider: Decider) -> None:
    chain: Json = {"tasuki.dev/dataflow": "camera"}
    for number in range(6):
        cluster.gpu_node(f"n{number}", f"z{number % 2}", replicas=2)
    bound(cluster, "a", "n1", gpu_ids("n1")[:1], labels=chain | {"tasuki.dev/function": "decode"})
    bound(cluster, "b", "n2", gpu_ids("n2")[:3])
    cluster.cache("n3", "z1", coco=50 * GI)
    pod = cluster.pod(
        a_container(gpus=1),
        labels=chain | {"tasuki.dev/function": "infer"},
        annotations={"tasuki.dev/cache-buckets": "coco"},
    )

    explained = {node.name: node.score for node in asyncio.run(decider.explain(pod, no_rest)).nodes}

    assert explained == scored(decider, pod, *(f"n{number}" for number in range(6)))
    assert explained["n1"] == 10


def test_explaining_tells_whose_the_named_objects_are(cluster: ACluster, decider: Decider) -> None:
    for number in range(7):
        cluster.gpu_node(f"n{number}", "z1" if number else "")
        cluster.cache(f"n{number}", "z1" if number else "", coco=GI)
    annotations = {"tasuki.dev/cache-objects": "\n".join(f"coco/{n}" for n in range(100))}
    pod = cluster.pod(a_container(gpus=1), annotations=annotations)

    before = asyncio.run(decider.explain(pod, no_rest)).notes
    table = cluster.make_table("z1")
    cluster.make_table("")
    after = asyncio.run(decider.explain(pod, no_rest)).notes

    owners = Counter(table.owner(f"coco/{n}") for n in range(100))
    first, count = min(owners.items(), key=lambda each: (-each[1], each[0]))
    assert "not made yet: what nodes report counts, not whose the 100 objects are" in before[0]
    assert after[0] == "of the 100 objects that it names, caches in no zone have: n0 100"
    assert after[1].startswith(f"of the 100 objects that it names, caches in zone z1 have: {first} {count}, ")
    assert after[1].endswith(", …")
