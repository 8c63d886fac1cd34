from datetime import UTC, datetime

import msgspec
import pytest

from schedext.demand import (
    DEFAULT_ITEM_BYTES,
    DEFAULT_ITEMS_PER_SECOND,
    ChainName,
    Demand,
    DemandError,
    Edge,
    NamedObjects,
    Objective,
    Turn,
    Want,
    at_once,
    demand,
    matches_wants,
)
from schedext.pod import Pod
from tasuki.kube.placement import Plan, plan_text
from tests.schedext.pods import GPU, Json, a_container, a_pod


@pytest.mark.parametrize(
    ("init", "containers", "most"),
    [
        pytest.param([], [a_container(gpus=2)], {GPU: 2}, id="one container"),
        pytest.param([], [a_container("a", gpus=2), a_container("b", gpus=1)], {GPU: 3}, id="containers add up"),
        pytest.param([a_container("i", gpus=4)], [a_container(gpus=1)], {GPU: 4}, id="an init container may need most"),
        pytest.param([a_container("i", gpus=1)], [a_container(gpus=2)], {GPU: 2}, id="init containers hand on"),
        pytest.param(
            [a_container("i", gpus=2), a_container("j", gpus=3)], [a_container(gpus=1)], {GPU: 3},
            id="init containers run one by one",
        ),
        pytest.param(
            [a_container("s", sidecar=True, gpus=1)], [a_container(gpus=2)], {GPU: 3}, id="sidecars stay",
        ),
        pytest.param(
            [a_container("s", sidecar=True, gpus=1), a_container("i", gpus=3)], [a_container(gpus=1)], {GPU: 4},
            id="sidecars run beside later init containers",
        ),
        pytest.param(
            [a_container("i", gpus=3), a_container("s", sidecar=True, gpus=1)], [a_container(gpus=1)], {GPU: 3},
            id="but not beside earlier ones",
        ),
        pytest.param([], [a_container(cpu=2, gpus=0)], {}, id="neither processors nor nothing"),
        pytest.param(
            [], [a_container("a", gpus=1, fpga_tasuki_dev__resize=1)], {GPU: 1, "fpga.tasuki.dev/resize": 1},
            id="several resources",
        ),
    ],
)  # fmt: skip
def test_the_most_that_a_pod_holds_at_once(init: list[Json], containers: list[Json], most: dict[str, int]) -> None:
    found = demand(a_pod(*containers, init=tuple(init)))

    assert at_once(found.wants) == most
    assert dict(found.shape.counts) == most


def test_wants_are_in_the_kubelets_order() -> None:
    found = demand(
        a_pod(a_container("m", gpus=1), init=(a_container("i", gpus=2), a_container("s", sidecar=True, gpus=1)))
    )

    assert found.wants == (
        Want("i", Turn.INIT, GPU, 2),
        Want("s", Turn.SIDECAR, GPU, 1),
        Want("m", Turn.MAIN, GPU, 1),
    )
    assert found.shape.largest == (2,)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"metadata": {"name": "p", "creationTimestamp": None}, "spec": {"containers": None}}, id="nulls"),
        pytest.param({"metadata": {"labels": None, "annotations": None}, "spec": {}}, id="no maps"),
        pytest.param({"spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}}, id="no requests"),
        pytest.param({"spec": {"containers": [{"name": "c", "resources": {"limits": None}}]}}, id="null limits"),
        pytest.param({}, id="nothing at all"),
    ],
)
def test_what_go_leaves_out_or_writes_as_null_is_no_demand(document: Json) -> None:
    assert demand(msgspec.convert(document, Pod)) == Demand()


def test_a_limit_alone_is_a_request() -> None:
    pod = msgspec.convert({"spec": {"containers": [{"name": "c", "resources": {"limits": {GPU: 1}}}]}}, Pod)

    assert demand(pod).wants == (Want("c", Turn.MAIN, GPU, 1),)


def test_annotations_say_the_rest() -> None:
    annotations = {
        "tasuki.dev/spread": " devices ",
        "tasuki.dev/gpu-memory": "10Gi",
        "tasuki.dev/objective": "efficiency",
        "tasuki.dev/cache-buckets": "imagenet, coco",
        "tasuki.dev/edges": "decode=1Mi@60, infer",
        "tasuki.dev/plan": plan_text(
            Plan(node="n1", until="2026-01-31T12:00:00Z", slices={"main": {GPU: {"GPU-1": 1}}})
        ),
    }
    labels = {"tasuki.dev/dataflow": "camera", "tasuki.dev/function": "resize"}

    found = demand(a_pod(a_container(gpus=1), annotations=annotations, labels=labels))

    assert (found.shape.spread, found.shape.pack, found.shape.memory_bytes) == (True, False, 10 * 2**30)
    assert found.objective is Objective.EFFICIENCY
    assert found.buckets == ("coco", "imagenet")
    assert found.chain is not None
    assert found.chain.name == ChainName("research", "camera")
    assert found.chain.function == "resize"
    assert found.chain.edges == (
        Edge("decode", 2**20, 60.0),
        Edge("infer", DEFAULT_ITEM_BYTES, DEFAULT_ITEMS_PER_SECOND),
    )
    assert found.plan is not None
    assert (found.plan.node, found.plan.until) == ("n1", datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert found.plan.slices == {"main": {GPU: {"GPU-1": 1}}}


def test_objects_are_hashed_as_envoy_hashes_them() -> None:
    """XXH64 of `bucket/object` as sent, without the query; the values are of the library's own command."""
    written = "models/llama.bin\nimagenet/train/000.jpg,\n  imagenet/train/000.jpg?v=2 bk/s3://h/bucket/key"

    found = demand(a_pod(annotations={"tasuki.dev/cache-objects": written}))

    assert found.objects == (
        NamedObjects("bk", (0x22FC0CDEBDBA6419,)),
        NamedObjects("imagenet", (0xB36E546689D6BA88, 0xB36E546689D6BA88)),
        NamedObjects("models", (0xA2DA960BBE8EB0FD,)),
    )


def test_escapes_are_part_of_an_objects_name() -> None:
    found = demand(a_pod(annotations={"tasuki.dev/cache-objects": "b/x%2Fy b/x/y"}))

    assert len(set(found.objects[0].hashes)) == 2


def test_the_buckets_of_named_objects_are_read_beside_others() -> None:
    annotations = {"tasuki.dev/cache-objects": "imagenet/o", "tasuki.dev/cache-buckets": "coco,imagenet"}

    found = demand(a_pod(annotations=annotations))

    assert found.buckets == ("coco", "imagenet")
    assert [each.bucket for each in found.objects] == ["imagenet"]


def test_objects_named_twice_count_once() -> None:
    assert len(demand(a_pod(annotations={"tasuki.dev/cache-objects": "b/o, b/o"})).objects[0].hashes) == 1


def test_a_chain_without_edges_leaves_them_open() -> None:
    found = demand(a_pod(labels={"tasuki.dev/dataflow": "camera"}))

    assert found.chain is not None
    assert found.chain.edges is None


@pytest.mark.parametrize(
    ("annotations", "visible"),
    [
        pytest.param({"tasuki.dev/gpu-sharing": "shared-node"}, 1, id="one unless it says more"),
        pytest.param({"tasuki.dev/gpu-sharing": "shared-node", "tasuki.dev/gpu-devices": "all"}, -1, id="all"),
        pytest.param({"tasuki.dev/gpu-sharing": "shared-node", "tasuki.dev/gpu-devices": "0,1"}, 2, id="so many"),
        pytest.param({}, 0, id="none elsewhere"),
    ],
)
def test_pods_on_shared_nodes_see_gpus(annotations: dict[str, str], visible: int) -> None:
    assert demand(a_pod(annotations=annotations)).shape.visible_gpus == visible


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        pytest.param({"tasuki.dev/spread": "nodes"}, "'nodes'; write devices or none", id="spread"),
        pytest.param({"tasuki.dev/pack": "devices"}, "'devices'; write device", id="pack"),
        pytest.param({"tasuki.dev/spread": "devices", "tasuki.dev/pack": "device"}, "remove one of them", id="both"),
        pytest.param({"tasuki.dev/gpu-memory": "lots"}, "write for example 10Gi", id="memory in words"),
        pytest.param({"tasuki.dev/gpu-memory": "-1Gi"}, "whole number of bytes", id="negative memory"),
        pytest.param({"tasuki.dev/gpu-memory": "0"}, "whole number of bytes", id="no memory"),
        pytest.param({"tasuki.dev/objective": "fast"}, "write performance, efficiency or balanced", id="objective"),
        pytest.param({"tasuki.dev/plan": "{"}, "tasuki.dev/plan", id="plan that is no JSON"),
        pytest.param({"tasuki.dev/plan": '{"node":"","until":""}'}, "name the node", id="plan without node"),
        pytest.param({"tasuki.dev/plan": '{"node":"a","until":"noon"}'}, "tasuki.dev/plan", id="plan without time"),
        pytest.param(
            {"tasuki.dev/plan": '{"node":"a","until":"2026-01-31T12:00:00"}'}, "time zone", id="plan without zone"
        ),
        pytest.param(
            {"tasuki.dev/cache-buckets": ",".join(f"b{n}" for n in range(300))}, "300 buckets", id="too many buckets"
        ),
        pytest.param(
            {"tasuki.dev/cache-objects": ",".join(f"b{n}/o" for n in range(300))}, "300 buckets", id="objects in many"
        ),
        pytest.param(
            {"tasuki.dev/cache-objects": ",".join(f"b/{n}" for n in range(1001))}, "1001 objects", id="too many objects"
        ),
        pytest.param({"tasuki.dev/cache-objects": "o"}, "'o' is no object; write bucket/object", id="no bucket"),
        pytest.param({"tasuki.dev/cache-objects": "b/"}, "'b/' is no object", id="bucket without object"),
        pytest.param({"tasuki.dev/cache-objects": "B_x/o"}, "'B_x/o' is no object", id="no bucket's name"),
        pytest.param({"tasuki.dev/cache-objects": "b/\u00e9"}, "is no object", id="what nobody can send"),
    ],
)
def test_what_means_nothing_is_told_with_field_value_and_remedy(annotations: dict[str, str], said: str) -> None:
    with pytest.raises(DemandError, match=next(iter(annotations)).split("/")[1]) as told:
        demand(a_pod(annotations=annotations))

    assert said in str(told.value)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        pytest.param("decode=1Mi@", "write function=bytes@rate", id="no rate after @"),
        pytest.param("=5", "write function=bytes@rate", id="no function"),
        pytest.param("decode=x", "'x' is not a quantity", id="no quantity"),
        pytest.param("decode=-1", "not from 0 to 1P", id="negative"),
        pytest.param("a,a", "names 'a' twice", id="twice"),
    ],
)
def test_edges_that_mean_nothing_are_told(edges: str, said: str) -> None:
    with pytest.raises(DemandError) as told:
        demand(a_pod(annotations={"tasuki.dev/edges": edges}, labels={"tasuki.dev/dataflow": "camera"}))

    assert said in str(told.value)


@pytest.mark.parametrize("amount", ["1.5", "-1", "many", "1e30", "2000000"])
def test_amounts_that_nobody_can_count_are_told(amount: str) -> None:
    with pytest.raises(DemandError, match=r"'main'.*nvidia\.com/gpu|nvidia\.com/gpu"):
        demand(a_pod(a_container(gpus=amount)))


@pytest.mark.parametrize(
    ("slices", "matches"),
    [
        pytest.param({"main": {GPU: {"a": 1, "b": 1}}}, True, id="as many as asked"),
        pytest.param({"main": {GPU: {"a": 1}}}, False, id="too few"),
        pytest.param({"main": {GPU: {"a": 3}}}, False, id="too many"),
        pytest.param({"other": {GPU: {"a": 2}}}, False, id="another container"),
        pytest.param({}, False, id="none"),
    ],
)
def test_slices_match_what_was_asked(slices: dict[str, dict[str, dict[str, int]]], matches: bool) -> None:
    assert matches_wants(slices, demand(a_pod(a_container(gpus=2))).wants) is matches
