"""How the variables that an init container found reach the other containers."""

from collections.abc import Collection, Iterable
from typing import Final, Literal

from tasuki.kube.names import MODULES
from webhooks.editing import add_mounts, set_env
from webhooks.mutations import modules_script as script
from webhooks.mutations.modules_wish import MOUNT_PATH, NAME, Wish, mounts
from webhooks.patch import Operations, replace
from webhooks.pod import Container, EnvVar, Place

# fileKeyRef is on by default from here (EnvFiles, beta), and any printable name of a variable is allowed from there
# (RelaxedEnvironmentVariableValidation, beta; kubernetes/kubernetes pkg/features/kube_features.go).
_ENV_FILES: Final = (1, 35)
_RELAXED_NAMES: Final = (1, 32)

# EasyBuild's convert_name (easybuild/tools/filetools.py): how a software's name becomes part of a variable's.
_EASYBUILD: Final = str.maketrans({"+": "plus", "-": "min", ".": ""})

Delivery = Literal["file", "wrapper", "shell"]


def delivery_for(container: Container, wish: Wish) -> Delivery:
    asked = wish.policy.delivery
    if asked == "file" or (asked == "auto" and wish.version >= _ENV_FILES):
        return "file"
    return "wrapper" if container.command and asked != "shell" else "shell"


def deliver(place: Place, loader: str, delivery: Delivery, wish: Wish) -> Operations:
    bash_file = f"{MOUNT_PATH}/{loader}{script.BASH_FILE}"
    wanted = [EnvVar(name="BASH_ENV", value=bash_file)]
    if wish.version >= _RELAXED_NAMES:
        wanted += [
            EnvVar(name=variable, value=script.literal(text.format(file=bash_file)))
            for variable, text in script.FUNCTIONS.items()
        ]
    wrapped: Operations = ()
    if delivery == "file":
        kept = _kept(place.container, wish)
        wanted += [_from_file(name, loader) for name in _keys(wish) if name not in kept]
    elif delivery == "wrapper":
        wrapped = _wrap(place, loader, wish.policy.shell)
    return (*add_mounts(place, mounts(wish.policy, writes=False)), *set_env(place, wanted), *wrapped)


def _keys(wish: Wish) -> Iterable[str]:
    """What a container could get: a key that is not in the file, or is empty, is passed over by the kubelet."""
    easybuild = [
        f"{prefix}{_software(name).translate(_EASYBUILD).upper()}"
        for name in wish.names
        for prefix in ("EBROOT", "EBVERSION")
    ]
    return dict.fromkeys((*wish.policy.variables, *easybuild, *script.TOOL_VARIABLES, script.LOADED))


def _software(module: str) -> str:
    """Of `numlib/FFTW/3.3`, FFTW: EasyBuild ends with the version."""
    parts = module.split("/")
    return parts[-2] if len(parts) > 1 else parts[0]


def _from_file(name: str, loader: str) -> EnvVar:
    source = {"volumeName": NAME, "path": f"{loader}{script.ENV_FILE}", "key": name, "optional": True}
    return EnvVar(name=name, value_from={"fileKeyRef": source})


def _kept(container: Container, wish: Wish) -> Collection[str]:
    """Variables whose own value the file could not hold: with an entry for the file they would have none at all."""
    keys = frozenset(_keys(wish))
    kept = (variable.name for variable in container.env if variable.name in keys and not _fits(variable.value))
    return dict.fromkeys(kept).keys()


def _fits(value: str) -> bool:
    """As the init container's script has it."""
    return "'" not in value and "\r\n" not in value and len(value.encode()) <= script.LONGEST_VALUE


def _wrap(place: Place, loader: str, shell: str) -> Operations:
    text = script.literal(script.WRAPPER.format(file=f"{MOUNT_PATH}/{loader}{script.ENV_FILE}"))
    prefix = (shell, "--posix", "-c", text, NAME)
    there = place.container.command
    if there[: len(prefix)] == prefix:
        return ()
    # Wrapped before, by another policy.
    original = there[len(prefix) :] if there[4:5] == (NAME,) and MOUNT_PATH in there[3] else there
    return (replace(f"{place.path}/command", (*prefix, *original)),)


def warnings(container: Container, delivery: Delivery, wish: Wish) -> Iterable[str]:
    """What the container's author would otherwise find out by surprise."""
    if delivery == "shell":
        why = "" if container.command else ": it sets no command that could be wrapped"
        yield f"{MODULES}: in container {container.name!r} only bash scripts see the modules{why}"
    if delivery == "file":
        for name in _kept(container, wish):
            yield f"{MODULES}: {name[:40]} of container {container.name!r} stays as it is: its value cannot be filed"
