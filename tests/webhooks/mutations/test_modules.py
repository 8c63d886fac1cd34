"""What `tasuki.dev/modules` makes of a pod."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene, without_accelerators
from webhooks.catalogue import Catalogue
from webhooks.cluster import Cluster
from webhooks.editing import ReservedNameError
from webhooks.mutations.modules import modules
from webhooks.mutations.modules_script import LOAD, literal
from webhooks.pod import Pod
from webhooks.policy.model import Modules, ModuleVolume, Policy
from webhooks.scene import NOTHING, RefusedError, Scene

MODULES = "tasuki.dev/modules"
CONTAINERS = "tasuki.dev/modules-containers"
OFFER = Modules(
    volumes=(
        ModuleVolume(name="apps", source={"persistentVolumeClaim": {"claimName": "apps"}}, mount_path="/opt/apps"),
        ModuleVolume(
            name="cvmfs",
            source={"hostPath": {"path": "/cvmfs"}},
            mount_path="/cvmfs",
            sub_path="site",
            mount_propagation="HostToContainer",
        ),
    ),
    module_path=("/opt/apps/modules/all", "/cvmfs/modules"),
)
CATALOGUE = Catalogue(versions={"gcc": ("12.3", "13.1"), "cuda": ("12.4",)})


def where(
    server: tuple[int, int] | None = (1, 36),
    kubelet: tuple[int, int] | None = (1, 36),
    *,
    offer: Modules | None = OFFER,
    catalogue: Catalogue | None = None,
    **fields: Any,
) -> Scene:
    return scene(
        Policy(modules=msgspec.structs.replace(offer, **fields) if offer else None),
        cluster=Cluster(server_version=server, catalogue=catalogue),
        nodes=without_accelerators(kubelet) if kubelet else None,
    )


def asking(*containers: Json, names: str = "gcc/12.3", **fields: Any) -> Json:
    return pod(*containers, annotations={MODULES: names} | fields.pop("annotations", {}), **fields)


def env(spec: Json) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in spec.get("env", ())}


def delivery(spec: Json) -> str:
    if "PATH" in env(spec):
        return "file"
    return "wrapper" if "--posix" in spec.get("command", ()) else "shell"


def by_name(containers: Sequence[Json]) -> dict[str, Json]:
    return {each["name"]: each for each in containers}


def test_pod_without_the_annotation_is_left_alone() -> None:
    assert modules(msgspec.convert(pod(annotations={"other": "x"}), Pod), where()) is NOTHING


@pytest.mark.parametrize("value", ["", "  ", " , "])
def test_annotation_that_names_nothing_asks_for_nothing(value: str) -> None:
    assert modules(msgspec.convert(asking(names=value), Pod), where(offer=None)) is NOTHING


def test_containers_without_modules_are_told_to_be_without_effect() -> None:
    admitted = admit(modules, pod(annotations={CONTAINERS: "main"}), where())

    assert admitted.operations == []
    assert admitted.change.warnings == (f"annotation {CONTAINERS} has no effect without {MODULES}",)


def test_cluster_without_modules_refuses() -> None:
    with pytest.raises(RefusedError, match="this cluster offers no environment modules; remove the annotation"):
        admit(modules, asking(), where(offer=None))


@pytest.mark.parametrize(
    "name",
    [
        "../etc", "/etc/passwd", "gcc/../cuda", "gcc/.hidden", "-f", "--force", "gcc;id", "$(id)", "`id`", "$HOME",
        "gcc'", 'gcc"', "gcc\\", "gcc|id", "gcc&", "gcc>x", "~root", "*", "gcc/*", "a/b/c/d/e", "gcc//12", "gcc/", "é",
        "gcc\x00", "gcc/12\x1b[0m", "x" * 129,
    ],
)  # fmt: skip
def test_name_that_is_no_module_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match=r"tasuki.dev/modules: .* is no module; write names such as gcc or gcc/12.3"):
        admit(modules, asking(names=f"gcc {name}"), where())


def test_too_many_modules_are_refused() -> None:
    with pytest.raises(RefusedError, match="65 modules are more than the 64 allowed"):
        admit(modules, asking(names=" ".join(f"m{number}" for number in range(65))), where())


@settings(max_examples=150)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_carried_out_or_refused(names: str, containers: str) -> None:
    asked = asking(names=names, annotations={CONTAINERS: containers})
    try:
        change = modules(msgspec.convert(asked, Pod), where(catalogue=CATALOGUE))
    except RefusedError:
        return

    assert change is NOTHING or "gcc" in names or "cuda" in names


@pytest.mark.parametrize("names", ["gcc/12.3 cuda/12.4", "gcc/12.3,cuda/12.4", "\n gcc/12.3 ,\tcuda/12.4,gcc/12.3 ,"])
def test_names_are_arguments_of_the_init_container(names: str) -> None:
    admitted = admit(modules, asking(names=names), where(catalogue=CATALOGUE))

    [loader] = admitted.pod["spec"]["initContainers"]
    assert loader["args"] == ["gcc/12.3", "cuda/12.4"]
    assert admitted.change.notes == {"modules": "gcc/12.3 cuda/12.4"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("gcc/14.1", "the nearest are gcc/13.1, gcc/12.3", id="another version"),
        pytest.param("CUDA", "the nearest are cuda", id="another spelling"),
        pytest.param("tensorflow/2", "`module spider` lists those that there are", id="nothing like it"),
    ],
)
def test_module_that_is_not_in_the_catalogue_is_refused(name: str, told: str) -> None:
    with pytest.raises(RefusedError, match=f"there is no module '{name}' in this cluster's catalogue; {told}"):
        admit(modules, asking(names=name), where(catalogue=CATALOGUE))


def test_only_the_named_containers_get_modules() -> None:
    asked = asking(container("a"), container("b"), container("c"), annotations={CONTAINERS: "c, a"})

    after = by_name(admit(modules, asked, where()).pod["spec"]["containers"])

    assert after["b"] == container("b")
    assert {name for name, each in after.items() if "PATH" in env(each)} == {"a", "c"}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param("trainr", "did you mean trainer?", id="misspelt"),
        pytest.param("zzz", "the pod has side, trainer", id="nothing like it"),
        pytest.param("setup", "the pod has no container 'setup'", id="an init container"),
    ],
)
def test_unknown_container_is_refused(written: str, told: str) -> None:
    asked = asking(
        container("trainer"), container("side"), init=(container("setup"),), annotations={CONTAINERS: written}
    )

    with pytest.raises(RefusedError, match=re.escape(told)):
        admit(modules, asked, where())


def test_refusal_of_a_long_text_is_short() -> None:
    with pytest.raises(RefusedError) as refused:
        admit(modules, asking(annotations={CONTAINERS: "x" * 100_000}), where())

    assert len(str(refused.value)) < 1000


def test_the_init_container_stands_in_for_its_container() -> None:
    own = [
        {"name": "LD_LIBRARY_PATH", "value": "/mine"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
    ]
    main = container(
        env=own,
        envFrom=[{"configMapRef": {"name": "c"}}],
        imagePullPolicy="Always",
        gpus=1,
        securityContext={
            "runAsUser": 1000, "runAsGroup": 100, "runAsNonRoot": True, "privileged": True,
            "capabilities": {"add": ["SYS_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0:c1"}, "appArmorProfile": {"type": "RuntimeDefault"},
        },
    )  # fmt: skip

    [loader] = admit(modules, asking(main), where()).pod["spec"]["initContainers"]

    assert loader["image"] == main["image"]
    assert loader["imagePullPolicy"] == "Always"
    assert loader["env"][:2] == own[:2]
    assert "NVIDIA_VISIBLE_DEVICES" not in env(loader)
    assert loader["envFrom"] == main["envFrom"]
    assert loader["resources"]["limits"] == loader["resources"]["requests"] == {"cpu": "500m", "memory": "256Mi"}
    assert loader["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert loader["securityContext"] == {
        "runAsUser": 1000, "runAsGroup": 100, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"level": "s0:c1"}, "appArmorProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("of_pod", "expected"),
    [
        pytest.param({"limits": {"cpu": "2", "memory": "4Gi"}}, {}, id="the pod has both"),
        pytest.param({"requests": {"memory": "1Gi"}}, {"cpu": "500m"}, id="the pod has one"),
    ],
)
def test_the_init_container_has_its_share_of_what_the_pod_has_as_a_whole(of_pod: Json, expected: Json) -> None:
    [loader] = admit(modules, asking(resources=of_pod), where()).pod["spec"]["initContainers"]

    assert loader.get("resources", {}) == ({"limits": expected, "requests": expected} if expected else {})


def test_windows_pod_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"are for Linux, and spec\.os\.name of the pod is windows; remove"):
        admit(modules, asking(os={"name": "windows"}), where())


def test_volumes_are_mounted_for_reading() -> None:
    after = admit(modules, asking(), where()).pod["spec"]

    assert after["volumes"] == [
        {"name": "apps", "persistentVolumeClaim": {"claimName": "apps"}},
        {"name": "cvmfs", "hostPath": {"path": "/cvmfs"}},
        {"name": "tasuki-modules", "emptyDir": {"sizeLimit": "16Mi"}},
    ]
    mounts = by_name(after["containers"][0]["volumeMounts"])
    assert all(mount["readOnly"] for mount in mounts.values())
    assert (mounts["cvmfs"]["subPath"], mounts["cvmfs"]["mountPropagation"]) == ("site", "HostToContainer")
    written = by_name(after["initContainers"][0]["volumeMounts"])
    assert written == mounts | {
        "tasuki-modules": {"name": "tasuki-modules", "mountPath": "/var/run/tasuki.dev/modules"}
    }


@pytest.mark.parametrize(
    "source",
    [
        pytest.param({"image": {"reference": "modules:1", "pullPolicy": "IfNotPresent"}}, id="image"),
        pytest.param({"csi": {"driver": "cvmfs.csi.cern.ch", "readOnly": True}}, id="CSI"),
        pytest.param({"nfs": {"server": "s", "path": "/apps"}}, id="NFS"),
    ],
)
def test_source_of_a_volume_is_as_in_the_policy(source: Json) -> None:
    volumes = (ModuleVolume(name="apps", source=source, mount_path="/apps"),)

    after = admit(modules, asking(), where(volumes=volumes)).pod["spec"]

    assert after["volumes"][0] == {"name": "apps"} | source


def test_another_volume_of_the_same_name_is_refused() -> None:
    with pytest.raises(ReservedNameError, match="'apps'"):
        admit(modules, asking(volumes=[{"name": "apps", "emptyDir": {}}]), where())


def test_pod_goes_to_nodes_with_the_modules() -> None:
    after = admit(modules, asking(nodeSelector={"a": "b"}), where(node_selector={"apps": "yes"})).pod["spec"]

    assert after["nodeSelector"] == {"a": "b", "apps": "yes"}


def test_pod_that_selects_nodes_without_the_modules_is_refused() -> None:
    with pytest.raises(RefusedError, match="on nodes with apps=yes, but the pod selects apps=no"):
        admit(modules, asking(nodeSelector={"apps": "no"}), where(node_selector={"apps": "yes"}))


def test_containers_that_would_find_the_same_share_an_init_container() -> None:
    asked = asking(
        container("a", env={"X": "1"}),
        container("b", env={"X": "1"}, command=["b"]),
        container("other-image", image="other:1", env={"X": "1"}),
        container("other-env", env={"X": "2"}),
        container("other-user", env={"X": "1"}, securityContext={"runAsUser": 7}),
        container("other-source", env={"X": "1"}, envFrom=[{"secretRef": {"name": "s"}}]),
        container("tasuki-modules-1", env={"X": "1"}),
        init=(container("first"),),
    )

    after = admit(modules, asked, where()).pod["spec"]

    names = [f"tasuki-modules{suffix}" for suffix in ("", "-2", "-3", "-4", "-5")]
    assert [each["name"] for each in after["initContainers"]] == ["first", *names]
    paths = {each["name"]: env(each)["PATH"]["fileKeyRef"]["path"] for each in after["containers"]}
    assert paths == {
        "a": "tasuki-modules.env",
        "b": "tasuki-modules.env",
        "other-image": "tasuki-modules-2.env",
        "other-env": "tasuki-modules-3.env",
        "other-user": "tasuki-modules-4.env",
        "other-source": "tasuki-modules-5.env",
        "tasuki-modules-1": "tasuki-modules.env",
    }


@pytest.mark.parametrize(
    ("asked", "server", "kubelet", "command", "expected"),
    [
        pytest.param("auto", (1, 36), (1, 35), [], "file", id="new enough"),
        pytest.param("auto", (1, 36), (1, 34), ["x"], "wrapper", id="a kubelet too old"),
        pytest.param("auto", (1, 34), (1, 36), ["x"], "wrapper", id="an API server too old"),
        pytest.param("auto", (1, 34), (1, 34), [], "shell", id="too old, without a command"),
        pytest.param("auto", None, (1, 36), ["x"], "wrapper", id="the API server's version is unknown"),
        pytest.param("auto", (1, 36), None, ["x"], "wrapper", id="the nodes are unknown"),
        pytest.param("auto", (1, 36), (0, 0), [], "shell", id="there is no node"),
        pytest.param("file", None, None, ["x"], "file", id="file, whatever is known"),
        pytest.param("wrapper", (1, 36), (1, 36), ["x"], "wrapper", id="wrapper, though file could be"),
        pytest.param("wrapper", (1, 36), (1, 36), [], "shell", id="wrapper without a command"),
        pytest.param("shell", (1, 36), (1, 36), ["x"], "shell", id="shell, though file could be"),
    ],
)
def test_delivery(
    asked: str,
    server: tuple[int, int] | None,
    kubelet: tuple[int, int] | None,
    command: list[str],
    expected: str,
) -> None:
    admitted = admit(modules, asking(container(command=command)), where(server, kubelet, delivery=asked))

    [main] = admitted.pod["spec"]["containers"]
    assert delivery(main) == expected
    assert env(main)["BASH_ENV"] == "/var/run/tasuki.dev/modules/tasuki-modules.bash"
    assert bool(admitted.change.warnings) == (expected == "shell")


def test_warnings_are_short() -> None:
    asked = asking(container("n" * 63, env={"LD_LIBRARY_PATH": "'"}))

    told = [*admit(modules, asked, where((1, 30))).change.warnings, *admit(modules, asked, where()).change.warnings]

    assert ["only bash scripts see the modules" in each for each in told] == [True, False]
    assert all(len(each) < 200 for each in told)


def test_command_is_wrapped_and_arguments_stay() -> None:
    main = container(command=["python", "$(SCRIPT)"], args=["--epochs", "3"])

    [after] = admit(modules, asking(main), where((1, 34))).pod["spec"]["containers"]

    assert after["command"][:3] == ["/bin/bash", "--posix", "-c"]
    assert after["command"][-2:] == main["command"]
    assert after["args"] == main["args"]


@pytest.mark.parametrize(
    ("kubelet", "expected"),
    [pytest.param((1, 32), True, id="names are relaxed"), pytest.param((1, 31), False, id="names are strict")],
)
def test_functions_are_exported_where_their_names_are_allowed(kubelet: tuple[int, int], *, expected: bool) -> None:
    [main] = admit(modules, asking(), where((1, 36), kubelet)).pod["spec"]["containers"]

    assert [f"BASH_FUNC_{name}%%" in env(main) for name in ("module", "ml")] == [expected] * 2


def test_variables_of_the_user_are_replaced_where_they_stand() -> None:
    own = {"A": "1", "PATH": "/mine:$(A)", "B": "$(PATH)"}

    [main] = admit(modules, asking(container(env=own)), where()).pod["spec"]["containers"]

    assert [entry["name"] for entry in main["env"]][:3] == ["A", "PATH", "B"]
    assert env(main)["PATH"] == {
        "fileKeyRef": {
            "volumeName": "tasuki-modules", "path": "tasuki-modules.env", "key": "PATH", "optional": True,
        }
    }  # fmt: skip


def test_value_that_no_file_can_hold_stays_with_a_warning() -> None:
    own = {"CFLAGS": "-DX='y'", "OTHER": "'"}

    admitted = admit(modules, asking(container(env=own)), where())

    assert env(admitted.pod["spec"]["containers"][0])["CFLAGS"] == "-DX='y'"
    assert admitted.change.warnings == (
        f"{MODULES}: CFLAGS of container 'main' stays as it is: its value cannot be filed",
    )


@pytest.mark.parametrize(
    ("module", "software"),
    [
        pytest.param("gcc", "GCC", id="a name alone"),
        pytest.param("gcc/12.3", "GCC", id="a version"),
        pytest.param("numlib/FFTW.MPI/3.3", "FFTWMPI", id="a category and a dot"),
        pytest.param("libsigc++/2", "LIBSIGCPLUSPLUS", id="a plus"),
        pytest.param("scikit-learn/1", "SCIKITMINLEARN", id="a dash"),
    ],
)
def test_easybuilds_variables_of_a_module(module: str, software: str) -> None:
    [main] = admit(modules, asking(names=module), where()).pod["spec"]["containers"]

    assert {f"EBROOT{software}", f"EBVERSION{software}"} <= env(main).keys()


def defaulted(after: Json) -> Json:
    """As the API server hands a pod to the webhooks again."""
    after = copy.deepcopy(after)
    for volume in after["spec"]["volumes"]:
        for source, default in (("hostPath", {"type": ""}), ("emptyDir", {}), ("image", {"pullPolicy": "Always"})):
            if source in volume:
                volume[source] = default | volume[source]
    for each in after["spec"]["containers"] + after["spec"]["initContainers"]:
        each |= {"terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"}
        each.setdefault("terminationMessagePolicy", "File")
        each.setdefault("resources", {})
        for mount in each["volumeMounts"]:
            mount.setdefault("recursiveReadOnly", "Disabled")
        for entry in each["env"]:
            if "fieldRef" in entry.get("valueFrom", {}):
                entry["valueFrom"]["fieldRef"]["apiVersion"] = "v1"
    after["spec"] |= {"priority": 0, "enableServiceLinks": True, "tolerations": []}
    return after


@pytest.mark.parametrize("version", [(1, 36), (1, 33), (1, 30)], ids=["file", "wrapper", "without relaxed names"])
def test_nothing_is_left_to_do_once_the_api_server_filled_in_defaults(version: tuple[int, int]) -> None:
    own = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "PATH", "value": "/bin"}]
    asked = asking(container("a", env=own, command=["x"]), container("b", env=own), container("c", image="other:1"))
    after = defaulted(admit(modules, asked, where(version, version)).pod)

    again = modules(msgspec.convert(after, Pod), where(version, version))

    assert again.operations == ()


@pytest.mark.parametrize(
    ("added", "loaders"),
    [
        pytest.param(container("late", env={"PATH": "/bin"}), 1, id="one that would find the same"),
        pytest.param(container("late", image="other:1"), 2, id="one with another image"),
    ],
)
def test_container_that_another_webhook_adds_gets_modules_too(added: Json, loaders: int) -> None:
    after = admit(modules, asking(container(env={"PATH": "/bin"})), where()).pod
    after["spec"]["containers"].append(added)

    final = admit(modules, after, where()).pod["spec"]

    assert [delivery(each) for each in final["containers"]] == ["file", "file"]
    assert len(final["initContainers"]) == loaders


def test_copied_pod_loads_what_it_asks_for_now() -> None:
    after = admit(modules, asking(container(command=["x"])), where((1, 33))).pod
    after["metadata"]["annotations"][MODULES] = "cuda/12.4"

    final = admit(modules, after, where((1, 33), shell="/usr/bin/bash", module_path=("/new",))).pod["spec"]

    [loader] = final["initContainers"]
    assert (loader["args"], loader["command"][0]) == (["cuda/12.4"], "/usr/bin/bash")
    assert env(loader)["TASUKI_MODULES_PATH"] == "/new"
    assert final["containers"][0]["command"][0] == "/usr/bin/bash"
    assert final["containers"][0]["command"].count("x") == 1
    assert len(final["containers"][0]["command"]) == 6


def test_init_container_of_our_name_without_a_command_gets_one() -> None:
    named = container("tasuki-modules", volumeMounts=[{"name": "tasuki-modules", "mountPath": "/x"}])

    [loader] = admit(modules, asking(init=(named,)), where()).pod["spec"]["initContainers"]

    assert (loader["args"], loader["command"][0]) == (["gcc/12.3"], "/bin/bash")


def test_init_container_of_the_user_with_a_name_like_ours_stays_as_it_is() -> None:
    mine = container("tasuki-modules-mine", volumeMounts=[{"name": "tasuki-modules", "mountPath": "/x"}])

    after = admit(modules, asking(init=(mine,)), where()).pod["spec"]["initContainers"]

    assert [after[0], after[1]["name"]] == [mine, "tasuki-modules"]


def test_more_containers_than_a_pod_could_hold_with_modules_are_refused() -> None:
    many = [container(f"c{index}") for index in range(101)]

    with pytest.raises(RefusedError, match=f"101 containers are more than the 100 .* {CONTAINERS}"):
        modules(msgspec.convert(asking(*many), Pod), where())
    named = asking(*many, annotations={CONTAINERS: "c7"})
    assert len(admit(modules, named, where()).pod["spec"]["initContainers"]) == 1


def test_variable_that_is_there_twice_is_told_of_once() -> None:
    twice = [{"name": "PATH", "value": "it's"}] * 2

    change = admit(modules, asking(container(env=twice)), where()).change

    assert len(change.warnings) == 1


def test_restricted_pod_stays_restricted() -> None:
    inherited = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}

    [loader] = admit(modules, asking(securityContext=inherited), where()).pod["spec"]["initContainers"]

    assert loader["securityContext"]["allowPrivilegeEscalation"] is False
    assert loader["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not loader["securityContext"].keys() & inherited.keys()


def expanded(text: str) -> str:
    """As the kubelet expands what refers to variables that exist."""
    return re.sub(r"\$\$|\$\([^)]*\)", lambda found: "$" if found[0] == "$$" else "expanded", text)


@given(st.text("$()aé{", max_size=20))
def test_literal_text_survives_the_kubelet(text: str) -> None:
    assert expanded(literal(text)) == text


def test_the_script_needs_no_escape() -> None:
    assert literal(LOAD) == LOAD
