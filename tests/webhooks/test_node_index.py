"""The index answers as the scheduler would, asked about one node after another."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, pod
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes, NodeFacts, Taint
from webhooks.pod import Pod
from webhooks.policy.model import Accelerators, Policy

GPU = "nvidia.com/gpu"


def node(
    name: str = "node-1",
    *taints: str,
    labels: dict[str, str] | None = None,
    resources: tuple[str, ...] = (GPU,),
    kubelet: tuple[int, int] = (1, 36),
    idle: tuple[str, ...] = (),
) -> NodeFacts:
    """Taints as kubectl writes them: `key=value:effect`."""
    made = []
    for taint in taints:
        key_value, _, effect = taint.partition(":")
        key, _, value = key_value.partition("=")
        made.append(Taint(key, value, effect))
    return NodeFacts(name, labels or {}, tuple(made), frozenset(resources), kubelet, frozenset(idle))


def index(*nodes: NodeFacts, policy: Policy | None = None) -> AcceleratorNodes:
    return index_nodes(nodes, policy or Policy())


def parsed(before: Json) -> Pod:
    return msgspec.convert(before, Pod)


def required(*terms: Json) -> Json:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator, "values": list(values)}


PLAIN = parsed(pod())


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(node(), True, id="a resource that the policy lists"),
        pytest.param(node(resources=("nvidia.com/mig-1g.5gb",)), True, id="a resource that a glob matches"),
        pytest.param(node(resources=("nvidia.com/a100",)), True, id="a GPU by another name"),
        pytest.param(node(resources=(), idle=(GPU,)), True, id="a resource of which it has none just now"),
        pytest.param(node(resources=("nvidia.com/hostdev",)), False, id="NVIDIA's network cards"),
        pytest.param(node(resources=("example.com/dongle",)), False, id="another resource"),
        pytest.param(node(resources=(), labels={"nvidia.com/gpu.present": "true"}), True, id="a label"),
        pytest.param(node(resources=(), labels={"cloud.google.com/gke-accelerator": "t4"}), True, id="another label"),
        pytest.param(node(resources=(), labels={"nvidia.com/gpu.present": "false"}), False, id="a label that says no"),
        pytest.param(node(resources=()), False, id="nothing"),
    ],
)
def test_which_nodes_have_accelerators(facts: NodeFacts, expected: bool) -> None:
    assert index(facts).could_land(PLAIN) is expected


def test_resources_are_the_accelerators_of_all_nodes() -> None:
    nodes = index(node(resources=("nvidia.com/mig-1g.5gb", "example.com/dongle")), node("node-2"))

    assert nodes.resources == (GPU, "nvidia.com/mig-1g.5gb")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(node(resources=(GPU,), idle=("nvidia.com/gpu.shared",)), (GPU,), id="a former name"),
        pytest.param(node(resources=(), idle=(GPU,)), (GPU,), id="while the plugin is away"),
        pytest.param(node(resources=("fpga.tasuki.dev/a",), idle=(GPU,)), ("fpga.tasuki.dev/a", GPU), id="one of two"),
    ],
)
def test_what_stands_at_zero_is_offered_unless_its_domain_has_another_name(
    facts: NodeFacts, expected: tuple[str, ...]
) -> None:
    nodes = index(facts)

    assert nodes.resources == expected
    assert [name for name in (*facts.resources, *facts.idle) if nodes.label_values(name, {}) is not None] == [*expected]


def test_taints_are_known_of_what_stands_at_zero() -> None:
    nodes = index(node("node-1", "team=a:NoSchedule", resources=(GPU,), idle=("nvidia.com/gpu.shared",)))

    assert nodes.taints("nvidia.com/gpu.shared") == (Taint("team", "a", "NoSchedule"),)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(node(), True, id="a GPU"),
        pytest.param(node(resources=(), idle=(GPU,)), True, id="a GPU that is away"),
        pytest.param(node(resources=("fpga.tasuki.dev/a", "amd.com/xilinx_u250")), False, id="FPGAs"),
        pytest.param(node(resources=("amd.com/gpu", "google.com/tpu", "gpu.intel.com/i915")), False, id="other makers"),
        pytest.param(
            node(resources=("fpga.tasuki.dev/a",), labels={"nvidia.com/gpu.present": "true"}), True, id="a label"
        ),
        pytest.param(node(resources=()), False, id="nothing"),
    ],
)
def test_which_nodes_may_have_nvidias_gpus(facts: NodeFacts, expected: bool) -> None:
    assert index(facts).may_have_nvidia is expected


def test_the_policys_own_resources_may_be_nvidias_gpus() -> None:
    policy = Policy(accelerators=Accelerators(resources=("aliyun.com/gpu-mem",)))

    assert index(node(resources=("aliyun.com/gpu-mem",)), policy=policy).may_have_nvidia


def test_the_oldest_kubelet_may_be_on_a_node_without_accelerators() -> None:
    nodes = index(node(kubelet=(1, 36)), node("node-2", resources=(), kubelet=(1, 9)), node("node-3", kubelet=(1, 35)))

    assert nodes.oldest_kubelet == (1, 9)


def test_a_cluster_without_nodes_offers_nothing() -> None:
    nodes = index()

    assert (*nodes.resources, *nodes.taints(GPU)) == ()
    assert nodes.oldest_kubelet == (0, 0)
    assert nodes.label_values(GPU, {}) is None
    assert not nodes.could_land(PLAIN)


def test_taints_are_those_of_the_nodes_with_the_resource() -> None:
    nodes = index(
        node("node-1", "b:NoSchedule", "a=1:NoExecute"),
        node("node-2", "a=1:NoExecute", "c:PreferNoSchedule"),
        node("node-3", "d:NoSchedule", resources=("nvidia.com/gpu.shared",)),
    )

    assert nodes.taints(GPU) == (
        Taint("a", "1", "NoExecute"), Taint("b", "", "NoSchedule"), Taint("c", "", "PreferNoSchedule")
    )  # fmt: skip


MODELS = index(
    node("node-1", labels={"model": "H100", "pool": "x"}),
    node("node-2", labels={"model": "A100", "pool": "x"}),
    node("node-3", labels={"model": "T4-SHARED"}),
    node("node-4", labels={"model": "L4"}, resources=("nvidia.com/gpu.shared",)),
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param({"model": "*"}, {"model": ("A100", "H100", "T4-SHARED")}, id="any value, sorted"),
        pytest.param({"model": "?100"}, {"model": ("A100", "H100")}, id="values of a glob"),
        pytest.param({"model": "*", "pool": "x"}, {"model": ("A100", "H100"), "pool": ("x",)}, id="every label counts"),
        pytest.param({"model": "!*-SHARED"}, {"model": ("A100", "H100")}, id="all values but those of a glob"),
        pytest.param({"model": "*", "pool": "!*"}, {"model": ("T4-SHARED",), "pool": ()}, id="without a label"),
        pytest.param({"pool": "!y"}, {"pool": ("x",)}, id="absence is not the value"),
        pytest.param({}, {}, id="no label wanted"),
        pytest.param({"model": "L4"}, None, id="a value on nodes with another resource only"),
        pytest.param({"absent": "*"}, None, id="a label on no node"),
    ],
)
def test_values_of_labels(wanted: dict[str, str], expected: dict[str, tuple[str, ...]] | None) -> None:
    assert MODELS.label_values(GPU, wanted) == expected


LINUX = {"kubernetes.io/os": "linux"}
WINDOWS = {"kubernetes.io/os": "windows"}
TOLERATE_GPU = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("facts", "spec", "expected"),
    [
        pytest.param(node("node-1", "t:NoSchedule"), {}, False, id="a taint that is not tolerated"),
        pytest.param(node("node-1", "t:NoExecute"), {}, False, id="a taint that also evicts"),
        pytest.param(node("node-1", "t:PreferNoSchedule"), {}, True, id="a taint that only discourages"),
        pytest.param(node("node-1", f"{GPU}=present:NoSchedule"), {"tolerations": TOLERATE_GPU}, True, id="tolerated"),
        pytest.param(
            node("node-1", f"{GPU}=present:NoSchedule", "team=a:NoSchedule"),
            {"tolerations": TOLERATE_GPU},
            False,
            id="one of two taints tolerated",
        ),
        pytest.param(
            node("node-1", "t=1:NoSchedule"),
            {"tolerations": [{"key": "t", "operator": "Gt", "value": "0"}]},
            False,
            id="an alpha operator tolerates nothing",
        ),
        pytest.param(node("node-1", "node.kubernetes.io/unschedulable:NoSchedule"), {}, True, id="cordoned"),
        pytest.param(
            node("node-1", "node.cloudprovider.kubernetes.io/uninitialized=true:NoSchedule"), {}, True, id="starting"
        ),
        pytest.param(node("node-1", "t:NoSchedule"), {"nodeName": "node-1"}, True, id="past the scheduler"),
        pytest.param(node("node-1"), {"nodeName": "node-2"}, False, id="put on another node"),
        pytest.param(node(labels=LINUX), {"os": {"name": "windows"}}, False, id="a windows pod, a linux node"),
        pytest.param(node(labels=WINDOWS), {"os": {"name": "windows"}}, True, id="a windows pod, a windows node"),
        pytest.param(node(), {"os": {"name": "windows"}}, False, id="a windows pod, a node that does not say"),
        pytest.param(node(labels=LINUX), {"os": {"name": "linux"}}, True, id="a linux pod, a linux node"),
        pytest.param(node(labels=WINDOWS), {"os": {"name": "linux"}}, False, id="a linux pod, a windows node"),
        pytest.param(node(), {"os": {"name": "linux"}}, True, id="a linux pod, a node that does not say"),
        pytest.param(node(labels=WINDOWS), {}, True, id="a pod that does not say, a windows node"),
        pytest.param(
            node("node-1", labels=LINUX),
            {"os": {"name": "windows"}, "nodeName": "node-1"},
            False,
            id="a windows pod put on a linux node",
        ),
        pytest.param(
            node("node-1", labels=WINDOWS),
            {"os": {"name": "windows"}, "nodeName": "node-1"},
            True,
            id="a windows pod put on a windows node",
        ),
        pytest.param(
            node(labels={"x": "7"}),
            {"affinity": required({"matchExpressions": [expression("y", "Exists"), expression("x", "Exists")]})},
            False,
            id="one of two expressions of a term holds",
        ),
        pytest.param(
            node(labels={"x": "7"}),
            {
                "affinity": required(
                    {"matchExpressions": [expression("y", "Exists")]}, {"matchExpressions": [expression("x", "Exists")]}
                )
            },
            True,
            id="one of two terms holds",
        ),
        pytest.param(
            node(labels={"x": "7"}),
            {
                "affinity": required(
                    {
                        "matchExpressions": [expression("x", "Exists")],
                        "matchFields": [expression("metadata.name", "In", "node-2")],
                    }
                )
            },
            False,
            id="the expression of a term holds but its field does not",
        ),
        pytest.param(node(labels={"x": "7"}), {"nodeSelector": {"x": "7", "y": "8"}}, False, id="half a node selector"),
        pytest.param(
            node(labels={"x": " 7"}),
            {"affinity": required({"matchExpressions": [expression("x", "Gt", "1")]})},
            False,
            id="a number with a blank is none",
        ),
        pytest.param(
            node(labels={"x": "9223372036854775808"}),
            {"affinity": required({"matchExpressions": [expression("x", "Gt", "1")]})},
            False,
            id="a number beyond 64 bits is none",
        ),
        pytest.param(
            node(labels={"x": "7"}),
            {"affinity": required({"matchExpressions": [expression("x", "Lt", "9" * 5000)]})},
            False,
            id="a bound of thousands of digits",
        ),
        pytest.param(node(), {"affinity": required()}, False, id="affinity without terms"),
        pytest.param(node(), {"affinity": {"nodeAffinity": {}}}, True, id="no required affinity"),
        pytest.param(
            node(),
            {"affinity": required({"matchFields": [expression("metadata.uid", "In", "1")]})},
            False,
            id="a field that there is not",
        ),
    ],
)
def test_landing(facts: NodeFacts, spec: Json, expected: bool) -> None:
    assert index(facts).could_land(parsed(pod(**spec))) is expected


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {"affinity": required({"matchExpressions": [expression("x", "Exists"), expression("y", "Exists")]})},
            id="two expressions",
        ),
        pytest.param({"nodeSelector": {"x": "1", "y": "1"}}, id="two selected labels"),
        pytest.param(
            {"nodeSelector": {"x": "1"}, "affinity": required({"matchExpressions": [expression("y", "Exists")]})},
            id="a selected label and an expression",
        ),
        pytest.param(
            {
                "affinity": required(
                    {
                        "matchExpressions": [expression("y", "Exists")],
                        "matchFields": [expression("metadata.name", "In", "node-1")],
                    }
                )
            },
            id="an expression and a field",
        ),
    ],
)
def test_one_node_must_meet_everything(spec: Json) -> None:
    nodes = index(node("node-1", labels={"x": "1"}), node("node-2", labels={"y": "1"}))

    assert not nodes.could_land(parsed(pod(**spec)))


def test_the_policy_says_what_an_accelerator_is() -> None:
    policy = Policy(accelerators=Accelerators(resources=("example.com/*",), node_labels={}))

    nodes = index(node(), node("node-2", resources=("example.com/dongle",)), policy=policy)

    assert nodes.resources == ("example.com/dongle",)
    assert not nodes.could_land(parsed(pod(nodeName="node-1")))


# The oracle: each node for itself, as the scheduler's documentation says it.


def lands(facts: NodeFacts, before: Json) -> bool:
    spec = before["spec"]
    hard = [taint for taint in facts.taints if taint.effect != "PreferNoSchedule"]
    if not all(any(holds_off(each, taint) for each in spec.get("tolerations", [])) for taint in hard):
        return False
    if any(facts.labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    if "affinity" not in spec:
        return True
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return any(
        bool(term)
        and all(suits(facts.labels, each) for each in term.get("matchExpressions", []))
        and all(suits({"metadata.name": facts.name}, each) for each in term.get("matchFields", []))
        for term in terms
    )


def holds_off(toleration: Json, taint: Taint) -> bool:
    same_key = toleration.get("key", "") in {"", taint.key}
    same_effect = toleration.get("effect", "") in {"", taint.effect}
    exists = toleration.get("operator") == "Exists"
    return same_key and same_effect and (exists or toleration.get("value", "") == taint.value)


def suits(labels: Any, wanted: Json) -> bool:
    key, values = wanted["key"], wanted["values"]
    match wanted["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case "Gt":
            return is_number(labels.get(key)) and int(labels[key]) > int(values[0])
        case "Lt":
            return is_number(labels.get(key)) and int(labels[key]) < int(values[0])
    raise AssertionError(wanted["operator"])


def is_number(text: str | None) -> bool:
    return text is not None and text.removeprefix("-").isdigit()


NAMES = st.sampled_from(["node-1", "node-2", "node-3"])
KEYS = st.sampled_from(["a", "b"])
VALUES = st.sampled_from(["", "1", "2", "-5", "x"])
NUMBERS = st.sampled_from(["1", "0", "-9", "+1"])
EFFECTS = ["NoSchedule", "NoExecute", "PreferNoSchedule"]
NODES = st.lists(
    st.builds(
        NodeFacts,
        name=NAMES,
        labels=st.dictionaries(KEYS, VALUES, max_size=2),
        taints=st.lists(st.builds(Taint, KEYS, VALUES, st.sampled_from(EFFECTS)), max_size=2).map(tuple),
        resources=st.sampled_from([frozenset[str](), frozenset({GPU}), frozenset({GPU, "nvidia.com/gpu.shared"})]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda facts: facts.name,
)
EXPRESSIONS = (
    st.builds(expression, KEYS, st.sampled_from(["In", "NotIn"]), VALUES)
    | st.builds(expression, KEYS, st.sampled_from(["In", "NotIn"]), VALUES, VALUES)
    | st.builds(expression, KEYS, st.sampled_from(["Exists", "DoesNotExist"]))
    | st.builds(expression, KEYS, st.sampled_from(["Gt", "Lt"]), NUMBERS)
)
FIELDS = st.builds(expression, st.just("metadata.name"), st.sampled_from(["In", "NotIn"]), NAMES)
TERMS = st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.lists(EXPRESSIONS, min_size=1, max_size=2),
        "matchFields": st.lists(FIELDS, min_size=1, max_size=1),
    },
)
EXISTS = st.fixed_dictionaries(
    {"operator": st.just("Exists")}, optional={"key": KEYS, "effect": st.sampled_from(EFFECTS)}
)
EQUALS = st.fixed_dictionaries(
    {"key": KEYS, "value": VALUES},
    optional={"operator": st.just("Equal"), "effect": st.sampled_from(EFFECTS)},
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "tolerations": st.lists(EXISTS | EQUALS, max_size=3),
        "nodeSelector": st.dictionaries(KEYS, VALUES, max_size=2),
        "affinity": st.lists(TERMS, max_size=2).map(lambda terms: required(*terms)),
    },
)


LABELS: list[dict[str, str]] = [{}, *({"a": value} for value in ("", "1", "2", "-5", "x"))]
WANTED = [
    *(expression("a", operator, *values) for operator in ("In", "NotIn") for values in (("1",), ("1", "x"), ("",))),
    *(expression("a", operator) for operator in ("Exists", "DoesNotExist")),
    *(expression("a", operator, bound) for operator in ("Gt", "Lt") for bound in ("1", "0", "-9", "+1")),
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_each_operator_answers_as_the_scheduler_does(wanted: Json, labels: dict[str, str]) -> None:
    before = pod(affinity=required({"matchExpressions": [wanted]}))

    assert index(node(labels=labels)).could_land(parsed(before)) is suits(labels, wanted)


@pytest.mark.parametrize("operator", ["In", "NotIn"])
@pytest.mark.parametrize("name", ["node-1", "node-2"])
def test_nodes_are_selected_by_name(operator: str, name: str) -> None:
    before = pod(affinity=required({"matchFields": [expression("metadata.name", operator, name)]}))

    assert index(node("node-1")).could_land(parsed(before)) is ((operator == "In") == (name == "node-1"))


@settings(max_examples=250, deadline=None)
@given(nodes=NODES, specs=st.lists(SPECS, min_size=1, max_size=3))
def test_the_index_answers_as_the_nodes_one_by_one(nodes: list[NodeFacts], specs: list[Json]) -> None:
    made = index(*nodes)

    answers = [made.could_land(parsed(pod(**spec))) for spec in specs]

    expected = [any(lands(facts, pod(**spec)) for facts in nodes if facts.resources) for spec in specs]
    assert answers == expected
