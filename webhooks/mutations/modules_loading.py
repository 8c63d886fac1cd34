"""The init containers that load environment modules, each for the containers that would find the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from webhooks.editing import add_mounts, set_env
from webhooks.mutations import modules_script as script
from webhooks.mutations.modules_wish import MOUNT_PATH, NAME, Wish, mounts
from webhooks.patch import Operation, Operations, append, plain, replace
from webhooks.pod import Capabilities, Container, EnvVar, Json, Place, Pod, Resources, SecurityContext, places
from webhooks.policy.model import Modules

# The variables of a container that only those may have which asked for a device: its init container did not.
_DEVICES: Final = frozenset({"NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"})


def loaders(pod: Pod, affected: Sequence[Place], wish: Wish) -> tuple[Sequence[str], Operations]:
    """The name of the init container for each affected container, and what makes them so.

    Containers share one if their image, environment and user are the same: then so are the paths that it finds.
    """
    there = {
        place.container.name: place
        for place in places(pod, "initContainers")
        if place.container.name.startswith(NAME) and any(mount.name == NAME for mount in place.container.volume_mounts)
    }
    taken = {place.container.name for place in places(pod)}
    known = {name: place.container for name, place in there.items()}
    chosen: list[str] = []
    new: list[Json] = []
    for place in affected:
        name = _loader_of(place.container, known)
        if name is None:
            name = next(each for each in _loader_names() if each not in taken)
            taken.add(name)
            known[name] = _loader(name, place.container, wish)
            # `kubectl describe pod` then shows what Lmod said.
            new.append(plain(known[name]) | {"terminationMessagePolicy": "FallbackToLogsOnError"})
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


def _loader_of(container: Container, known: Mapping[str, Container]) -> str | None:
    """By its BASH_ENV if the container was given one before: its other variables are not its own any more."""
    for variable in container.env:
        if variable.name == "BASH_ENV" and variable.value.startswith(f"{MOUNT_PATH}/"):
            name = variable.value.removeprefix(f"{MOUNT_PATH}/").removesuffix(script.BASH_FILE)
            if name in known:
                return name
    circumstances = _circumstances(container)
    return next((name for name, each in known.items() if _circumstances(each) == circumstances), None)


def _circumstances(container: Container) -> tuple[object, ...]:
    return container.image, _own_env(container), container.env_from, _user(container)


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


def _loader(name: str, container: Container, wish: Wish) -> Container:
    policy = wish.policy
    amounts: dict[str, str | int | float] = {"cpu": policy.cpu, "memory": policy.memory}
    return Container(
        name=name,
        image=container.image,
        image_pull_policy=container.image_pull_policy,
        command=_command(policy),
        args=tuple(wish.names),
        env=(*_own_env(container), *_told(name, policy)),
        env_from=container.env_from,
        resources=Resources(requests=amounts, limits=amounts),
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
    yield from (replace(f"{place.path}/{key}", value) for key, value in wanted.items() if there[key] != value)
    yield from set_env(place, _told(place.container.name, wish.policy))
    yield from add_mounts(place, mounts(wish.policy, writes=True))
