"""Pods on shared nodes: what they request, what they see and where they go."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasuki.kube.quantity import parse
from tests.webhook_builders import Admitted, Json, admit, container, pod, scene
from webhooks.mutations.shared_nodes import shared_nodes
from webhooks.policy.model import Policy, Requests, SharedNodes
from webhooks.scene import NOTHING, RefusedError, Scene

SHARED = {"tasuki.dev/gpu-sharing": "shared-node"}
UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"
MIG = "MIG-89abcdef-0123-4567-89ab-cdef01234567"
BOUND = {"fieldRef": {"fieldPath": "metadata.annotations['tasuki.dev/devices']"}}


def shared_pool(**fields: Any) -> Scene:
    return scene(Policy(shared_nodes=SharedNodes(**fields)))


def shared(*containers: Json, where: Scene | None = None, devices: str = "", **fields: Any) -> Admitted:
    annotations = SHARED | ({"tasuki.dev/gpu-devices": devices} if devices else {})
    return admit(shared_nodes, pod(*containers, annotations=annotations, **fields), where or shared_pool())


def resources(
    limits: Mapping[str, str] | None = None, requests: Mapping[str, str] | None = None
) -> dict[str, dict[str, str]]:
    """With requests as the API server fills them in from the limits."""
    filled = {**(limits or {}), **(requests or {})}
    return {name: dict(amounts) for name, amounts in (("limits", limits), ("requests", filled)) if amounts}


def env(admitted: Admitted, index: int = 0, kind: str = "containers") -> dict[str, Any]:
    found = admitted.pod["spec"][kind][index]["env"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in found}


def requests(admitted: Admitted, index: int = 0, kind: str = "containers") -> dict[str, str]:
    return dict(admitted.pod["spec"][kind][index]["resources"]["requests"])


# Kubernetes' side, written after its sources and sharing nothing with ours but how a quantity is read.

COMPUTE = ("cpu", "memory")


def qos(spec: Json) -> str:
    """ComputePodQOS of 1.36 (pkg/apis/core/v1/helper/qos/qos.go)."""
    sections = [spec["resources"]] if spec.get("resources") else [each.get("resources", {}) for each in _all(spec)]
    sums: dict[str, dict[str, Fraction]] = {"requests": {}, "limits": {}}
    is_guaranteed = True
    for section in sections:
        for kind, total in sums.items():
            for name in COMPUTE:
                amount = parse(section.get(kind, {}).get(name, "0"))
                if amount > 0:
                    total[name] = total.get(name, Fraction(0)) + amount
        if any(parse(section.get("limits", {}).get(name, "0")) <= 0 for name in COMPUTE):
            is_guaranteed = False
    if not sums["requests"] and not sums["limits"]:
        return "BestEffort"
    return "Guaranteed" if is_guaranteed and sums["requests"] == sums["limits"] else "Burstable"


def complaints(spec: Json) -> list[str]:
    """ValidateResourceRequirements and validatePodResourceConsistency (pkg/apis/core/validation/validation.go)."""
    found: list[str] = []
    for section in [spec.get("resources", {}), *(each.get("resources", {}) for each in _all(spec))]:
        for name, amount in section.get("requests", {}).items():
            limit = section.get("limits", {}).get(name)
            if limit is not None and parse(amount) > parse(limit):
                found.append(f"{name}: requests {amount}, limit {limit}")
    whole = spec.get("resources", {})
    for name, amount in whole.get("requests", {}).items():
        if parse(amount) < aggregate(spec, name):
            found.append(f"{name}: the pod requests {amount}, its containers {aggregate(spec, name)}")
    for each in _all(spec):
        for name, limit in each.get("resources", {}).get("limits", {}).items():
            if name in whole.get("limits", {}) and parse(limit) > parse(whole["limits"][name]):
                found.append(f"{name}: limit {limit}, that of the pod {whole['limits'][name]}")
    return found


def aggregate(spec: Json, name: str) -> Fraction:
    """AggregateContainerRequests (staging/src/k8s.io/component-helpers/resource/helpers.go)."""

    def amount(each: Json) -> Fraction:
        return parse(each.get("resources", {}).get("requests", {}).get(name, "0"))

    total = sum((amount(each) for each in spec["containers"]), Fraction(0))
    restartable, most = Fraction(0), Fraction(0)
    for each in spec.get("initContainers", []):
        if each.get("restartPolicy") == "Always":
            total += amount(each)
            restartable += amount(each)
            most = max(most, restartable)
        else:
            most = max(most, amount(each) + restartable)
    return max(total, most)


def _all(spec: Json) -> list[Json]:
    return [*spec["containers"], *spec.get("initContainers", [])]


_cpu = st.sampled_from(["0", "1m", "50m", "100m", "150m", "2", "0.3"])
_memory = st.sampled_from(["0", "1", "64Mi", "256Mi", "300M", "4Gi"])
_amounts = st.fixed_dictionaries({}, optional={"cpu": _cpu, "memory": _memory})


@st.composite
def _sections(draw: st.DrawFn) -> Json:
    """Valid ones: no request is larger than its limit."""
    limits, wanted = draw(_amounts), draw(_amounts)
    lower = {name: min(amount, limits.get(name, amount), key=parse) for name, amount in wanted.items()}
    return resources(limits, lower)


@st.composite
def _pods(draw: st.DrawFn) -> Json:
    containers = [
        container(f"c{index}", resources=section)
        for index, section in enumerate(draw(st.lists(_sections(), min_size=1, max_size=3)))
    ]
    init = tuple(
        container(f"i{index}", resources=section, **draw(st.sampled_from([{}, {"restartPolicy": "Always"}])))
        for index, section in enumerate(draw(st.lists(_sections(), max_size=2)))
    )
    made = pod(*containers, init=init, annotations=SHARED)
    if draw(st.booleans()):
        made["spec"]["resources"] = _whole(made["spec"], draw(_sections()))
    return made


def _whole(spec: Json, wanted: Json) -> Json:
    """Resources of the pod as a whole, valid beside those of its containers and with what the API server fills in."""
    limits, asked = dict(wanted.get("limits", {})), dict(wanted.get("requests", {"cpu": "1"}))
    for name in COMPUTE:
        least = f"{float(aggregate(spec, name)):.3f}"
        if name in asked and parse(asked[name]) < parse(least):
            asked[name] = least
        tops = [each.get("resources", {}).get("limits", {}).get(name, "0") for each in _all(spec)]
        if name in limits:
            limits[name] = max(limits[name], asked.get(name, "0"), *tops, key=parse)
            asked.setdefault(name, least if parse(least) else limits[name])
    return {kind: amounts for kind, amounts in (("limits", limits), ("requests", asked)) if amounts}


@settings(max_examples=120, deadline=None)
@given(_pods(), st.sampled_from([Requests(), Requests(cpu="1m", memory="1"), Requests(cpu="4", memory="8Gi")]))
def test_the_pod_is_valid_and_burstable_whatever_it_requested(before: Json, small: Requests) -> None:
    assert complaints(before["spec"]) == []

    admitted = admit(shared_nodes, before, shared_pool(requests=small))

    assert complaints(admitted.pod["spec"]) == []
    assert qos(admitted.pod["spec"]) == "Burstable"


@settings(max_examples=60, deadline=None)
@given(_pods())
def test_no_limit_that_limits_is_touched_and_no_request_grows_beyond_what_the_policy_says(before: Json) -> None:
    after = admit(shared_nodes, before, shared_pool()).pod

    for old, new in zip(_all(before["spec"]), _all(after["spec"]), strict=True):
        for name, small in (("cpu", "100m"), ("memory", "256Mi")):
            was, becomes = (each.get("resources", {}).get("limits", {}).get(name, "0") for each in (old, new))
            assert parse(was) == parse(becomes)
            wanted = new.get("resources", {}).get("requests", {}).get(name, "0")
            assert parse(wanted) <= parse(small)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"cpu": "100m", "memory": "256Mi"}, id="no resources"),
        pytest.param(resources({"cpu": "8", "memory": "64Gi"}), {"cpu": "100m", "memory": "256Mi"}, id="limits"),
        pytest.param(resources({"cpu": "50m"}), {"cpu": "50m", "memory": "256Mi"}, id="a smaller limit"),
        pytest.param(resources(requests={"cpu": "4"}), {"cpu": "100m", "memory": "256Mi"}, id="a request"),
        pytest.param(resources(requests={"cpu": "10m"}), {"cpu": "10m", "memory": "256Mi"}, id="a smaller request"),
        pytest.param(resources(requests={"cpu": "0"}), {"cpu": "100m", "memory": "256Mi"}, id="a request of nothing"),
        pytest.param(
            resources({"cpu": "100m", "memory": "256Mi"}), {"cpu": "50m", "memory": "256Mi"}, id="limits as small"
        ),
        pytest.param(resources({"cpu": "1m", "memory": "1"}), {"cpu": "0", "memory": "1"}, id="the smallest limits"),
        pytest.param(
            resources({"ephemeral-storage": "2Gi", "hugepages-2Mi": "4Mi", "example.com/nic": "1"}),
            {
                "ephemeral-storage": "2Gi", "hugepages-2Mi": "4Mi", "example.com/nic": "1",
                "cpu": "100m", "memory": "256Mi",
            },
            id="other resources stay",
        ),
        pytest.param(
            resources({"nvidia.com/gpu": "1", "fpga.tasuki.dev/resize": "1"}),
            {"cpu": "100m", "memory": "256Mi"},
            id="accelerators go",
        ),
    ],
)  # fmt: skip
def test_requests_of_a_container(before: Json, after: dict[str, str]) -> None:
    admitted = shared(container(resources=before))

    assert requests(admitted) == after


def test_a_request_that_the_api_server_would_round_up_is_rounded_up() -> None:
    where = shared_pool(requests=Requests(cpu="300u", memory="1Mi"))
    containers = [container(name, resources=resources(requests={"cpu": "4"})) for name in "ab"]

    admitted = shared(*containers, where=where, resources=resources(requests={"cpu": "8"}))

    assert [requests(admitted, index)["cpu"] for index in (0, 1)] == ["1m", "1m"]
    assert admitted.pod["spec"]["resources"]["requests"]["cpu"] == "2m"


def test_limits_of_accelerators_go_and_others_stay() -> None:
    limits = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2", "example.com/nic": "1"}

    admitted = shared(container(resources=resources(limits)))

    assert admitted.pod["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "4", "memory": "8Gi", "example.com/nic": "1"
    }  # fmt: skip
    assert admitted.change.warnings == (
        "'nvidia.com/gpu' is not requested: with tasuki.dev/gpu-sharing no pod has a GPU to itself",
    )


def test_init_containers_and_sidecars_request_little_too() -> None:
    init = (
        container("prepare", resources=resources({"cpu": "8", "nvidia.com/gpu": "1"})),
        container("sidecar", resources=resources({"memory": "8Gi"}), restartPolicy="Always"),
    )

    admitted = shared(init=init)

    assert requests(admitted, 0, "initContainers") == {"cpu": "100m", "memory": "256Mi"}
    assert requests(admitted, 1, "initContainers") == {"cpu": "100m", "memory": "256Mi"}


def test_a_pod_with_resources_of_its_own_requests_what_its_containers_do() -> None:
    containers = [container(name, resources=resources({"cpu": "4"})) for name in ("a", "b", "c")]
    whole = resources({"cpu": "16", "memory": "64Gi"}, {"cpu": "12"})

    admitted = shared(*containers, container("d"), resources=whole)

    assert admitted.pod["spec"]["resources"] == {
        "limits": {"cpu": "16", "memory": "64Gi"},
        "requests": {"cpu": "300m", "memory": "256Mi"},
    }
    assert "requests" not in admitted.pod["spec"]["containers"][3].get("resources", {})


def test_a_pod_with_resources_of_its_own_requests_what_its_init_containers_do_beside_a_sidecar() -> None:
    sidecar = container("sidecar", resources=resources(requests={"cpu": "2"}), restartPolicy="Always")
    prepare = container("prepare", resources=resources(requests={"cpu": "2"}))

    admitted = shared(init=(sidecar, prepare), resources=resources(requests={"cpu": "4"}))

    assert admitted.pod["spec"]["resources"]["requests"] == {"cpu": "200m"}


def test_a_pod_whose_own_limits_are_small_requests_less_than_them() -> None:
    containers = [container(name, resources=resources(requests={"cpu": "50m", "memory": "128Mi"})) for name in "ab"]
    whole = resources({"cpu": "100m", "memory": "256Mi"})

    admitted = shared(*containers, resources=whole)

    assert admitted.pod["spec"]["resources"]["requests"] == {"cpu": "50m", "memory": "256Mi"}
    assert [requests(admitted, index)["cpu"] for index in (0, 1)] == ["25m", "25m"]


def test_a_pod_whose_containers_request_all_of_its_own_limits_requests_less_than_them() -> None:
    containers = [container(name, resources=resources(requests={"memory": "2Gi"})) for name in "ab"]
    whole = resources({"cpu": "10m", "memory": "4Gi"})

    admitted = shared(*containers, resources=whole, where=shared_pool(requests=Requests(memory="3Gi")))

    assert admitted.pod["spec"]["resources"]["requests"] == {"cpu": "5m", "memory": "4Gi"}


def test_limits_of_nothing_do_not_make_the_pod_best_effort() -> None:
    admitted = shared(container(resources=resources({"cpu": "0", "memory": "0"})))

    assert qos(admitted.pod["spec"]) == "Burstable"


def test_claims_stay() -> None:
    admitted = shared(
        container(resources={"claims": [{"name": "gpu"}]}),
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    )

    assert admitted.pod["spec"]["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert admitted.pod["spec"]["resourceClaims"][0]["name"] == "gpu"


@pytest.mark.parametrize(
    ("devices", "runtime", "cuda"),
    [
        pytest.param("", "all", "0,1,2,3", id="every GPU up to the maximum"),
        pytest.param("all", "all", "0,1,2,3", id="every GPU by name"),
        pytest.param("1", "1", "0", id="one, which is the first inside"),
        pytest.param("0,2", "0,2", "0,1", id="two, numbered anew inside"),
        pytest.param("3, 1", "1,3", "0,1", id="in any order"),
        pytest.param("1,01,1", "1", "0", id="one several times"),
        pytest.param(UUID, UUID, UUID, id="a UUID means the same everywhere"),
        pytest.param(f"{MIG},{UUID},{MIG}", f"{MIG},{UUID}", f"{MIG},{UUID}", id="UUIDs in the user's order"),
        pytest.param(f"MIG-{UUID}/1/0", f"MIG-{UUID}/1/0", f"MIG-{UUID}/1/0", id="a MIG device of an old driver"),
    ],
)
def test_visible_devices(devices: str, runtime: str, cuda: str) -> None:
    admitted = shared(devices=devices, where=shared_pool(maximum_gpus=4))

    assert env(admitted) == {"NVIDIA_VISIBLE_DEVICES": runtime, "CUDA_VISIBLE_DEVICES": cuda}


def test_every_container_sees_the_devices() -> None:
    admitted = shared(
        container("a"), container("b"), init=(container("i"), container("sidecar", restartPolicy="Always"))
    )

    seen = [env(admitted, index, kind) for kind in ("containers", "initContainers") for index in (0, 1)]
    assert seen == [{"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}] * 4


def test_the_binding_tells_the_devices_where_the_policy_says_so() -> None:
    admitted = shared(where=shared_pool(devices="binding"))

    assert env(admitted) == {"NVIDIA_VISIBLE_DEVICES": BOUND, "CUDA_VISIBLE_DEVICES": BOUND}
    assert admitted.change.warnings == ()


def test_the_user_is_told_that_the_scheduler_chooses() -> None:
    admitted = shared(where=shared_pool(devices="binding"), devices="0")

    assert env(admitted)["CUDA_VISIBLE_DEVICES"] == BOUND
    assert admitted.change.warnings == (
        "tasuki.dev/gpu-devices has no effect: in this cluster the scheduler chooses the GPUs",
    )


def test_the_users_own_devices_are_replaced_with_a_warning() -> None:
    from_a_config = {"name": "CUDA_VISIBLE_DEVICES", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}

    admitted = shared(
        container("a", env={"NVIDIA_VISIBLE_DEVICES": "3", "NVIDIA_DRIVER_CAPABILITIES": "all", "HOME": "/"}),
        container("b", env=[from_a_config]),
        devices="1",
    )

    assert env(admitted) == {
        "NVIDIA_VISIBLE_DEVICES": "1", "NVIDIA_DRIVER_CAPABILITIES": "all", "HOME": "/", "CUDA_VISIBLE_DEVICES": "0"
    }  # fmt: skip
    assert env(admitted, 1) == {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "1"}
    assert [warning.partition(":")[0] for warning in admitted.change.warnings] == ["container a", "container b"]


def test_the_same_devices_are_no_reason_for_a_warning() -> None:
    admitted = shared(container(env={"NVIDIA_VISIBLE_DEVICES": "all"}))

    assert admitted.change.warnings == ()


def test_the_pod_goes_to_the_shared_pool() -> None:
    admitted = shared(nodeSelector={"zone": "a"}, tolerations=[{"key": "mine", "operator": "Exists"}])

    assert admitted.pod["spec"]["nodeSelector"] == {"zone": "a", "tasuki.dev/pool": "shared"}
    assert admitted.pod["spec"]["tolerations"] == [
        {"key": "mine", "operator": "Exists"},
        {"key": "tasuki.dev/shared", "operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    ]


def test_nothing_is_left_to_do_when_the_api_server_has_filled_in_its_defaults() -> None:
    where = shared_pool(devices="binding", requests=Requests(cpu="0.5", memory="1024Mi"))
    after = shared(container(resources=resources({"cpu": "2", "nvidia.com/gpu": "1"})), where=where).pod
    main = after["spec"]["containers"][0]
    main["resources"]["requests"] = {"cpu": "500m", "memory": "1Gi"}
    main["terminationMessagePath"] = "/dev/termination-log"
    for variable in main["env"]:
        variable["valueFrom"]["fieldRef"]["apiVersion"] = "v1"

    again = admit(shared_nodes, after, where)

    assert again.operations == []
    assert again.change.warnings == ()


def test_a_pod_without_the_annotation_is_left_alone() -> None:
    admitted = admit(shared_nodes, pod(container(gpus=1)), shared_pool())

    assert admitted.change is NOTHING


def test_devices_without_sharing_are_without_effect() -> None:
    admitted = admit(shared_nodes, pod(annotations={"tasuki.dev/gpu-devices": "0"}), shared_pool())

    assert admitted.operations == []
    assert admitted.change.warnings == (
        "tasuki.dev/gpu-devices has no effect without tasuki.dev/gpu-sharing: shared-node",
    )


def test_warnings_stay_readable_with_long_names() -> None:
    where = shared_pool(devices="binding")
    many = {f"nvidia.com/mig-{index}g.{'x' * 40}": "1" for index in range(20)}

    admitted = shared(
        container("x" * 63, env={"NVIDIA_VISIBLE_DEVICES": "none"}, resources=resources(many)), where=where, devices="0"
    )

    assert len(admitted.change.warnings) == 3
    assert max(len(warning) for warning in admitted.change.warnings) < 200


@pytest.mark.parametrize(
    ("annotations", "where", "told"),
    [
        pytest.param(
            {"tasuki.dev/gpu-sharing": "shared-nodes"}, shared_pool(), "'shared-nodes'; write shared-node", id="a slip"
        ),
        pytest.param(SHARED, scene(), "this cluster has no shared nodes; remove the annotation", id="no shared pool"),
        pytest.param(
            SHARED | {"tasuki.dev/gpu-slice": "timeshare"}, shared_pool(), "remove one of them", id="a slice besides"
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(annotations: dict[str, str], where: Scene, told: str) -> None:
    with pytest.raises(RefusedError, match=told):
        admit(shared_nodes, pod(annotations=annotations), where)


def test_a_selector_of_other_nodes_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"tasuki.dev/pool is 'batch', but the shared nodes have 'shared' there"):
        shared(nodeSelector={"tasuki.dev/pool": "batch"})


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        pytest.param("8", "names GPU 8; shared nodes have GPUs 0 to 7", id="beyond the last"),
        pytest.param("0,one", "names 'one', which is no GPU; write all, indices such as 0,1 or", id="a word"),
        pytest.param("0,", "names ''", id="nothing after a comma"),
        pytest.param("0:1", "names '0:1'", id="a MIG device by index"),
        pytest.param("all,0", "names 'all'", id="all and one more"),
        pytest.param("\u0661", "which is no GPU", id="a digit of another script"),
        pytest.param(UUID[:12], "whole UUIDs", id="the beginning of a UUID"),
        pytest.param(f"0,{UUID}", "mixes indices with UUIDs", id="an index and a UUID"),
        pytest.param("9" * 5000, "…", id="a very large index"),
        pytest.param(",".join(map(str, range(129))), "names 129 GPUs, and at most 128 can be", id="very many"),
    ],
)
def test_devices_that_nobody_can_have_are_refused(devices: str, told: str) -> None:
    with pytest.raises(RefusedError, match=told) as caught:
        shared(devices=devices)

    assert str(caught.value).startswith("tasuki.dev/gpu-devices ")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.text("0123456789,-:GPUMIGal ", max_size=60))
def test_any_annotation_is_carried_out_or_refused(sharing: str, devices: str) -> None:
    before = pod(annotations={"tasuki.dev/gpu-sharing": sharing, "tasuki.dev/gpu-devices": devices})
    try:
        admitted = admit(shared_nodes, before, shared_pool())
    except RefusedError as refusal:
        told = str(refusal)
    else:
        told = ""

    assert told.startswith("tasuki.dev/gpu-") or sharing.strip() in ("", "shared-node")
    assert told or bool(admitted.operations) == bool(sharing.strip())


def test_an_amount_that_is_no_quantity_is_refused() -> None:
    with pytest.raises(RefusedError, match="'plenty' is not a quantity"):
        shared(container(resources=resources({"cpu": "plenty"})))


@pytest.mark.parametrize("template", [{}, {"tasuki.dev/pool": "shared"}], ids=["every node", "the pool's nodes"])
def test_a_daemon_sets_pods_are_warned_of_nodes_outside_the_pool(template: dict[str, str]) -> None:
    before = pod(annotations=SHARED, nodeSelector=template)
    before["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "1", "controller": True}
    ]

    admitted = admit(shared_nodes, before, shared_pool())

    assert ["select the same in its template" in each for each in admitted.change.warnings] == [True] * (not template)
