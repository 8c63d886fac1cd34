"""`tasuki.dev/gpu-slice` becomes what the cluster offers, where it offers it."""

import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.config.model import Config, Flags, MigStrategy, SharedResource, Sharing, SharingStrategy
from deviceplugin.labels import labels
from deviceplugin.machine import Machine
from deviceplugin.resources import plan
from tests.builders import a_gpu, a_machine, a_mig_instance
from tests.webhook_builders import Admitted, Json, admit, container, pod, scene
from webhooks.mutations.gpu_slices import gpu_slices
from webhooks.mutations.tolerations import tolerations
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes, NodeFacts, Taint
from webhooks.pod import Pod
from webhooks.policy.model import GpuSlices, Policy, SliceOffer
from webhooks.scene import RefusedError, Scene

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"
MIG = "nvidia.com/mig-1g.5gb"
SLICE = "tasuki.dev/gpu-slice"
SHARING = "nvidia.com/gpu.sharing-strategy"
A100 = "NVIDIA-A100-SXM4-40GB"


def wanting(word: str, *containers: Json, **fields: object) -> Json:
    made = pod(*containers)
    made["metadata"]["annotations"] = {SLICE: word}
    made["spec"] |= fields
    return made


def asking(resource: str, amount: str | int = "1", *, name: str = "main") -> Json:
    return container(name, resources={"limits": {resource: amount}, "requests": {resource: amount}})


# Nodes with the labels that the feature discovery in our device plugin writes, which are NVIDIA's.


def published(machine: Machine, config: Config, name: str = "node-1") -> NodeFacts:
    """What a node with this machine and configuration shows."""
    cut = plan(machine, config)
    taints = (Taint(GPU, "present", "NoSchedule"),)
    return NodeFacts(
        name, labels(machine, cut, config, None), taints, frozenset(resource.name for resource in cut.resources)
    )


def sharing(resource: str = GPU, *, rename: str = "", devices: str | tuple[str, ...] = "all") -> Sharing:
    entry = SharedResource(name=resource, rename=rename or resource, replicas=4, devices=devices)  # type: ignore[arg-type]
    return Sharing(strategy=SharingStrategy.TIME_SLICING, resources=(entry,))


PLAIN = Config()
SINGLE = Flags(mig_strategy=MigStrategy.SINGLE)
MIXED = Flags(mig_strategy=MigStrategy.MIXED)


def cut_up(*profiles: str) -> Machine:
    return a_machine(a_gpu(0, mig=tuple(a_mig_instance(0, n, profile) for n, profile in enumerate(profiles))))


WHOLE_NODE = published(a_machine(count=2), PLAIN, "whole")
RENAMED_NODE = published(a_machine(count=2), Config(sharing=sharing(rename=SHARED)), "renamed")
HALF_NODE = published(a_machine(count=2), Config(sharing=sharing(rename=SHARED, devices=("1",))), "half")
SLICED_NODE = published(a_machine(count=2), Config(sharing=sharing()), "sliced")
MIXED_NODE = published(cut_up("1g.5gb", "2g.10gb", "1g.5gb+me"), Config(flags=MIXED), "mixed")
SINGLE_NODE = published(cut_up("1g.5gb", "1g.5gb"), Config(flags=SINGLE), "single")
SINGLE_SLICED_NODE = published(cut_up("1g.5gb", "1g.5gb"), Config(flags=SINGLE, sharing=sharing()), "single-and-sliced")


def gke(**sharing_and_size: str) -> NodeFacts:
    return NodeFacts(
        "gke",
        {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}
        | {f"cloud.google.com/gke-gpu-{key.replace('_', '-')}": value for key, value in sharing_and_size.items()},
        (Taint(GPU, "present", "NoSchedule"),),
        frozenset({GPU}),
    )


def nodes(*facts: NodeFacts) -> AcceleratorNodes:
    return index_nodes(facts, Policy())


def where(*facts: NodeFacts, policy: Policy | None = None) -> Scene:
    return scene(policy, nodes=nodes(*facts))


def amounts(admitted: Admitted | Json, index: int = 0, kind: str = "containers") -> Json:
    """The limits of a container, which its requests equal."""
    after = admitted.pod if isinstance(admitted, Admitted) else admitted
    resources: Json = after["spec"][kind][index].get("resources", {})
    assert resources.get("limits") == resources.get("requests")
    found: Json = resources.get("limits", {})
    return found


def expressions(admitted: Admitted) -> list[Json]:
    affinity = admitted.pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [{}]})
    found: list[Json] = required["nodeSelectorTerms"][0].get("matchExpressions", [])
    return found


@pytest.mark.parametrize(
    ("word", "facts", "resource", "lands"),
    [
        pytest.param("timeshare", RENAMED_NODE, SHARED, True, id="timeshared under another name"),
        pytest.param("timeshare", HALF_NODE, SHARED, True, id="one GPU timeshared under another name, one whole"),
        pytest.param("timeshare", SLICED_NODE, GPU, True, id="timeshared under its own name"),
        pytest.param("timeshare", gke(sharing_strategy="time-sharing"), GPU, True, id="timeshared by GKE"),
        pytest.param("timeshare", gke(sharing_strategy="mps"), SHARED, False, id="GKE shares in another way"),
        pytest.param("timeshare", WHOLE_NODE, SHARED, False, id="whole GPUs are not timeshared"),
        pytest.param("mig-1g.5gb", MIXED_NODE, MIG, True, id="MIG slices of several sizes"),
        pytest.param("mig-1g.5gb+me", MIXED_NODE, f"{MIG}.me", True, id="a profile with media engines"),
        pytest.param("mig-1g.5gb.me", MIXED_NODE, f"{MIG}.me", True, id="as resources spell such a profile"),
        pytest.param("mig-1g.5gb", SINGLE_NODE, GPU, True, id="MIG slices of one size"),
        pytest.param("mig-1g.5gb", SINGLE_SLICED_NODE, MIG, False, id="MIG slices that are shared"),
        pytest.param("mig-1g.5gb", gke(partition_size="1g.5gb"), GPU, True, id="MIG slices by GKE"),
        pytest.param(
            "mig-1g.5gb",
            gke(partition_size="1g.5gb", sharing_strategy="time-sharing"),
            MIG,
            False,
            id="MIG slices that GKE shares",
        ),
        pytest.param("mig-3g.20gb", MIXED_NODE, "nvidia.com/mig-3g.20gb", False, id="a size that there is not"),
        pytest.param("whole", WHOLE_NODE, GPU, True, id="whole"),
        pytest.param("whole", HALF_NODE, GPU, True, id="the whole one beside a timeshared one of another name"),
        pytest.param("whole", gke(), GPU, True, id="whole on GKE"),
        pytest.param("whole", SLICED_NODE, GPU, False, id="timeshared ones are not whole"),
        pytest.param("whole", SINGLE_NODE, GPU, False, id="MIG slices are not whole"),
        pytest.param("whole", gke(sharing_strategy="time-sharing"), GPU, False, id="not whole by GKE"),
        pytest.param("whole", gke(partition_size="1g.5gb"), GPU, False, id="partitioned by GKE"),
    ],
)
def test_a_slice_becomes_what_a_node_offers(word: str, facts: NodeFacts, resource: str, lands: bool) -> None:
    admitted = admit(gpu_slices, wanting(word, asking(GPU)), where(facts, WHOLE_NODE if word != "whole" else facts))

    assert amounts(admitted) == {resource: "1"}
    assert bool(admitted.change.warnings) is not lands
    # Where the nodes' labels tell, the pod keeps off those that do not offer it.
    assert could_get(admitted.pod, facts) is lands
    assert word == "whole" or not could_get(admitted.pod, WHOLE_NODE)


def could_get(after: Json, facts: NodeFacts) -> bool:
    """Whether the scheduler would put the pod on the node, tolerations given."""
    tolerant = after | {"spec": after["spec"] | {"tolerations": [{"operator": "Exists"}]}}
    return amounts(after).keys() <= facts.resources and nodes(facts).could_land(msgspec.convert(tolerant, Pod))


def test_a_label_with_one_value_is_selected() -> None:
    admitted = admit(gpu_slices, wanting("mig-1g.5gb"), where(SINGLE_NODE))

    assert admitted.pod["spec"]["nodeSelector"] == {
        "nvidia.com/mig.strategy": "single",
        "nvidia.com/gpu.product": f"{A100}-MIG-1g.5gb",
    }


def test_a_label_with_several_values_is_required_by_affinity() -> None:
    other = NodeFacts(
        "other", {**SINGLE_NODE.labels, "nvidia.com/gpu.product": "H100-MIG-1g.5gb"}, (), frozenset({GPU})
    )

    admitted = admit(gpu_slices, wanting("mig-1g.5gb"), where(SINGLE_NODE, other))

    assert expressions(admitted) == [
        {
            "key": "nvidia.com/gpu.product",
            "operator": "In",
            "values": ["H100-MIG-1g.5gb", f"{A100}-MIG-1g.5gb"],
        }
    ]


def test_whole_gpus_keep_off_the_shared_models_that_are_known() -> None:
    admitted = admit(gpu_slices, wanting("whole"), where(WHOLE_NODE, SLICED_NODE))

    assert expressions(admitted) == [
        {"key": "nvidia.com/gpu.product", "operator": "NotIn", "values": [f"{A100}-SHARED"]},
        {"key": "nvidia.com/gpu.slices.gi", "operator": "DoesNotExist"},
        {"key": "cloud.google.com/gke-gpu-sharing-strategy", "operator": "DoesNotExist"},
        {"key": "cloud.google.com/gke-gpu-partition-size", "operator": "DoesNotExist"},
    ]


OWN_OFFERS = Policy(
    gpu_slices=GpuSlices(
        timeshare=(
            SliceOffer(
                resource=SHARED,
                node_labels={
                    "exact": "yes",
                    "pattern": "a*",
                    "any": "*",
                    "not": "!no",
                    "unlike": "!b*",
                    "without": "!*",
                },
            ),
        ),
        mig=(),
    )
)


@pytest.mark.parametrize(
    "surroundings",
    [
        pytest.param(scene(OWN_OFFERS), id="nodes are not known"),
        pytest.param(where(WHOLE_NODE, policy=OWN_OFFERS), id="no node offers it"),
    ],
)
def test_without_an_offer_the_first_is_taken_with_what_needs_no_node_to_resolve(surroundings: Scene) -> None:
    admitted = admit(gpu_slices, wanting("timeshare"), surroundings)

    assert amounts(admitted) == {SHARED: "1"}
    assert admitted.pod["spec"]["nodeSelector"] == {"exact": "yes"}
    assert expressions(admitted) == [
        {"key": "any", "operator": "Exists"},
        {"key": "not", "operator": "NotIn", "values": ["no"]},
        {"key": "without", "operator": "DoesNotExist"},
    ]


@pytest.mark.parametrize(
    ("facts", "word", "expected"),
    [
        pytest.param(
            [WHOLE_NODE, MIXED_NODE],
            "mig-1g.10gb",
            "no node offers tasuki.dev/gpu-slice: mig-1g.10gb now; the pod waits for one. "
            "Offered are: mig-2g.10gb, mig-1g.5gb, mig-1g.5gb.me, whole",
            id="the nearest first",
        ),
        pytest.param(
            [SINGLE_NODE, gke(partition_size="3g.20gb")],
            "whole",
            "no node offers tasuki.dev/gpu-slice: whole now; the pod waits for one. "
            "Offered are: mig-1g.5gb, mig-3g.20gb",
            id="profiles that only labels tell",
        ),
        pytest.param(
            [],
            "timeshare",
            "no node offers tasuki.dev/gpu-slice: timeshare now; the pod waits for one. Offered are: no GPUs at all",
            id="no nodes",
        ),
    ],
)
def test_a_slice_that_no_node_offers_is_warned_of(facts: list[NodeFacts], word: str, expected: str) -> None:
    assert admit(gpu_slices, wanting(word), where(*facts)).change.warnings == (expected,)


@pytest.mark.parametrize(
    ("selector", "resource"),
    [
        pytest.param({}, SHARED, id="any node"),
        pytest.param({"host": "renamed"}, SHARED, id="the node where they are renamed"),
        pytest.param({"host": "plain"}, GPU, id="the node where they are not"),
    ],
)
def test_the_offer_is_one_of_the_nodes_that_the_pod_selects(selector: dict[str, str], resource: str) -> None:
    shared = NodeFacts("a", {"host": "renamed"}, (), frozenset({SHARED}))
    plain = NodeFacts("b", {"host": "plain", SHARING: "time-slicing"}, (), frozenset({GPU}))
    before = wanting("timeshare", **({"nodeSelector": selector} if selector else {}))

    admitted = admit(gpu_slices, before, where(shared, plain))

    assert amounts(admitted) == {resource: "1"}
    assert admitted.change.warnings == ()


def test_a_selection_of_nodes_that_offer_no_such_slice_is_warned_of() -> None:
    shared = NodeFacts("a", {"host": "renamed"}, (), frozenset({SHARED}))
    before = wanting("timeshare", nodeSelector={"host": "elsewhere"})

    admitted = admit(gpu_slices, before, where(shared))

    assert amounts(admitted) == {SHARED: "1"}
    assert admitted.change.warnings == (
        f"no node that nodeSelector admits offers {SLICE}: timeshare now; the pod waits for one",
    )


def test_a_name_that_a_device_plugin_has_given_up_is_no_offer() -> None:
    renamed_back = replace(SLICED_NODE, idle=frozenset({SHARED}))

    admitted = admit(gpu_slices, wanting("timeshare", asking(GPU)), where(renamed_back))

    assert amounts(admitted) == {GPU: "1"}
    assert admitted.change.warnings == ()


@pytest.mark.parametrize(
    ("word", "warned"), [pytest.param("whole", True, id="by labels"), pytest.param("timeshare", False, id="by name")]
)
def test_a_daemon_sets_pods_are_warned_of_nodes_on_which_they_would_wait(word: str, *, warned: bool) -> None:
    before = wanting(word, asking(GPU))
    before["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "1", "controller": True}
    ]

    admitted = admit(gpu_slices, before, where(WHOLE_NODE, RENAMED_NODE))

    assert [f"{SLICE}: {word} selects nodes" in warning for warning in admitted.change.warnings] == [True] * warned
    assert all(len(warning) < 200 for warning in admitted.change.warnings)


def test_a_warning_is_short_however_much_is_offered() -> None:
    profiles = frozenset(f"nvidia.com/mig-{n}g.{n * 111}gb.{'x' * 20}" for n in range(1, 9))

    admitted = admit(gpu_slices, wanting(f"mig-9g.999gb.{'y' * 20}"), where(NodeFacts("a", {}, (), profiles)))

    (warning,) = admitted.change.warnings
    assert len(warning) < 200


def test_unknown_nodes_are_no_reason_to_warn() -> None:
    admitted = admit(gpu_slices, wanting("timeshare", asking(GPU)), scene())

    assert amounts(admitted) == {SHARED: "1"}
    assert admitted.change.warnings == ()


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param(asking(GPU, 2), {SHARED: 2}, id="an amount stays, also as a number"),
        pytest.param(asking(SHARED, "3"), {SHARED: "3"}, id="the right resource stays"),
        pytest.param(container(), {SHARED: "1"}, id="nothing asked for is one"),
        pytest.param(container(resources={}), {SHARED: "1"}, id="empty resources"),
        pytest.param(
            container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
            {"cpu": "1", SHARED: "1"},
            id="beside a CPU",
        ),
        pytest.param(
            container(resources={"limits": {GPU: "1", SHARED: "0"}, "requests": {GPU: "1", SHARED: "0"}}),
            {SHARED: "1"},
            id="none of the right one and some of the general",
        ),
        pytest.param(
            container(resources={"limits": {SHARED: "0"}, "requests": {SHARED: "0"}}),
            {SHARED: "1"},
            id="none of the right one",
        ),
    ],
)
def test_amounts(before: Json, expected: Json) -> None:
    admitted = admit(gpu_slices, wanting("timeshare", before), where(RENAMED_NODE))

    assert amounts(admitted) == expected


def test_a_limit_alone_is_renamed_alone() -> None:
    before = wanting("timeshare", container(resources={"limits": {GPU: "1"}}))

    after = admit(gpu_slices, before, where(RENAMED_NODE)).pod

    assert after["spec"]["containers"][0]["resources"] == {"limits": {SHARED: "1"}}


def test_a_claim_stays_beside_the_gpu() -> None:
    before = wanting("timeshare", container(resources={"claims": [{"name": "nic"}]}), resourceClaims=[{"name": "nic"}])

    after = admit(gpu_slices, before, where(RENAMED_NODE)).pod

    assert after["spec"]["containers"][0]["resources"] == {
        "claims": [{"name": "nic"}],
        "limits": {SHARED: "1"},
        "requests": {SHARED: "1"},
    }


def test_every_container_that_asks_is_renamed_and_no_other_gets_one() -> None:
    before = wanting("timeshare", container("a"), asking(GPU, name="b"), initContainers=[asking(GPU, 2, name="first")])

    admitted = admit(gpu_slices, before, where(RENAMED_NODE))

    assert [amounts(admitted, 0), amounts(admitted, 1)] == [{}, {SHARED: "1"}]
    assert amounts(admitted, 0, "initContainers") == {SHARED: 2}


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        pytest.param({"kubectl.kubernetes.io/default-container": "b"}, [{}, {SHARED: "1"}], id="the default container"),
        pytest.param({"kubectl.kubernetes.io/default-container": "c"}, [{SHARED: "1"}, {}], id="one that is not there"),
        pytest.param({}, [{SHARED: "1"}, {}], id="the first"),
    ],
)
def test_who_gets_the_gpu_if_nobody_asks(default: dict[str, str], expected: list[Json]) -> None:
    before = wanting("timeshare", container("a"), container("b"))
    before["metadata"]["annotations"] |= default

    admitted = admit(gpu_slices, before, where(RENAMED_NODE))

    assert [amounts(admitted, 0), amounts(admitted, 1)] == expected


def test_a_pod_without_the_annotation_is_left_alone() -> None:
    assert admit(gpu_slices, pod(asking(GPU)), where(RENAMED_NODE)).operations == []


def test_a_selector_that_says_as_much_already_is_left() -> None:
    before = wanting("timeshare", asking(GPU), nodeSelector={"nvidia.com/gpu.sharing-strategy": "time-slicing"})

    assert admit(gpu_slices, before, where(SLICED_NODE)).operations == []


def refusal(before: Json, surroundings: Scene) -> str:
    with pytest.raises(RefusedError) as refused:
        gpu_slices(msgspec.convert(before, Pod), surroundings)
    return str(refused.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("MIG-1g.5gb", "mig-1g.5gb", id="in capitals"),
        pytest.param("1g.5gb", "mig-1g.5gb", id="a profile alone"),
        pytest.param("nvidia.com/mig-2g.10gb", "mig-2g.10gb", id="a resource"),
        pytest.param("mig-1g5gb", "mig-1g.5gb", id="a dot left out"),
        pytest.param("timesharing", "timeshare", id="another form of the word"),
        pytest.param("time-share", "timeshare", id="with a dash"),
        pytest.param("TimeShare", "timeshare", id="with capitals inside"),
        pytest.param("wole", "whole", id="a letter left out"),
    ],
)
def test_a_word_that_there_is_not_is_refused_with_the_nearest(written: str, meant: str) -> None:
    text = refusal(wanting(written), scene())

    assert text == (
        f"annotation tasuki.dev/gpu-slice: {written!r} is no kind of slice (did you mean {meant}?); "
        "it may be timeshare, whole, mig-<profile> (such as mig-1g.5gb)"
    )


def test_a_word_like_none_is_refused_with_all() -> None:
    assert refusal(wanting("fast"), where(MIXED_NODE)) == (
        "annotation tasuki.dev/gpu-slice: 'fast' is no kind of slice; "
        "it may be timeshare, whole, mig-<profile> (such as mig-1g.5gb)"
    )


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param(
            wanting("timeshare", asking(MIG)),
            "container 'main' asks for nvidia.com/mig-1g.5gb, but annotation tasuki.dev/gpu-slice says 'timeshare'; "
            "ask for nvidia.com/gpu instead, or remove the annotation",
            id="a MIG slice and time",
        ),
        pytest.param(
            wanting("whole", container(), initContainers=[asking(SHARED, name="first")]),
            "container 'first' asks for nvidia.com/gpu.shared, but annotation tasuki.dev/gpu-slice says 'whole'; "
            "ask for nvidia.com/gpu instead, or remove the annotation",
            id="a shared and a whole GPU",
        ),
        pytest.param(
            wanting("mig-2g.10gb", asking(MIG)),
            "container 'main' asks for nvidia.com/mig-1g.5gb, but annotation tasuki.dev/gpu-slice says 'mig-2g.10gb'; "
            "ask for nvidia.com/gpu instead, or remove the annotation",
            id="two MIG profiles",
        ),
        pytest.param(
            wanting("timeshare", container(resources={"limits": {GPU: "1", SHARED: "1"}})),
            "container 'main' asks for nvidia.com/gpu and nvidia.com/gpu.shared, but annotation tasuki.dev/gpu-slice "
            "makes one resource of them; ask for nvidia.com/gpu only",
            id="two resources that would be one",
        ),
        pytest.param(
            wanting("timeshare", nodeSelector={"nvidia.com/gpu.sharing-strategy": "none"}),
            "annotation tasuki.dev/gpu-slice: timeshare needs nodes with nvidia.com/gpu.sharing-strategy as "
            "'time-slicing', but nodeSelector says 'none'; remove it from nodeSelector",
            id="a selector to the contrary",
        ),
        pytest.param(
            wanting("whole", nodeSelector={"nvidia.com/gpu.product": f"{A100}-SHARED"}),
            "annotation tasuki.dev/gpu-slice: whole needs nodes with nvidia.com/gpu.product as '!*-SHARED', but "
            f"nodeSelector says '{A100}-SHARED'; remove it from nodeSelector",
            id="a selector of what is excluded",
        ),
    ],
)
def test_contradictions_are_refused(before: Json, expected: str) -> None:
    assert refusal(before, where(SLICED_NODE)) == expected


def test_sharing_without_a_request_excludes_a_slice() -> None:
    before = wanting("timeshare")
    before["metadata"]["annotations"]["tasuki.dev/gpu-sharing"] = "shared-node"

    assert "exclude one another" in refusal(before, scene())


def test_a_kind_that_the_policy_does_not_offer_is_refused() -> None:
    assert refusal(wanting("mig-1g.5gb"), scene(OWN_OFFERS)) == (
        "annotation tasuki.dev/gpu-slice: this cluster's policy offers no 'mig-1g.5gb'; it may be timeshare, whole"
    )


GRAMMAR = re.compile(
    r"timeshare|whole|mig-([1-9]c\.)?[1-9]\d?g\.[1-9]\d{0,3}gb([+.-][a-z]([a-z0-9.]*[a-z0-9]))?|", re.ASCII
)
NEARLY_PROFILES = st.from_regex(r"mig-([1c]{1,2}\.)?[0-9]g\.[0-9]{1,2}gb([+.-][a-z.]{0,4})?", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(NEARLY_PROFILES | st.text(max_size=50) | st.sampled_from([" whole ", "timeshare\n"]))
def test_any_text_is_taken_by_the_grammar_or_refused_with_the_annotations_name(text: str) -> None:
    try:
        gpu_slices(msgspec.convert(wanting(text), Pod), where(MIXED_NODE))
        taken = True
    except RefusedError as refused:
        taken = SLICE not in str(refused)

    assert taken is bool(GRAMMAR.fullmatch(text.strip()))


def test_a_refusal_stays_short_however_long_the_value() -> None:
    assert len(refusal(wanting("x" * 200_000), scene())) < 250


CONTAINERS = st.builds(
    lambda name, resource, amount: asking(resource, amount, name=name) if resource else container(name),
    st.uuids().map(lambda uuid: f"c{uuid}"),
    st.sampled_from(["", GPU, SHARED, "fpga.tasuki.dev/resize", "cpu"]),
    st.sampled_from(["1", 2, "0"]),
)
KNOWN_NODES = [WHOLE_NODE, RENAMED_NODE, HALF_NODE, SLICED_NODE, MIXED_NODE, SINGLE_NODE, gke(partition_size="1g.5gb")]


@settings(max_examples=50, deadline=None)
@given(
    word=st.sampled_from(["timeshare", "mig-1g.5gb", "mig-1c.2g.10gb", "whole"]),
    containers=st.lists(CONTAINERS, min_size=1, max_size=3),
    first=st.lists(CONTAINERS, max_size=1),
    facts=st.none() | st.lists(st.sampled_from(KNOWN_NODES), max_size=4, unique_by=lambda facts: facts.name),
)
def test_slices_then_tolerations_leave_nothing_to_do(
    word: str, containers: list[Json], first: list[Json], facts: list[NodeFacts] | None
) -> None:
    before = wanting(word, *containers, initContainers=first)
    surroundings = scene() if facts is None else where(*facts)
    try:
        sliced = admit(gpu_slices, before, surroundings).pod
    except RefusedError:
        assert SHARED in str(before)
        assert word != "timeshare"
        return

    tolerant = admit(tolerations, sliced, surroundings).pod

    assert admit(gpu_slices, tolerant, surroundings).operations == []
    assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in tolerant["spec"]["tolerations"]
    landing = nodes(*facts or []).could_land(msgspec.convert(tolerant, Pod))
    warned = bool(admit(gpu_slices, before, surroundings).change.warnings)
    assert landing or facts is None or warned
