"""The init containers that load environment modules, each for the containers that would find the same."""

from collections.abc import Container as Known
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from tasuki.kube.names import CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES
from webhooks.editing import add_mounts, set_env
from webhooks.mutations import modules_script as script
from webhooks.mutations.injected import beside_the_pods, is_loader
from webhooks.mutations.modules_wish import MOUNT_PATH, NAME, Wish, mounts
from webhooks.patch import Operation, Operations, add, append, plain
from webhooks.pod import Capabilities, Container, EnvVar, Json, Place, Pod, Resources, SecurityContext, places
from webhooks.policy.model import Modules

# The variables of a container that only those may have which asked for a device: its init container did not.
_DEVICES: Final = frozenset({NVIDIA_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES})


def loaders(pod: Pod, affected: Sequence[Place], wish: Wish) -> tuple[Sequence[str], Operations]:
    """The name of the init container for each affected container, and what makes them so.

    Containers share one if their image, environment and user are the same: then so are the paths that it finds.
    """
    there = {place.container.name: place for place in places(pod, "initContainers") if is_loader(place.container)}
    taken = {place.container.name for place in places(pod)}
    free = (name for name in _loader_names() if name not in taken)
    # The first of those that are alike.
    by_circumstances = {_circumstances(place.container): name for name, place in reversed(there.items())}
    amounts: dict[str, str | int | float] = {"cpu": wish.policy.cpu, "memory": wish.policy.memory}
    amounts = beside_the_pods(pod, amounts)
    resources = Resources(requests=amounts, limits=amounts)
    chosen: list[str] = []
    new: list[Json] = []
    for place in affected:
        name = _given_before(place.container, there)
        if name is None:
            circumstances = _circumstances(place.container)
            name = by_circumstances.get(circumstances)
            if name is None:
                name = by_circumstances[circumstances] = next(free)
                # `kubectl describe pod` then shows what Lmod said.
                told = {"terminationMessagePolicy": "FallbackToLogsOnError"}
                new.append(plain(_loader(name, place.container, wish, resources)) | told)
        chosen.append(name)
    corrected = [
        operation for name in dict.fromkeys(chosen) if name in there for operation in _correct(there[name], wish)
    ]
    return chosen, (*corrected, *append("/spec/initContainers", pod.spec.init_containers, new))


def _loader_names() -> Iterator[str]:
    yield NAME
    number = 1
    while True:
        yield f"{NAME}-{number}"
        number += 1


def _given_before(container: Container, known: Known[str]) -> str | None:
    """Its loader by its BASH_ENV: its other variables are not its own any more."""
    for variable in container.env:
        if variable.name == "BASH_ENV" and variable.value.startswith(f"{MOUNT_PATH}/"):
            name = variable.value.removeprefix(f"{MOUNT_PATH}/").removesuffix(script.BASH_FILE)
            if name in known:
                return name
    return None


def _circumstances(container: Container) -> bytes:
    """What decides which paths a loader finds, as a key of dictionaries, which the parts of a pod are not."""
    decisive = container.image, _own_env(container), container.env_from, _user(container)
    return msgspec.json.encode(decisive, order="deterministic")


def _own_env(container: Container) -> tuple[EnvVar, ...]:
    return tuple(variable for variable in container.env if not _is_ours(variable) and variable.name not in _DEVICES)


def _is_ours(variable: EnvVar) -> bool:
    if variable.name.startswith("TASUKI_MODULES_") or variable.name in script.FUNCTIONS:
        return True
    if variable.value.startswith(f"{MOUNT_PATH}/"):
        return True
    source = variable.value_from or {}
    return (source.get("fileKeyRef") or {}).get("volumeName") == NAME


def _user(container: Container) -> SecurityContext:
    """What is the same in a container and in its init container: as whom, and under which rules, they run."""
    there = container.security_context
    return SecurityContext(
        run_as_user=there.run_as_user,
        run_as_group=there.run_as_group,
        run_as_non_root=there.run_as_non_root,
        seccomp_profile=there.seccomp_profile,
        se_linux_options=there.se_linux_options,
        app_armor_profile=there.app_armor_profile,
    )


def _loader(name: str, container: Container, wish: Wish, resources: Resources) -> Container:
    policy = wish.policy
    return Container(
        name=name,
        image=container.image,
        image_pull_policy=container.image_pull_policy,
        command=_command(policy),
        args=tuple(wish.names),
        env=(*_own_env(container), *_told(name, policy)),
        env_from=container.env_from,
        resources=resources,
        volume_mounts=tuple(mounts(policy, writes=True)),
        security_context=msgspec.structs.replace(
            _user(container),
            allow_privilege_escalation=False,
            capabilities=Capabilities(drop=("ALL",)),
            read_only_root_filesystem=True,
        ),
    )


def _command(policy: Modules) -> tuple[str, ...]:
    return (policy.shell, "-c", script.literal(script.LOAD), NAME)


def _told(name: str, policy: Modules) -> Sequence[EnvVar]:
    told = {
        script.LMOD: policy.lmod,
        script.MODULE_PATH: ":".join(policy.module_path),
        script.VARIABLES: " ".join(policy.variables),
        script.OUTPUT: f"{MOUNT_PATH}/{name}",
    }
    return [EnvVar(name=variable, value=script.literal(value)) for variable, value in told.items()]


def _correct(place: Place, wish: Wish) -> Iterable[Operation]:
    """A pod that was copied, with its init container, may by now ask for other modules."""
    wanted = {"command": _command(wish.policy), "args": tuple(wish.names)}
    there = {"command": place.container.command, "args": place.container.args}
    yield from (add(f"{place.path}/{key}", value) for key, value in wanted.items() if there[key] != value)
    yield from set_env(place, _told(place.container.name, wish.policy))
    yield from add_mounts(place, mounts(wish.policy, writes=True))
