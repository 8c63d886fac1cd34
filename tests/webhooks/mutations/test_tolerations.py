"""Pods that request accelerators tolerate the taints of the nodes that have them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene
from webhooks.mutations.tolerations import tolerations
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes, NodeFacts, Taint
from webhooks.policy.model import Accelerators, Policy, ResourceTolerations, Toleration

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"


def requests(resource: str, amount: str | int = "1") -> Json:
    return {"resources": {"limits": {resource: amount}, "requests": {resource: amount}}}


def exists(key: str, effect: str = "NoSchedule") -> Json:
    return {"key": key, "operator": "Exists", "effect": effect}


def nodes(*taints: Taint, resource: str = GPU) -> AcceleratorNodes:
    return index_nodes([NodeFacts("node-1", {}, taints, frozenset({resource}))], Policy())


def tolerated(before: Json, *, on: AcceleratorNodes | None = None, policy: Policy | None = None) -> list[Json]:
    found: list[Json] = admit(tolerations, before, scene(policy, nodes=on)).pod["spec"].get("tolerations", [])
    return found


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        pytest.param(GPU, [exists(GPU)], id="a GPU"),
        pytest.param(SHARED, [exists(SHARED), exists(GPU)], id="a renamed resource, whose nodes are tainted for GPUs"),
        pytest.param("nvidia.com/mig-1g.5gb", [exists("nvidia.com/mig-1g.5gb"), exists(GPU)], id="a MIG slice"),
        pytest.param(
            "fpga.tasuki.dev/resize",
            [exists("fpga.tasuki.dev/resize"), exists("fpga.tasuki.dev/function")],
            id="an FPGA function",
        ),
        pytest.param("amd.com/gpu", [exists("amd.com/gpu")], id="another vendor's GPU"),
        pytest.param("nvidia.com/a100", [exists("nvidia.com/a100"), exists(GPU)], id="a GPU by another name"),
        pytest.param("nvidia.com/hostdev", [], id="NVIDIA's network card"),
        pytest.param("example.com/dongle", [], id="no accelerator"),
        pytest.param("cpu", [], id="a CPU"),
    ],
)
def test_resources(resource: str, expected: list[Json]) -> None:
    assert tolerated(pod(container(**requests(resource)))) == expected


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(pod(container(), init=(container("first", gpus=1),)), id="an init container"),
        pytest.param(
            pod(container(), init=(container("beside", gpus=1, restartPolicy="Always"),)), id="a sidecar container"
        ),
        pytest.param(pod(container(resources={"limits": {GPU: 1}})), id="a limit alone, as a number"),
        pytest.param(pod(container(), container("second", gpus=1)), id="the second container"),
    ],
)
def test_who_requests(before: Json) -> None:
    assert tolerated(before) == [exists(GPU)]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(pod(), id="no requests at all"),
        pytest.param(pod(container(resources={"limits": {GPU: "0"}, "requests": {GPU: "0"}})), id="none of a GPU"),
        pytest.param(
            pod(
                container(resources={"claims": [{"name": "gpu"}]}),
                resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
            ),
            id="a claim of DRA",
        ),
        pytest.param(pod(container(gpus=1), tolerations=[{"operator": "Exists"}]), id="everything is tolerated"),
        pytest.param(
            pod(container(gpus=1), tolerations=[{"key": GPU, "operator": "Exists"}]), id="every effect is tolerated"
        ),
        pytest.param(pod(container(gpus=1), tolerations=[exists(GPU)]), id="as the API server adds it"),
    ],
)
def test_pods_that_are_left_alone(before: Json) -> None:
    assert admit(tolerations, before, scene()).operations == []


def test_the_pods_own_tolerations_stay_in_front() -> None:
    own = [{"key": GPU, "operator": "Equal", "value": "present", "effect": "NoSchedule"}, exists("team")]

    assert tolerated(pod(container(gpus=1), tolerations=own)) == [*own, exists(GPU)]


def test_several_resources_are_tolerated_in_alphabetical_order() -> None:
    before = pod(container(**requests(SHARED)), container("other", **requests("fpga.tasuki.dev/resize")))

    assert tolerated(before) == [
        exists("fpga.tasuki.dev/resize"),
        exists(SHARED),
        exists(GPU),
        exists("fpga.tasuki.dev/function"),
    ]


@pytest.mark.parametrize(
    ("taint", "expected"),
    [
        pytest.param(Taint("nvidia.com/a100", "x", "NoSchedule"), [exists("nvidia.com/a100")], id="a vendor's key"),
        pytest.param(
            Taint("nvidia.com/a100", "", "NoExecute"), [exists("nvidia.com/a100", "NoExecute")], id="one that evicts"
        ),
        pytest.param(
            Taint("nvidia.com/a100", "", "PreferNoSchedule"),
            [exists("nvidia.com/a100", "PreferNoSchedule")],
            id="one that discourages",
        ),
        pytest.param(
            Taint(GPU, "present", "NoExecute"), [exists(GPU, "NoExecute")], id="another effect of a known key"
        ),
        pytest.param(Taint(GPU, "present", "NoSchedule"), [], id="one that is tolerated already"),
        pytest.param(Taint("team", "a", "NoSchedule"), [], id="a key that the policy does not learn"),
    ],
)
def test_taints_are_learned_from_the_nodes_that_offer_the_resource(taint: Taint, expected: list[Json]) -> None:
    assert tolerated(pod(container(gpus=1)), on=nodes(taint)) == [exists(GPU), *expected]


def test_nothing_is_learned_from_nodes_with_other_resources() -> None:
    on = nodes(Taint("nvidia.com/a100", "x", "NoSchedule"), resource=SHARED)

    assert tolerated(pod(container(gpus=1)), on=on) == [exists(GPU)]


def test_a_key_with_many_values_is_tolerated_once() -> None:
    on = nodes(Taint("nvidia.com/pool", "a", "NoSchedule"), Taint("nvidia.com/pool", "b", "NoSchedule"))

    assert tolerated(pod(container(gpus=1)), on=on) == [exists(GPU), exists("nvidia.com/pool")]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("node.kubernetes.io/unreachable", id="unreachable"),
        pytest.param("node.cloudprovider.kubernetes.io/shutdown", id="shut down by its cloud"),
    ],
)
def test_conditions_of_nodes_are_never_learned(key: str) -> None:
    policy = Policy(accelerators=Accelerators(learned_taint_keys=("*",)))
    on = nodes(Taint(key, "", "NoExecute"), Taint("team", "a", "NoSchedule"))

    assert tolerated(pod(container(gpus=1)), on=on, policy=policy) == [exists(GPU), exists("team")]


def test_the_policy_adds_tolerations_by_resource() -> None:
    rule = ResourceTolerations(resources=("nvidia.com/mig-*",), tolerations=(Toleration(key="mig", value="yes"),))
    policy = Policy(accelerators=Accelerators(tolerations=(rule,)))

    mig = tolerated(pod(container(**requests("nvidia.com/mig-1g.5gb"))), policy=policy)
    whole = tolerated(pod(container(gpus=1)), policy=policy)

    assert mig == [exists("nvidia.com/mig-1g.5gb"), {"key": "mig", "value": "yes"}]
    assert whole == [exists(GPU)]


RESOURCES = st.sampled_from([GPU, SHARED, "nvidia.com/mig-1g.5gb", "amd.com/gpu", "example.com/dongle", "cpu"])
KEYS = st.sampled_from([GPU, SHARED, "nvidia.com/a100", "team", "node.kubernetes.io/not-ready"])
EFFECTS = st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])
TAINTS = st.lists(st.builds(Taint, KEYS, st.sampled_from(["", "a"]), EFFECTS), max_size=4).map(tuple)
CLUSTERS = st.lists(
    st.builds(
        NodeFacts,
        name=st.uuids().map(str),
        labels=st.just({}),
        taints=TAINTS,
        resources=st.frozensets(RESOURCES, max_size=2),
    ),
    max_size=4,
)
OWN = st.lists(
    st.fixed_dictionaries({"operator": st.just("Exists")}, optional={"key": KEYS, "effect": EFFECTS})
    | st.fixed_dictionaries({"key": KEYS, "value": st.sampled_from(["", "a"])}),
    max_size=3,
)


@settings(max_examples=75, deadline=None)
@given(
    cluster=CLUSTERS,
    main=st.dictionaries(RESOURCES, st.sampled_from(["0", "1"]), max_size=3),
    first=st.dictionaries(RESOURCES, st.just("2"), max_size=1),
    own=OWN,
)
def test_only_tolerations_are_added_and_only_for_accelerators(
    cluster: list[NodeFacts], main: dict[str, str], first: dict[str, str], own: list[Json]
) -> None:
    before = pod(
        container(resources={"limits": main}), init=(container("first", resources={"limits": first}),), tolerations=own
    )

    after = admit(tolerations, before, scene(nodes=index_nodes(cluster, Policy()))).pod

    wanted = {name for name, amount in itertools.chain(main.items(), first.items()) if amount != "0"}
    accelerators = wanted - {"example.com/dongle", "cpu"}
    added = after["spec"].pop("tolerations")[len(own) :]
    assert after["spec"] == {key: value for key, value in before["spec"].items() if key != "tolerations"}
    assert bool(accelerators) or added == []
    assert {"team", "node.kubernetes.io/not-ready"}.isdisjoint(each["key"] for each in added)
    # NoSchedule taints of any accelerator's name keep the pod off no more.
    kept = {each.get("key", name) for each in [*own, *added] if "value" not in each for name in accelerators}
    assert accelerators <= kept
