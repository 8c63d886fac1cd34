"""`tasuki.dev/vaccel`: sessions of a node's agent, an agent in the pod itself, or a sandbox whose runtime has one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tasuki.kube.names import GPU_SHARING, SHARED_NODE, VACCEL
from tasuki.process.sentences import alternatives, shown
from webhooks.editing import (
    ReservedNameError,
    add_missing_env,
    add_mounts,
    add_volumes,
    contradicted,
    request_one,
    set_labels,
    set_node_selector,
)
from webhooks.mutations.injected import AGENT, AGENT_VOLUME, beside_the_pods, users_containers
from webhooks.mutations.wording import nearest
from webhooks.patch import Operation, Operations, add, plain, prepend
from webhooks.pod import (
    WINDOWS,
    Capabilities,
    Container,
    EnvVar,
    Pod,
    SecurityContext,
    Volume,
    VolumeMount,
    annotation,
    default_container,
    places,
    requested,
)
from webhooks.policy.model import Vaccel, VaccelSandbox, VaccelSidecar
from webhooks.scene import NOTHING, Change, RefusedError, Scene

_ADDRESS: Final = "VACCEL_RPC_ADDRESS"
_PLUGINS: Final = "VACCEL_PLUGINS"


_SOCKET_FOLDER: Final = "/var/run/tasuki-vaccel"
_SOCKET: Final = f"{_SOCKET_FOLDER}/vaccel.sock"

# vAccel keeps files below /run/user/<uid>/vaccel, and makes the folders on the way (nubificus/vaccel, src/vaccel.c).
_RUN_VOLUME: Final = "tasuki-vaccel-run"
_RUN_FOLDER: Final = "/run/user"

# The agent leaves its socket behind when it dies and cannot listen at one that is there, and the volume outlives the
# container. Users of the pod's other containers may differ from the agent's, and have to write to the socket.
_START: Final = (
    "sh",
    "-c",
    'rm -f "${ADDRESS#unix://}"; umask 0; exec vaccel-rpc-agent -a "$ADDRESS" --vaccel-config "plugins=$PLUGINS"',
)

# Kubernetes has no probe for a unix socket, and the agent no command that asks one. Containers after a native sidecar
# start when its startup probe has succeeded.
_STARTED: Final = {"exec": {"command": ["test", "-S", _SOCKET]}, "periodSeconds": 1, "failureThreshold": 60}

# The host, as a virtual machine calls it, and the port that Kata's runtime serves there.
_HOST_OF_SANDBOX: Final = "vsock://2:2048"

_Offer = Callable[[Pod], Change]


def vaccel(pod: Pod, scene: Scene) -> Change:
    mode = annotation(pod, VACCEL)
    if not mode:
        return NOTHING
    policy = scene.policy.vaccel
    shared = scene.policy.shared_nodes is not None and annotation(pod, GPU_SHARING) == SHARED_NODE
    offers = _offers(policy, shared=shared) if policy is not None else {}
    if not offers:
        raise RefusedError(f"{VACCEL}: this cluster offers no vAccel; leave the annotation out")
    if mode not in offers:
        near = nearest(mode, offers)
        likely = f"is it {near!r}? " if near else ""
        raise RefusedError(f"{VACCEL}: {shown(mode)} is not offered here; {likely}write {alternatives(offers)}")
    if pod.spec.os.name == WINDOWS:
        raise RefusedError(
            f"{VACCEL}: vAccel is for Linux, and spec.os.name of the pod is {WINDOWS}; leave the annotation out"
        )
    return offers[mode](pod)


def _offers(policy: Vaccel, *, shared: bool) -> Mapping[str, _Offer]:
    """By mode, for a pod that goes to a shared node or does not."""
    offers: dict[str, _Offer] = {}
    # On a shared node, no container will have the session that it requests.
    held = "" if shared else policy.session
    if policy.session:
        offers["session"] = partial(_session, policy=policy, shared=shared)
    if policy.sidecar is not None:
        offers["sidecar"] = partial(_sidecar, policy=policy, offer=policy.sidecar, held=held)
    if policy.sandbox is not None:
        offers["sandbox"] = partial(_sandbox, policy=policy, offer=policy.sandbox, held=held)
    return offers


def _session(pod: Pod, *, policy: Vaccel, shared: bool) -> Change:
    """The device plugin gives the environment and the mounts, so nothing of these is set here, to go before its own."""
    if shared:
        raise RefusedError(
            f"{VACCEL}: a session is a resource, and pods with {GPU_SHARING}: {SHARED_NODE} hold none; "
            "leave one of the annotations out"
        )
    asking = [place for place in places(pod) if policy.session in requested(place.container)]
    operations: list[Operation] = []
    if not asking:
        chosen = default_container(pod)
        asking = [chosen] if chosen is not None else []
        operations += (each for place in asking for each in request_one(place, policy.session))
    operations += set_labels(pod, policy.client_labels)
    warnings = [
        f"container {shown(place.container.name)} sets {variable.name} itself, which goes before its session's"
        for place in asking
        for variable in place.container.env
        if variable.name in (_ADDRESS, _PLUGINS)
    ]
    return Change(tuple(operations), (*warnings, *_relabelled(pod, policy.client_labels)), {"vaccel": "session"})


def _sidecar(pod: Pod, *, policy: Vaccel, offer: VaccelSidecar, held: str) -> Change:
    volumes = (
        Volume(name=AGENT_VOLUME, empty_dir={}),
        Volume(name=_RUN_VOLUME, empty_dir={"sizeLimit": "1Gi"}),
    )
    # To connect takes permission to write to the socket only, not to its folder.
    mount = VolumeMount(name=AGENT_VOLUME, mount_path=_SOCKET_FOLDER, read_only=True)
    connected = _connected(pod, policy, f"unix://{_SOCKET}", held, (mount,))
    # The agent comes last: in front of the init containers, it moves those that the other operations name.
    operations = (*add_volumes(pod, volumes), *connected.operations, *_with_agent(pod, offer))
    return Change(operations, connected.warnings, {"vaccel": "sidecar"})


def _with_agent(pod: Pod, offer: VaccelSidecar) -> Operations:
    """The agent's image and resources are not compared: others may have rewritten them by the second pass."""
    for place in places(pod):
        if place.container.name == AGENT:
            if place.kind == "initContainers" and place.container.command == _START:
                return ()
            raise ReservedNameError(f"the container name {AGENT!r} is Tasuki's; give yours another name")
    return prepend("/spec/initContainers", pod.spec.init_containers, [_agent(pod, offer)])


def _agent(pod: Pod, offer: VaccelSidecar) -> dict[str, Any]:
    """A native sidecar: an init container that is started before the others and keeps running."""
    container = Container(
        name=AGENT,
        image=offer.image,
        command=_START,
        env=(
            EnvVar(name="ADDRESS", value=f"unix://{_SOCKET}"),
            EnvVar(name="PLUGINS", value=_libraries(offer.plugins)),
        ),
        restart_policy="Always",
        volume_mounts=(
            VolumeMount(name=AGENT_VOLUME, mount_path=_SOCKET_FOLDER),
            VolumeMount(name=_RUN_VOLUME, mount_path=_RUN_FOLDER),
        ),
        security_context=_restricted(pod),
    )
    described: dict[str, Any] = plain(container)
    resources = {section: beside_the_pods(pod, amounts) for section, amounts in offer.resources.items()}
    resources = {section: amounts for section, amounts in resources.items() if amounts}
    return described | {"resources": resources, "startupProbe": _STARTED}


def _restricted(pod: Pod) -> SecurityContext:
    """As the pod security standard "restricted" wants it, as the user of the pod.

    Where it is not the pod but its containers that say which user they run as, the first one's word counts.
    """
    first = pod.spec.containers[0].security_context if pod.spec.containers else SecurityContext()
    return SecurityContext(
        allow_privilege_escalation=False,
        capabilities=Capabilities(drop=("ALL",)),
        read_only_root_filesystem=True,
        run_as_user=first.run_as_user,
        run_as_group=first.run_as_group,
        run_as_non_root=first.run_as_non_root,
        seccomp_profile={"type": "RuntimeDefault"},
    )


def _sandbox(pod: Pod, *, policy: Vaccel, offer: VaccelSandbox, held: str) -> Change:
    """The RuntimeClass's overhead, selector and tolerations are the API server's to add: it admits the pod again."""
    there = pod.spec.runtime_class_name
    if there not in ("", offer.runtime_class):
        raise RefusedError(
            f"{VACCEL}: sandbox means runtimeClassName {offer.runtime_class!r}, and the pod has {shown(there)}; "
            "leave one of them out"
        )
    if contradiction := contradicted(pod, offer.node_selector):
        key, value, found = contradiction
        raise RefusedError(
            f"{VACCEL}: sandbox needs nodes with {key}={value}, and the pod's nodeSelector has {shown(found)}; "
            "leave that key out"
        )
    connected = _connected(pod, policy, _HOST_OF_SANDBOX, held)
    operations = (
        *(() if there else (add("/spec/runtimeClassName", offer.runtime_class),)),
        *set_labels(pod, offer.labels),
        *set_node_selector(pod, offer.node_selector),
        *connected.operations,
    )
    return Change(operations, (*connected.warnings, *_relabelled(pod, offer.labels)), {"vaccel": "sandbox"})


def _connected(pod: Pod, policy: Vaccel, address: str, held: str, mounts: Sequence[VolumeMount] = ()) -> Change:
    """Lead every container to the agent, but those that hold a session of another, whose address it would replace.

    `held` is the resource of such sessions; empty if no container will have one.
    """
    env = (EnvVar(name=_ADDRESS, value=address), EnvVar(name=_PLUGINS, value=_libraries(policy.plugins)))
    operations: list[Operation] = []
    warnings: list[str] = []
    for place in users_containers(pod):
        if held and held in requested(place.container):
            continue
        operations += add_mounts(place, mounts)
        operations += add_missing_env(place, env)
        if any(each.name == _ADDRESS and each.value != address for each in place.container.env):
            warnings.append(f"container {shown(place.container.name)} keeps its own {_ADDRESS}, so it uses that agent")
    return Change(tuple(operations), tuple(warnings))


def _libraries(plugins: Sequence[str]) -> str:
    """The names of files, by which vAccel opens plugins (nubificus/vaccel, src/plugin.c); a word is short for one."""
    return ":".join(name if "/" in name or ".so" in name else f"libvaccel-{name}.so" for name in plugins)


def _relabelled(pod: Pod, wanted: Mapping[str, str]) -> Iterator[str]:
    for key, value in wanted.items():
        if pod.metadata.labels.get(key, value) != value:
            yield f"label {shown(key)} became {shown(value)}, by which {VACCEL} is known"
