import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene
from tests.webhooks.mutations.api_server import again
from webhooks.mutations.protection import check_protection, protection
from webhooks.nodes import Taint
from webhooks.pod import Pod
from webhooks.policy.model import Accelerators, GpuSlices, Policy, Protection, SharedNodes, SliceOffer, Verdict
from webhooks.scene import NOTHING, RefusedError, Scene

ALL_GPUS = {"NVIDIA_VISIBLE_DEVICES": "all"}
HIDDEN = {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}
SHARED_NODE = {"tasuki.dev/gpu-sharing": "shared-node"}
POOL = {"tasuki.dev/pool": "shared"}
DAEMON_SET = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "1", "controller": True}


@dataclass(frozen=True)
class Nodes:
    """Nodes with GPUs, on which pods can land or not."""

    reachable: bool
    resources: Sequence[str] = ("nvidia.com/gpu",)
    oldest_kubelet: tuple[int, int] = (1, 36)
    may_have_nvidia: bool = True

    def label_values(
        self, resource: str, wanted: Mapping[str, str], selected: Mapping[str, str] = {}
    ) -> Mapping[str, Sequence[str]] | None:
        return None if wanted or resource not in self.resources else {}

    def taints(self, resource: str) -> Sequence[Taint]:
        return ()

    def could_land(self, pod: Pod) -> bool:
        return self.reachable


def under(verdict: Verdict, *, reachable: bool | None = None, hides: bool = False, **policy: Any) -> Scene:
    rule = Protection(visible_devices=verdict, privileged=verdict, host_devices=verdict, hides_unrequested=hides)
    nodes = None if reachable is None else Nodes(reachable=reachable)
    return scene(Policy(protection=(rule,), **policy), nodes=nodes)


def hiding(*, reachable: bool | None = None, **policy: Any) -> Scene:
    return under("allow", reachable=reachable, hides=True, **policy)


def env_of(found: Json) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in found.get("env", [])}


def host(path: str, name: str = "host") -> Json:
    return {"name": name, "hostPath": {"path": path}}


def asking(resource: str) -> Json:
    return container(resources={"limits": {resource: "1"}, "requests": {resource: "1"}})


def mounting(*names: str) -> Json:
    return container(volumeMounts=[{"name": name, "mountPath": f"/mnt/{name}"} for name in names])


PRIVILEGED = pod(container("gpu", gpus=1), container("debug", securityContext={"privileged": True}))
ROUND_THE_PLUGIN = [
    pytest.param(pod(container(env=ALL_GPUS)), id="visible devices"),
    pytest.param(pod(annotations={"nvidia.cdi.k8s.io/pod": "nvidia.com/gpu=all"}), id="injected devices"),
    pytest.param(PRIVILEGED, id="privileged"),
    pytest.param(pod(mounting("host"), volumes=[host("/dev/nvidia0")]), id="a device node"),
]


INSTEAD = "; (request|requested) "


# The four verdicts


@pytest.mark.parametrize("before", ROUND_THE_PLUGIN)
def test_denied_with_what_to_write_instead(before: Json) -> None:
    with pytest.raises(RefusedError, match=INSTEAD):
        admit(protection, before, under("deny"))


@pytest.mark.parametrize("before", ROUND_THE_PLUGIN)
def test_warned_and_left(before: Json) -> None:
    admitted = admit(protection, before, under("warn"))

    assert admitted.operations == []
    [warning] = admitted.change.warnings
    assert re.search(INSTEAD, warning)


@pytest.mark.parametrize("before", ROUND_THE_PLUGIN)
def test_allowed_in_silence(before: Json) -> None:
    assert admit(protection, before, under("allow")).change is NOTHING


@pytest.mark.parametrize("before", ROUND_THE_PLUGIN)
def test_stripped_once_and_for_all(before: Json) -> None:
    admitted = admit(protection, before, under("strip"))

    [warning] = admitted.change.warnings
    assert re.search(f": removed{INSTEAD}", warning)
    assert again(protection, admitted.pod, under("strip")) is NOTHING
    assert check_protection(msgspec.convert(admitted.pod, Pod), under("deny")) is NOTHING


def test_the_first_rule_for_the_namespace_counts() -> None:
    rules = (Protection(namespaces=("research",), visible_devices="allow"), Protection(visible_devices="deny"))
    before = pod(container(env=ALL_GPUS))

    assert admit(protection, before, scene(Policy(protection=rules))).change is NOTHING
    with pytest.raises(RefusedError):
        admit(protection, before, scene(Policy(protection=rules), namespace="web"))


def test_a_namespace_without_a_rule_is_left_alone() -> None:
    rules = (Protection(namespaces=("web",), visible_devices="deny"),)

    admitted = admit(protection, pod(container(env=ALL_GPUS)), scene(Policy(protection=rules)))

    assert admitted.change is NOTHING


def test_rules_by_labels_hold_while_the_labels_of_the_namespace_are_not_known() -> None:
    rules = (Protection(namespace_labels={"protected": "true"}, visible_devices="deny"), Protection())
    where = scene(Policy(protection=rules))
    before = msgspec.convert(pod(container(env=ALL_GPUS)), Pod)

    assert protection(before, where).warnings
    for stage in (protection, check_protection):
        with pytest.raises(RefusedError):
            stage(before, replace(where, namespace_labels=None))


def test_the_audit_log_tells_which_rules_led_to_what() -> None:
    before = pod(mounting("host") | {"env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}, volumes=[host("/dev")])

    admitted = admit(protection, before, under("strip"))

    assert admitted.change.notes == {"protection": "host-devices strip, visible-devices strip"}


def test_a_refusal_names_some_of_many_reasons() -> None:
    with pytest.raises(RefusedError, match=r"And there is more like this$"):
        admit(protection, pod(*(container(f"c{index}", env=ALL_GPUS) for index in range(8))), under("deny"))


# Visible devices


@pytest.mark.parametrize(
    ("variable", "gpus", "harmful"),
    [
        pytest.param({"name": "NVIDIA_VISIBLE_DEVICES", "value": "GPU-1"}, 0, True, id="a GPU by its UUID"),
        pytest.param({"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}, 0, True, id="none, which gave all once"),
        pytest.param({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}, 0, False, id="void"),
        pytest.param({"name": "NVIDIA_VISIBLE_DEVICES"}, 0, False, id="empty"),
        pytest.param({"name": "CUDA_VISIBLE_DEVICES", "value": "0"}, 0, True, id="a GPU by its index"),
        pytest.param({"name": "CUDA_VISIBLE_DEVICES", "value": ""}, 0, False, id="no GPU for CUDA"),
        pytest.param({"name": "CUDA_VISIBLE_DEVICES", "value": "-1"}, 0, False, id="no GPU for CUDA, by number"),
        pytest.param({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"}, 1, False, id="driver capabilities"),
        pytest.param(
            {"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
            0,
            True,
            id="from a config map",
        ),
    ],
)
def test_which_visible_devices_are_harmful(variable: Json, gpus: int, harmful: bool) -> None:
    admitted = admit(protection, pod(container(env=[variable], gpus=gpus)), under("warn"))

    assert bool(admitted.change.warnings) is harmful


@pytest.mark.parametrize(
    ("value", "gpus", "expected"),
    [
        pytest.param("all", 0, "request GPUs instead", id="asks for none"),
        pytest.param("none", 0, "write 'void' instead", id="wants none"),
        pytest.param("all", 1, "the device plugin sets it", id="asks for one"),
    ],
)
def test_what_to_write_instead_of_visible_devices(value: str, gpus: int, expected: str) -> None:
    admitted = admit(protection, pod(container(env={"NVIDIA_VISIBLE_DEVICES": value}, gpus=gpus)), under("warn"))

    [warning] = admitted.change.warnings
    assert expected in warning


def test_several_variables_are_stripped_and_the_others_stay() -> None:
    twice = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": value} for value in ("0", "all")]
    env = [twice[0], {"name": "A", "value": "1"}, twice[1], {"name": "B", "value": "2"}]

    admitted = admit(protection, pod(container(env=env, gpus=1), init=(container("i", env=[*env]),)), under("strip"))

    spec = admitted.pod["spec"]
    assert env_of(spec["containers"][0]) == env_of(spec["initContainers"][0]) == {"A": "1", "B": "2"}


def test_shared_node_pods_have_their_visible_devices_from_tasuki() -> None:
    before = pod(container(env=ALL_GPUS), annotations=SHARED_NODE, nodeSelector=POOL | {"zone": "a"})

    with_pool = admit(protection, before, under("deny", shared_nodes=SharedNodes()))

    assert with_pool.change is NOTHING
    with pytest.raises(RefusedError):
        admit(protection, before, under("deny"))


@pytest.mark.parametrize(
    "selected",
    [
        pytest.param({}, id="no nodes"),
        pytest.param({"tasuki.dev/pool": "exclusive"}, id="another pool"),
        pytest.param({"tasuki.dev/pool": "shared"}, id="a part of the pool's labels"),
    ],
)
def test_the_annotation_alone_makes_no_shared_node_pod(selected: dict[str, str]) -> None:
    pool = SharedNodes(node_selector=POOL | {"gpu.example/interactive": "true"})
    before = msgspec.convert(pod(container(env=ALL_GPUS), annotations=SHARED_NODE, nodeSelector=selected), Pod)

    for stage in (protection, check_protection):
        with pytest.raises(RefusedError, match="NVIDIA_VISIBLE_DEVICES"):
            stage(before, under("deny", shared_nodes=pool))


# Devices that plugins of the container runtime inject


@pytest.mark.parametrize(
    ("key", "harmful"),
    [
        pytest.param("nvidia.cdi.k8s.io/container.main", True, id="NVIDIA's plugin, for a container"),
        pytest.param("nvidia.cdi.k8s.io/pod", True, id="NVIDIA's plugin, for all containers"),
        pytest.param("cdi.k8s.io/vendor_class", True, id="CDI"),
        pytest.param("cdi.nri.io/container.main", True, id="CDI by an NRI plugin"),
        pytest.param("cdi-devices.nri.io/pod", True, id="CDI by the device injector"),
        pytest.param("cdi-devices.noderesource.dev", True, id="CDI by the device injector, without a suffix"),
        pytest.param("devices.nri.io/pod", True, id="a device node, by the former name"),
        pytest.param("devices.noderesource.dev/container.main", True, id="a device node"),
        pytest.param("devices.gke.io/container.main", True, id="a device node on GKE"),
        pytest.param("io-priority.noderesource.dev/pod", False, id="something else of the device injector"),
        pytest.param("networking.gke.io/interfaces", False, id="something else of GKE"),
        pytest.param("cdi.k8s.io.example.com/pod", False, id="a domain that begins alike"),
    ],
)
def test_which_annotations_inject_devices(key: str, harmful: bool) -> None:
    admitted = admit(protection, pod(container(gpus=1), annotations={key: "x"}), under("warn"))

    assert bool(admitted.change.warnings) is harmful


def test_injected_devices_are_a_finding_also_on_shared_nodes() -> None:
    before = pod(annotations=SHARED_NODE | {"nvidia.cdi.k8s.io/pod": "nvidia.com/gpu=all"}, nodeSelector=POOL)

    with pytest.raises(RefusedError, match=re.escape("nvidia.cdi.k8s.io/pod")):
        admit(protection, before, under("deny", shared_nodes=SharedNodes()))


def test_annotations_that_inject_devices_are_stripped_and_the_others_stay() -> None:
    annotations = {
        "example.com/owner": "somebody",
        "nvidia.cdi.k8s.io/container.main": "nvidia.com/gpu=all",
        "cdi.k8s.io/1": "nvidia.com/gpu=0",
    }

    admitted = admit(protection, pod(container(env=ALL_GPUS), annotations=annotations), under("strip"))

    assert admitted.pod["metadata"]["annotations"] == {"example.com/owner": "somebody"}
    assert env_of(admitted.pod["spec"]["containers"][0]) == {}
    assert len(admitted.change.warnings) == 3


# Privilege


@pytest.mark.parametrize(
    ("context", "gpus", "harmful"),
    [
        pytest.param({"privileged": True}, 1, True, id="privileged beside a GPU"),
        pytest.param({"privileged": True}, 0, False, id="privileged without accelerators"),
        pytest.param({"capabilities": {"add": ["SYS_ADMIN"]}}, 1, True, id="as good as privileged"),
        pytest.param({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}, 1, True, id="as good as privileged, spelt out"),
        pytest.param({"capabilities": {"add": ["ALL"]}}, 1, True, id="all capabilities"),
        pytest.param({"capabilities": {"add": ["MKNOD", "NET_ADMIN"]}}, 1, False, id="other capabilities"),
        pytest.param({"privileged": False}, 1, False, id="not privileged"),
    ],
)
def test_which_privilege_is_harmful(context: Json, gpus: int, harmful: bool) -> None:
    before = pod(container("gpu", gpus=gpus), container("debug", securityContext=context))

    admitted = admit(protection, before, under("warn"))

    assert bool(admitted.change.warnings) is harmful


def test_privilege_on_a_shared_node_is_harmful_without_any_request() -> None:
    before = pod(container(securityContext={"privileged": True}), annotations=SHARED_NODE, nodeSelector=POOL)

    with pytest.raises(RefusedError, match="is privileged beside accelerators"):
        admit(protection, before, under("deny", shared_nodes=SharedNodes()))


@pytest.mark.parametrize(
    ("reachable", "harmful"),
    [
        pytest.param(True, True, id="could land beside accelerators"),
        pytest.param(False, False, id="could not"),
        pytest.param(None, False, id="the nodes are not known"),
    ],
)
@pytest.mark.parametrize("context", [{"privileged": True}, {"capabilities": {"add": ["SYS_ADMIN"]}}])
def test_privilege_without_any_request_is_harmful_where_the_pod_could_land_beside_accelerators(
    context: Json, reachable: bool | None, *, harmful: bool
) -> None:
    admitted = admit(protection, pod(container(securityContext=context)), under("warn", reachable=reachable))

    assert ["and could land beside accelerators; select nodes" in each for each in admitted.change.warnings] == (
        [True] * harmful
    )


@pytest.mark.parametrize("held", [True, False], ids=["held to the rule", "spared"])
def test_privileged_daemons_are_part_of_their_node_unless_the_rule_is_for_them_too(*, held: bool) -> None:
    daemon = pod(container(securityContext={"privileged": True}))
    daemon["metadata"]["ownerReferences"] = [DAEMON_SET]
    rule = Protection(privileged="deny", hides_unrequested=False, hides_daemon_sets=held)
    where = scene(Policy(protection=(rule,)), nodes=Nodes(reachable=True))

    for stage in (protection, check_protection):
        with pytest.raises(RefusedError, match="privileged") if held else nullcontext():
            stage(msgspec.convert(daemon, Pod), where)


def test_privilege_is_stripped() -> None:
    add = {"add": ["ALL", "NET_ADMIN", "SYS_ADMIN"]}
    before = pod(container(gpus=1, securityContext={"privileged": True, "capabilities": add}))

    admitted = admit(protection, before, under("strip"))

    context = admitted.pod["spec"]["containers"][0]["securityContext"]
    assert context == {"privileged": False, "capabilities": {"add": ["NET_ADMIN"]}}
    assert len(admitted.change.warnings) == 3


# Host paths


def test_only_volumes_that_reach_devices_are_stripped_with_all_their_mounts() -> None:
    volumes = [host("/dev", "dev"), host("/data", "data"), host("/dev/dri", "dri")]
    init = mounting("dri", "data", "dev") | {"name": "init"}

    admitted = admit(protection, pod(mounting("dri", "data", "dev"), init=(init,), volumes=volumes), under("strip"))

    spec = admitted.pod["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["data"]
    for each in (*spec["containers"], *spec["initContainers"]):
        assert [mount["name"] for mount in each["volumeMounts"]] == ["data"]


@pytest.mark.parametrize("folder", ["/var/run/nvidia-container-devices/all", "/var/run//nvidia-container-devices/0/"])
def test_a_mount_by_which_nvidias_runtime_is_asked_is_stripped_but_not_its_volume(folder: str) -> None:
    asking = container(volumeMounts=[{"name": "null", "mountPath": folder}])

    admitted = admit(protection, pod(asking, volumes=[host("/dev/null", "null")]), under("strip"))

    spec = admitted.pod["spec"]
    assert spec["containers"][0]["volumeMounts"] == []
    assert spec["volumes"] == [host("/dev/null", "null")]


def test_a_mount_that_is_harmful_twice_is_removed_once() -> None:
    asking = container(volumeMounts=[{"name": "dev", "mountPath": "/var/run/nvidia-container-devices/all"}])

    admitted = admit(protection, pod(asking, volumes=[host("/dev", "dev")]), under("strip"))

    assert admitted.pod["spec"]["containers"][0]["volumeMounts"] == []
    assert admitted.pod["spec"]["volumes"] == []


# Hiding GPUs from containers that ask for none


def test_containers_beside_one_with_a_gpu_see_none() -> None:
    before = pod(container("gpu", gpus=1), container("web", env={"A": "1"}), init=(container("fetch"),))

    admitted = admit(protection, before, hiding())

    spec = admitted.pod["spec"]
    assert "env" not in spec["containers"][0]
    assert env_of(spec["containers"][1]) == {"A": "1"} | HIDDEN
    assert env_of(spec["initContainers"][0]) == HIDDEN
    assert admitted.change.warnings == ()


@pytest.mark.parametrize(
    ("reachable", "expected"),
    [
        pytest.param(True, HIDDEN, id="could land beside GPUs"),
        pytest.param(False, {}, id="could not"),
        pytest.param(None, {}, id="the nodes are not known"),
    ],
)
def test_a_pod_without_gpus_sees_none_where_it_could_land_beside_some(
    reachable: bool | None, expected: dict[str, str]
) -> None:
    admitted = admit(protection, pod(), hiding(reachable=reachable))

    assert env_of(admitted.pod["spec"]["containers"][0]) == expected


@pytest.mark.parametrize(
    "only",
    [
        pytest.param(container(env={"NVIDIA_VISIBLE_DEVICES": "void"}), id="hides them itself"),
        pytest.param(container(env=ALL_GPUS), id="is allowed to see them"),
        pytest.param(container(gpus=1), id="asks for a GPU"),
        pytest.param(asking("nvidia.com/gpu.shared"), id="asks for a part of a GPU"),
        pytest.param(asking("nvidia.com/mig-1g.5gb"), id="asks for a MIG slice"),
        pytest.param(asking("nvidia.com/a100"), id="asks for a GPU by another name"),
        pytest.param(asking("amd.com/gpu"), id="asks for AMD's GPU"),
        pytest.param(asking("gpu.intel.com/i915"), id="asks for Intel's GPU"),
        pytest.param(container(resources={"claims": [{"name": "gpu"}]}), id="has a claim"),
    ],
)
def test_a_container_that_has_its_say_is_left_alone(only: Json) -> None:
    admitted = admit(protection, pod(only), hiding(reachable=True))

    assert admitted.operations == []


@pytest.mark.parametrize("seen", ["", "-1", "0"])
def test_what_cuda_may_see_does_not_keep_the_runtime_from_being_told(seen: str) -> None:
    before = pod(container(env={"CUDA_VISIBLE_DEVICES": seen}))

    admitted = admit(protection, before, hiding(reachable=True))

    assert env_of(admitted.pod["spec"]["containers"][0]) == HIDDEN | {"CUDA_VISIBLE_DEVICES": seen}


@pytest.mark.parametrize(
    "resource",
    [
        "nvidia.com/hostdev",
        "nvidia.com/rdma_shared_device",
        "example.com/gpu",
        "fpga.tasuki.dev/a",
        "vaccel.tasuki.dev/session",
    ],
)
def test_gpus_are_hidden_from_containers_that_ask_for_other_devices(resource: str) -> None:
    admitted = admit(protection, pod(asking(resource)), hiding(reachable=True))

    assert env_of(admitted.pod["spec"]["containers"][0]) == HIDDEN


@pytest.mark.parametrize(
    "resource",
    ["aliyun.com/gpu-mem", "gpu.example/part-1g.5gb", "nvidia.com/whole"],
    ids=["accelerator", "mig", "whole"],
)
def test_gpus_are_not_hidden_from_containers_that_ask_for_one_in_the_words_of_the_policy(resource: str) -> None:
    words: dict[str, Any] = {
        "accelerators": Accelerators(resources=("aliyun.com/gpu-mem",)),
        "gpu_slices": GpuSlices(
            mig=(SliceOffer(resource="gpu.example/part-{profile}"),), whole=(SliceOffer(resource="nvidia.com/whole"),)
        ),
    }

    admitted = admit(protection, pod(asking(resource)), hiding(reachable=True, **words))

    assert admitted.operations == []


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        pytest.param("aliyun.com/gpu-mem", HIDDEN, id="by another plugin"),
        pytest.param("amd.com/gpu", {}, id="of another maker"),
    ],
)
def test_containers_beside_one_with_a_gpu_see_none_if_it_may_be_nvidias(
    resource: str, expected: dict[str, str]
) -> None:
    before = pod(asking(resource), container("web"))
    accelerators = Accelerators(resources=("aliyun.com/gpu-mem", "amd.com/gpu"))

    admitted = admit(protection, before, hiding(accelerators=accelerators))

    assert env_of(admitted.pod["spec"]["containers"][1]) == expected


def test_nothing_is_hidden_where_no_node_may_have_nvidias_gpus() -> None:
    policy = Policy(protection=(Protection(hides_unrequested=True),))
    fpgas = Nodes(reachable=True, resources=("fpga.tasuki.dev/a",), may_have_nvidia=False)

    assert admit(protection, pod(), scene(policy, nodes=fpgas)).change is NOTHING


def test_gpus_are_not_hidden_from_pods_on_shared_nodes() -> None:
    before = pod(annotations=SHARED_NODE, nodeSelector=POOL)

    admitted = admit(protection, before, hiding(reachable=True, shared_nodes=SharedNodes()))

    assert admitted.operations == []


@pytest.mark.parametrize("verdict", ["deny", "strip", "warn", "allow"])
def test_what_hides_gpus_is_taken_back_when_another_webhook_adds_a_request(verdict: Verdict) -> None:
    where = under(verdict, reachable=True, hides=True)
    hidden = admit(protection, pod(container(env={"A": "1"}), container("beside")), where).pod
    hidden["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}

    admitted = admit(protection, hidden, where)

    assert [env_of(each) for each in admitted.pod["spec"]["containers"]] == [{"A": "1"}, HIDDEN]
    assert admitted.change.warnings == ()


def test_nothing_is_hidden_from_windows() -> None:
    before = pod(container(), container("gpu", gpus=1), os={"name": "windows"})

    assert admit(protection, before, hiding(reachable=True)).operations == []


@pytest.mark.parametrize("hides", [True, False], ids=["hidden", "left to their image"])
def test_daemons_that_watch_gpus_rely_on_their_image(*, hides: bool) -> None:
    exporter = pod()
    exporter["metadata"]["ownerReferences"] = [DAEMON_SET]
    where = scene(Policy(protection=(Protection(hides_daemon_sets=hides),)), nodes=Nodes(reachable=True))

    admitted = admit(protection, exporter, where)

    assert bool(admitted.operations) is hides


def test_gpus_are_not_hidden_where_the_policy_does_not_say_so() -> None:
    assert admit(protection, pod(), under("deny", reachable=True)).change is NOTHING


def test_what_is_stripped_is_hidden_in_the_same_round() -> None:
    admitted = admit(protection, pod(container(env=ALL_GPUS)), under("strip", reachable=True, hides=True))

    assert env_of(admitted.pod["spec"]["containers"][0]) == HIDDEN


# The validating webhook


@pytest.mark.parametrize("verdict", ["deny", "strip"])
def test_the_final_state_is_refused_even_where_it_should_have_been_stripped(verdict: Verdict) -> None:
    with pytest.raises(RefusedError, match="NVIDIA_VISIBLE_DEVICES"):
        check_protection(msgspec.convert(pod(container(env=ALL_GPUS)), Pod), under(verdict))


def test_the_final_state_is_warned_about_in_the_same_words() -> None:
    before = pod(container(env=ALL_GPUS))

    change = check_protection(msgspec.convert(before, Pod), under("warn", hides=True, reachable=True))

    assert change.warnings == admit(protection, before, under("warn")).change.warnings
    assert change.operations == ()


# Any pod at all

NAMES = st.sampled_from(["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "A"])
VARIABLES = st.builds(lambda name, value: {"name": name, "value": value}, NAMES, st.text(max_size=80))
PATHS = st.sampled_from(["/", "/dev", "/dev/nvidia0", "/data", "/run/nvidia", "/dev/null", "/" + "x" * 300])
VOLUME_NAMES = ("one", "two", "three")
MOUNTS = st.lists(st.sampled_from(VOLUME_NAMES), max_size=3, unique=True).map(
    lambda names: [{"name": name, "mountPath": f"/var/run/nvidia-container-devices/{name}"} for name in names]
)
CAPABILITIES = st.lists(st.sampled_from(["ALL", "SYS_ADMIN", "NET_RAW"]), max_size=3, unique=True)


@st.composite
def containers(draw: st.DrawFn, name: str) -> Json:
    context = {"privileged": draw(st.booleans()), "capabilities": {"add": draw(CAPABILITIES)}}
    env = draw(st.lists(VARIABLES, max_size=4))
    return container(name, env=env, gpus=draw(st.integers(0, 1)), volumeMounts=draw(MOUNTS), securityContext=context)


@st.composite
def pods(draw: st.DrawFn) -> Json:
    volumes = [host(draw(PATHS), name) for name in VOLUME_NAMES]
    names = [f"{index}-{'x' * 60}" for index in range(draw(st.integers(1, 3)))]
    init = tuple(draw(containers(name)) for name in ("init",) if draw(st.booleans()))
    return pod(*(draw(containers(name)) for name in names), init=init, volumes=volumes)


@settings(max_examples=60, deadline=None)
@given(before=pods(), reachable=st.booleans())
def test_nothing_harmful_is_left_of_any_pod(before: Json, reachable: bool) -> None:
    where = under("strip", reachable=reachable, hides=True)

    admitted = admit(protection, before, where)

    assert check_protection(msgspec.convert(admitted.pod, Pod), where) is NOTHING
    assert all(len(warning) < 200 and warning.isprintable() for warning in admitted.change.warnings)
