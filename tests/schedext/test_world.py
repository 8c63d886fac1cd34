"""What the world makes of each change, rule by rule."""

import gc
from itertools import permutations
from typing import Any

import msgspec
import pytest

from schedext.demand import ChainName, Edge
from schedext.heartbeats import SILENT_SECONDS
from schedext.look import Occupancy
from schedext.node import PlacedFunction
from schedext.world import NodeFacts
from tasuki.kube.cache_node import BucketResidency, CacheNodeStatus
from tasuki.kube.collection import Applied, Deleted, ObjectName, Replaced
from tasuki.kube.placement import slices_text
from tests.schedext.accelerators import GIB, GPU, gpu_status, holder, read, status_json
from tests.schedext.caches import holds
from tests.schedext.clusters import ACluster
from tests.schedext.pods import a_container
from tests.schedext.scenes import Scene, kept, on, planned


@pytest.fixture
def scene() -> Scene:
    """One node of two GPUs that are cut in two, all of it listed."""
    made = Scene()
    made.world.take_nodes(Replaced({ObjectName("", "n"): NodeFacts("z")}))
    made.world.take_accelerators(Replaced({ObjectName("", "n"): read(gpu_status(), made.world.layouts)}))
    made.world.take_pods(Replaced({}))
    return made


def test_a_node(scene: Scene) -> None:
    scene.put_node("n", "zone-a", **{"nvidia.com/gpu": 4})
    node = scene.world.nodes["n"]

    assert (node.zone, node.publishes, node.device_ids, node.allocatable) == ("zone-a", True, ("n-0", "n-1"), {GPU: 4})
    assert node.look.occupancy == Occupancy((True, True), ("", ""), (), (), (0, 0), (0, 0))
    assert GPU in scene.world.resources


def test_a_node_that_publishes_nothing(scene: Scene) -> None:
    scene.put_node("bare")
    scene.put_pod("p", "bare", on("n-0"))

    assert not scene.world.nodes["bare"].publishes
    assert scene.look("bare").layout.parts == ()
    assert scene.look("bare").occupancy == Occupancy()


def test_a_node_goes_and_comes_back(scene: Scene) -> None:
    scene.put_pod("p", "n", on("n-0"))
    scene.world.take_nodes(Deleted(ObjectName("", "n")))
    assert "n" not in scene.world.nodes
    scene.put_node("n")

    assert scene.says() == "1 0"


def test_its_accelerators_go_and_come_back(scene: Scene) -> None:
    scene.put_pod("p", "n", on("n-0"))
    scene.world.take_accelerators(Deleted(ObjectName("", "n")))
    assert (scene.world.nodes["n"].publishes, scene.world.nodes["n"].device_ids) == (False, ())
    assert GPU not in scene.world.resources
    scene.publish(gpu_status())

    assert scene.says() == "1 0"


def test_resources_that_could_be_offered() -> None:
    scene = Scene()
    functions = [{"name": "blur", "programmingSeconds": 1.0}]
    region = {"id": "r", "kind": "fpga", "index": "0:0", "model": "x", "memoryBytes": 0, "healthy": True}
    for node in ("a", "b"):
        scene.publish(status_json([region | {"functions": functions}]), node)
    scene.publish(status_json([region]), "a")
    assert set(scene.world.resources) == {"fpga.tasuki.dev/blur"}
    scene.publish(None, "b")

    assert not scene.world.resources


def test_looks_alike_are_one_object(scene: Scene) -> None:
    scene.put_node("m")
    scene.publish(gpu_status(node="m"), "m")
    assert scene.look("m") is scene.look("n")
    scene.put_pod("p", "n", on("n-1"))
    assert scene.look("m") is not scene.look("n")
    scene.put_pod("q", "m", on("m-1"))

    assert scene.look("m") is scene.look("n")


def test_looks_of_the_past_are_forgotten(scene: Scene) -> None:
    for _ in range(20):
        scene.put_pod("p", "n", on("n-0"))
        scene.put_pod("p", "n", on("n-1"))
    gc.collect()

    assert len(scene.world._looks._looks) <= 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"phase": "Running"}, "1 0", id="runs"),
        pytest.param({"phase": "Running", "deletionTimestamp": "2026-01-01T12:00:30Z"}, "1 0", id="is being deleted"),
        pytest.param({"phase": "Succeeded"}, "0 0", id="has ended well"),
        pytest.param({"phase": "Failed"}, "0 0", id="has failed"),
        pytest.param({"uid": "another"}, "1 0", id="was replaced by another"),
    ],
)
def test_a_bound_pod_counts_until_it_ends(scene: Scene, change: dict[str, str], expected: str) -> None:
    scene.put_pod("p", "n", on("n-0"))
    made = scene.tracked("p", "n", on("n-0"), **change)
    scene.world.take_pods(Applied(ObjectName("research", "p"), made))

    assert scene.says() == expected


def test_the_kubelet_still_lists_a_pod_that_has_ended(scene: Scene) -> None:
    scene.put_pod("p", "n")
    scene.publish(gpu_status(holder("p", "n-0::0"), holder("never", "n-1::0")))
    assert scene.says() == "1 0"
    scene.remove_pod("p")

    assert scene.says() == "0 0"


def test_a_successor_of_the_same_name_does_not_inherit(scene: Scene) -> None:
    scene.put_pod("web-0", "n", on("n-0"))
    scene.publish(gpu_status(holder("web-0", "n-0::0")))
    scene.remove_pod("web-0")
    scene.put_pod("web-0", "n", on("n-1"), uid="next")
    assert scene.says() == "0 1"
    scene.publish(gpu_status(holder("web-0", "n-0::0"), sick=[1]))
    assert scene.says() == "0 1"
    scene.publish(gpu_status(holder("web-0", "n-0::1")))

    assert scene.says() == "1 0"


def test_entries_that_come_while_a_place_is_promised_are_the_pods_own(scene: Scene) -> None:
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.publish(gpu_status(holder("p", "n-1::0")))
    scene.put_pod("p", "n", on("n-0"))

    assert scene.says() == "0 1"


def test_everything_of_the_first_lists_belongs_together() -> None:
    scene = Scene()
    scene.put_node()
    scene.publish(gpu_status(holder("p", "n-1::0")))
    scene.world.take_pods(Replaced({ObjectName("research", "p"): scene.tracked("p", "n", on("n-0"))}))

    assert scene.says() == "0 1"


def test_another_pod_of_the_name_in_another_namespace(scene: Scene) -> None:
    scene.put_pod("p", "n")
    scene.publish(gpu_status(holder("p", "n-1::0", namespace="other")))

    assert scene.says() == "0 0 ?1"


def test_a_promise_counts_until_it_is_kept(scene: Scene) -> None:
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    reservation = scene.world.reservation(pod.uid)
    assert reservation is not None
    assert (reservation.node, reservation.expires_at) == ("n", 60.0)
    assert scene.says() == "1 0"
    scene.put_pod("p", "n", on("n-0"))

    assert scene.says() == "1 0"
    assert not scene.world.reservations
    assert scene.freed == []


def test_a_promise_is_taken_back(scene: Scene) -> None:
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.world.release(pod.uid)

    assert scene.says() == "0 0"
    assert scene.freed == ["n"]
    assert scene.world.pod(pod.uid) is pod
    scene.world.release(pod.uid)
    assert scene.freed == ["n"]


def test_a_promise_expires(scene: Scene) -> None:
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.seconds = 59.9
    scene.world.tick()
    assert scene.says() == "1 0"
    scene.seconds = 60
    scene.world.tick()

    assert scene.says() == "0 0"
    assert scene.freed == ["n"]
    assert scene.world.reservation(pod.uid) is None


@pytest.mark.parametrize("known", [True, False], ids=["of a known pod", "of a pod that was never seen"])
def test_a_promise_that_is_over_leaves_nothing(scene: Scene, known: bool) -> None:
    pod = scene.tracked("p", labels={"tasuki.dev/dataflow": "d"})
    assert pod is not None
    if known:
        scene.world.take_pods(Applied(ObjectName("research", "p"), pod))
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    assert len(scene.world.placed(ChainName("research", "d"))) == 1
    if known:
        scene.remove_pod("p")
    else:
        scene.world.release(pod.uid)

    assert scene.says() == "0 0"
    scene.publish(None)
    assert kept(scene.world) == []


def test_a_promise_moves_to_another_node(scene: Scene) -> None:
    scene.put_node("m")
    scene.publish(gpu_status(node="m"), "m")
    scene.freed.clear()
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.world.reserve(pod, "m", on("m-1"), (), 60)

    assert (scene.says("n"), scene.says("m")) == ("0 0", "0 1")
    assert scene.freed == ["n"]


def test_a_pod_that_was_bound_elsewhere_frees_what_it_was_promised(scene: Scene) -> None:
    scene.put_node("m")
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.put_pod("p", "m")

    assert scene.says() == "0 0"
    assert scene.freed == ["n"]


def test_a_pod_that_is_gone_frees_what_it_was_promised(scene: Scene) -> None:
    pod = scene.put_pod("p")
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    scene.world.take_pods(Replaced({}))

    assert scene.says() == "0 0"
    assert not scene.world.reservations


def test_what_a_pod_on_a_shared_node_sees(scene: Scene) -> None:
    options: dict[str, Any] = {"containers": (a_container(),)}
    notes = {"tasuki.dev/gpu-sharing": "shared-node", "tasuki.dev/gpu-memory": "10Gi"}
    pod = scene.put_pod("p", annotations=notes, **options)
    assert scene.look().occupancy.users == (0, 0)
    scene.world.reserve(pod, "n", {}, ("n-1",), 60)
    assert (scene.look().occupancy.users, scene.look().occupancy.promised_bytes) == ((0, 1), (0, 10 * GIB))
    scene.put_pod("p", "n", annotations=notes | {"tasuki.dev/devices": "n-1, n-0"}, **options)

    assert (scene.look().occupancy.users, scene.look().occupancy.taken) == ((1, 1), ())
    scene.remove_pod("p")
    assert scene.freed == ["n"]


@pytest.mark.parametrize(
    ("annotations", "until_minute", "expected"),
    [
        pytest.param(planned(on("n-1")), 5, "0 1", id="as it says"),
        pytest.param(planned(on("n-1"), minutes=600), 10, "0 1", id="not for longer than ten minutes"),
        pytest.param(planned({}), 0, "0 0", id="only the node"),
        pytest.param(planned(on("n-1", "n-1")), 0, "0 0", id="other slices than it wants"),
        pytest.param(planned(on("gone")), 0, "0 0", id="a device that is not there"),
        pytest.param(planned(on("n-1"), minutes=-1), 0, "0 0", id="over already"),
        pytest.param(planned(on("n-1"), node="m"), 0, "0 0", id="another node"),
    ],
)
def test_a_plan_counts_while_it_lasts(
    scene: Scene, annotations: dict[str, str], until_minute: int, expected: str
) -> None:
    scene.put_pod("p", annotations=annotations)
    assert scene.says() == expected
    if until_minute:
        scene.seconds = until_minute * 60 - 1
        scene.world.tick()
        assert scene.says() == expected
        scene.seconds += 1
        scene.world.tick()
        assert scene.freed == ["n"]

    scene.world.tick()
    assert (scene.says() == "0 0") is bool(until_minute or expected == "0 0")


@pytest.mark.parametrize("node", ["n", "gone"])
def test_the_end_of_a_plan_that_keeps_nothing_is_told_too(scene: Scene, node: str) -> None:
    """As its pod may go elsewhere then, of which the scheduler hears nothing."""
    scene.put_pod("p", annotations=planned({}, node=node))
    scene.seconds = 5 * 60
    scene.world.tick()
    scene.world.tick()

    assert scene.freed == ["n"]


def test_a_plan_of_a_pod_without_a_time_of_creation_keeps_nothing(scene: Scene) -> None:
    scene.put_pod("p", annotations=planned(on("n-1")), creationTimestamp=None)

    assert scene.says() == "0 0"


def test_a_planned_pod_is_counted_once(scene: Scene) -> None:
    pod = scene.put_pod("p", annotations=planned(on("n-1")))
    scene.world.reserve(pod, "n", on("n-0"), (), 60)
    assert scene.says() == "1 0"
    scene.world.release(pod.uid)
    assert scene.says() == "0 1"
    scene.put_pod("p", "n", on("n-0"), annotations=planned(on("n-1")))

    assert scene.says() == "1 0"


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({"tasuki.dev/slices": "{"}, id="no JSON"),
        pytest.param({"tasuki.dev/slices": slices_text(on("n-0", "n-1"))}, id="more than it wants"),
        pytest.param({"tasuki.dev/slices": slices_text(on("n-0", container="other"))}, id="another container"),
        pytest.param({"tasuki.dev/slices": "{}"}, id="nothing"),
        pytest.param({"tasuki.dev/objective": "fame"}, id="an unreadable demand"),
    ],
)
def test_a_bound_pod_that_does_not_say_where(scene: Scene, annotations: dict[str, str]) -> None:
    scene.put_pod("p", "n", annotations=annotations)

    assert scene.says() == "0 0 ?1"


def test_a_demand_that_cannot_be_read(scene: Scene) -> None:
    notes = {"tasuki.dev/objective": "fame", "tasuki.dev/slices": slices_text(on("n-1"))}
    pod = scene.put_pod("p", "n", annotations=notes)

    assert "tasuki.dev/objective" in pod.problem
    assert scene.says() == "0 1"


@pytest.mark.parametrize(
    ("options", "concerns"),
    [
        pytest.param({"containers": ()}, False, id="nothing"),
        pytest.param({"containers": (a_container(cpu=1),)}, False, id="only processors"),
        pytest.param({}, True, id="a device"),
        pytest.param({"containers": (), "labels": {"tasuki.dev/dataflow": "d"}}, True, id="a chain"),
        pytest.param({"containers": (), "annotations": planned({})}, True, id="a plan"),
        pytest.param({"containers": (), "annotations": {"tasuki.dev/gpu-sharing": "shared-node"}}, True, id="sees all"),
        pytest.param({"containers": (), "annotations": {"tasuki.dev/pack": "x"}}, True, id="a problem"),
        pytest.param({"phase": "Succeeded"}, False, id="it has ended"),
    ],
)
def test_pods_that_concern_nobody_are_not_kept(scene: Scene, options: dict[str, Any], concerns: bool) -> None:
    scene.world.take_pods(Applied(ObjectName("research", "p"), scene.tracked("p", **options)))

    assert (scene.world.named("research", "p") is not None) is concerns


def test_a_pod_that_concerns_nobody_any_more(scene: Scene) -> None:
    scene.put_pod("p", containers=(), labels={"tasuki.dev/dataflow": "d"})
    scene.world.take_pods(Applied(ObjectName("research", "p"), scene.tracked("p", containers=())))

    assert scene.world.named("research", "p") is None
    assert not scene.world._pods


def test_equal_demands_are_one_object(scene: Scene) -> None:
    one, other = scene.put_pod("a"), scene.put_pod("b", "n")

    assert one.demand is other.demand


def test_waiting_pods(scene: Scene) -> None:
    scene.put_pod("a")
    scene.put_pod("b", "n")
    scene.put_pod("c")
    assert [pod.name for pod in scene.world.waiting()] == ["a", "c"]
    scene.put_pod("a", "n")
    scene.remove_pod("c")

    assert not [*scene.world.waiting()]


def test_the_functions_of_a_chain(scene: Scene) -> None:
    def of_chain(function: str, edges: str = "") -> dict[str, Any]:
        notes = {"tasuki.dev/edges": edges} if edges else {}
        return {"labels": {"tasuki.dev/dataflow": "d", "tasuki.dev/function": function}, "annotations": notes}

    scene.put_pod("bound", "n", on("n-1"), **of_chain("infer", "decode=10@2"))
    scene.put_pod("elsewhere", "not-a-node", **of_chain("infer"))
    scene.put_pod("waits", **of_chain("sink", "infer"))
    promised = scene.put_pod("promised", **of_chain("decode"))
    scene.world.reserve(promised, "n", on("n-0"), (), 60)
    options = of_chain("filter")
    scene.put_pod("planned", labels=options["labels"], annotations=planned({}))
    scene.put_pod("stranger", "n", labels={"tasuki.dev/dataflow": "e"})
    chain = ChainName("research", "d")

    assert scene.world.placed(chain) == [
        PlacedFunction("uid-of-research-promised", "decode", "n", (0,)),
        PlacedFunction("uid-of-research-planned", "filter", "n", ()),
        PlacedFunction("uid-of-research-bound", "infer", "n", (1,)),
    ]
    assert scene.world.declared_edges(chain) == {"infer": (Edge("decode", 10, 2.0),), "sink": (Edge("infer"),)}
    assert scene.world.placed(ChainName("other", "d")) == []
    scene.put_pod("bound", "n", on("n-1"), labels={"tasuki.dev/dataflow": "e"})
    assert [each.function for each in scene.world.placed(chain)] == ["decode", "filter"]


def test_how_a_node_would_look_without_some(scene: Scene) -> None:
    pods = [scene.put_pod(name, "n", on("n-0")) for name in ("a", "b")]
    look = scene.look()

    assert scene.world.look_without("n", [pods[0].uid]).taken(GPU) == (1, 0)
    assert scene.world.look_without("n", {pod.uid for pod in pods}).taken(GPU) == (0, 0)
    assert scene.world.look_without("n", ["stranger"]) is look
    assert scene.world.look_without("nowhere", [pods[0].uid]).layout.parts == ()
    assert scene.look() is look
    assert scene.freed == []


@pytest.mark.parametrize("order", [*permutations(("nodes", "accelerators", "pods"))], ids=" ".join)
def test_room_that_is_there_from_the_first_is_no_news(order: tuple[str, ...]) -> None:
    scene = Scene()
    world, name = scene.world, ObjectName("", "n")
    first = {
        "nodes": lambda: world.take_nodes(Replaced({name: NodeFacts()})),
        "accelerators": lambda: world.take_accelerators(Replaced({name: read(gpu_status())})),
        "pods": lambda: world.take_pods(Replaced({ObjectName("research", "p"): scene.tracked("p", "n", on("n-0"))})),
    }
    for what in order:
        first[what]()
    assert scene.says() == "1 0"
    assert scene.freed == []
    world.take_pods(Replaced({}))

    assert scene.freed == ["n"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(gpu_status(sick=[0]), gpu_status(), ["n"], id="a device is healthy again"),
        pytest.param(gpu_status(), gpu_status(sick=[0]), [], id="a device fails"),
        pytest.param(gpu_status(trouble="away"), gpu_status(), ["n"], id="the device plugin is back"),
        pytest.param(gpu_status(), gpu_status(trouble="away"), [], id="the device plugin is away"),
        pytest.param(gpu_status(gpus=1), gpu_status(), ["n"], id="another device"),
        pytest.param(gpu_status(), gpu_status(), [], id="nothing changed"),
    ],
)
def test_news_of_the_devices(scene: Scene, before: Any, after: Any, expected: list[str]) -> None:
    scene.publish(before)
    scene.freed.clear()
    scene.publish(after)

    assert scene.freed == expected
    assert scene.look().trouble == ("its device plugin says: away" if after == gpu_status(trouble="away") else "")


def test_what_the_caches_hold(scene: Scene) -> None:
    bucket = BucketResidency(name="b", bytes=7, objects=1)
    status = CacheNodeStatus(
        zone="z", serving=True, capacity_bytes=9, used_bytes=7, buckets=(bucket,), observed_time=""
    )
    scene.world.take_caches(Replaced({ObjectName("", "n"): status, ObjectName("", "new"): None}))
    assert scene.world.residency.shares("b")["z"].size_bytes == 7
    scene.world.take_caches(Replaced({}))

    assert not scene.world.residency.shares("b")


def test_a_cache_that_died_without_a_word_counts_no_more(scene: Scene) -> None:
    reported = holds("z", b=7)
    scene.world.take_caches(Replaced({ObjectName("", "dead"): reported, ObjectName("", "n"): reported}))
    scene.seconds = SILENT_SECONDS / 2
    scene.world.take_caches(Applied(ObjectName("", "n"), msgspec.structs.replace(reported, observed_time="later")))

    scene.seconds = SILENT_SECONDS
    scene.world.tick()

    assert scene.world.residency.shares("b")["z"].by_node == {"n": 7}
    assert dict(scene.world.owners.stale()) == {"z": ["n"]}


def test_a_silent_cache_that_is_gone_is_forgotten(scene: Scene) -> None:
    scene.world.take_caches(Applied(ObjectName("", "n"), holds("z", b=7)))
    scene.seconds = SILENT_SECONDS
    scene.world.tick()

    scene.world.take_caches(Replaced({}))

    assert not scene.world.residency.shares("b")


def test_of_a_very_large_chain_the_pods_that_came_first_count() -> None:
    cluster = ACluster()
    cluster.gpu_node("n1")
    chain = {"tasuki.dev/dataflow": "large", "tasuki.dev/function": "f"}
    for number in range(600):
        cluster.pod(name=f"p{number}", node="n1", labels=chain)

    placed = cluster.world.placed(ChainName("research", "large"))

    assert {each.uid for each in placed} == {f"uid-of-research-p{number}" for number in range(500)}
