"""What one scan finds of vAccel: the configured agents, and which of them answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import dirname
from typing import Final

from deviceplugin.config.model import VaccelAgent
from tasuki.devices.model import Device, DeviceKind, Health
from tasuki.kube.names import VACCEL_DOMAIN

SESSION: Final = f"{VACCEL_DOMAIN}/session"
PLUGIN_LABEL_PREFIX: Final = f"{VACCEL_DOMAIN}/plugin."
VERSION_LABEL: Final = f"{VACCEL_DOMAIN}/agent-version"

# Folders that hold more than one program's files. A container that is given one of them whole could connect to what
# else listens there, such as the container runtime's socket.
_SHARED: Final = frozenset(
    {"/run/containerd", "/run/crio", "/run/docker", "/run/lock", "/run/user", "/run/systemd", "/usr/lib", "/usr/local"}
    | {f"/var/{name}" for name in ("cache", "lib", "log", "opt", "run", "spool", "tmp")}
    | {"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet"}
)
_SYSTEMS: Final = ("/boot/", "/dev/", "/etc/", "/proc/", "/sys/")


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """A configured agent, as a scan found it.

    Attributes:
        position: In the configuration, from 0.
        answered: Whether it has ever answered since this daemon asks.
    """

    agent: VaccelAgent
    position: int
    health: Health
    answered: bool

    @property
    def device(self) -> Device:
        return Device(
            id=f"vaccel-{self.agent.name}",
            kind=DeviceKind.VACCEL,
            index=str(self.position),
            model=f"vAccel agent {self.agent.version}".rstrip(),
            memory_bytes=0,
            health=self.health,
        )


@dataclass(frozen=True, slots=True)
class Agents:
    """All agents of a node at one moment, in the order of the configuration."""

    agents: tuple[FoundAgent, ...] = ()


def labels(agents: Sequence[FoundAgent]) -> dict[str, str]:
    """The node's labels: what every session of the node has, whichever agent it is of.

    Plugins and version are those that the configuration declares, since an agent tells neither. An agent that has never
    answered has no sessions to hand out, and so no say; one that is away for a moment keeps its say.
    """
    known = [found.agent for found in agents if found.answered]
    if not known:
        return {}
    everywhere = set(known[0].plugins).intersection(*(agent.plugins for agent in known))
    described = {f"{PLUGIN_LABEL_PREFIX}{plugin}": "true" for plugin in sorted(everywhere)}
    versions = {agent.version for agent in known}
    version = versions.pop()
    if version and not versions:
        described[VERSION_LABEL] = version
    return described


def is_shared_folder(folder: str) -> bool:
    """Whether a folder of the host surely holds other things than one agent's socket."""
    if folder.count("/") < 2 or folder.startswith(_SYSTEMS):
        return True
    # /var/run is a link to /run on every current distribution.
    real = folder.removeprefix("/var") if folder.startswith("/var/run/") else folder
    return real in _SHARED or real.count("/") < 2


def misfits(agents: Sequence[VaccelAgent]) -> tuple[str, ...]:
    """Agents whose sockets containers must not be given."""
    return tuple(
        f"tasuki.vaccel.agents: {agent.name}: containers would be given all of {folder}, where other programs have "
        "their files too; let the agent listen in a folder of its own, such as /run/vaccel"
        for agent in agents
        if agent.transport == "unix" and is_shared_folder(folder := dirname(agent.socket))
    )
