"""Which vAccel sessions a container gets, and what it needs to open them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname
from typing import Final

from deviceplugin.allocation.errors import AllocationError, UnknownSliceError
from deviceplugin.allocation.gpu import granted
from deviceplugin.config.model import AllocationPolicy, VaccelAgent, VaccelTransport
from deviceplugin.container import ContainerEdits, Mount
from deviceplugin.resources import Resource
from tasuki.devices.model import Slice, index_order
from tasuki.devices.preference import Policy, PreferenceError, check

# The plugin that forwards a client's calls to an agent; a file that the loader finds in the container's own image
# (vAccel 0.8, docs/plugins/available-plugins/transport-plugins/rpc-plugin.md).
_RPC_PLUGIN: Final = "libvaccel-rpc.so"


class SeveralAgentsError(AllocationError):
    """The sessions are of more than one agent."""


@dataclass(frozen=True, slots=True)
class Allocator:
    """Answers Allocate; made once for each scan and configuration, because every call has to be quick.

    Attributes:
        agents: By device id.
    """

    agents: Mapping[str, VaccelAgent]

    def grant(self, resource: Resource, index: Mapping[str, Slice], slice_ids: Sequence[str]) -> ContainerEdits:
        """Answer for one container.

        Raises:
            AllocationError: It cannot have what it asks for.
        """
        slices = granted(resource, slice_ids, index)
        if not slices:
            return ContainerEdits()
        devices = sorted({s.device.id for s in slices})
        if len(devices) > 1:
            raise SeveralAgentsError(
                f"the sessions are of {len(devices)} agents ({', '.join(devices)}), but a vAccel client talks to one; "
                "ask for no more sessions than one agent has free"
            )
        agent = self.agents.get(devices[0])
        if agent is None:
            raise UnknownSliceError(f"the agent of {devices[0]} is not configured (any more)")
        return edits(agent, len(slices))


def edits(agent: VaccelAgent, sessions: int) -> ContainerEdits:
    """What is changed in a container that holds sessions of an agent.

    A unix socket is given by its folder, since an agent that starts again makes a new socket. Read-only: one can
    connect to a socket there (unix(7) asks for write permission on the socket itself, and no file is changed), but
    neither remove it nor put another in its place.
    """
    mounts: tuple[Mount, ...] = ()
    if agent.transport is VaccelTransport.UNIX:
        folder = dirname(agent.socket)
        mounts = (Mount(folder, folder, read_only=True),)
    return ContainerEdits(
        envs={
            "TASUKI_VACCEL_AGENT": agent.name,
            "TASUKI_VACCEL_SESSIONS": str(sessions),
            "VACCEL_PLUGINS": _RPC_PLUGIN,
            "VACCEL_RPC_ADDRESS": agent.address,
        },
        mounts=mounts,
    )


def one_agent(shared: AllocationPolicy) -> Policy:
    """The policy that takes all sessions of a request from one agent.

    Of the agents with enough free sessions, `distributed` takes the one that is used least and `packed` the one that is
    used most; the first in the configuration breaks a tie.
    """
    sign = 1 if shared is AllocationPolicy.DISTRIBUTED else -1

    def choose(available: Sequence[Slice], required: Sequence[Slice], size: int) -> list[Slice]:
        check(available, required, size)
        held = {s.device.id for s in required}
        if len(held) > 1:
            raise PreferenceError(
                f"the sessions that must be included are of several agents ({', '.join(sorted(held))}), "
                "but a vAccel client talks to one"
            )
        free: dict[str, list[Slice]] = defaultdict(list)
        for candidate in available:
            free[candidate.device.id].append(candidate)
        wide = [sessions for agent, sessions in free.items() if len(sessions) >= size and held <= {agent}]
        if not wide:
            raise PreferenceError(_too_many(free, held, size))
        chosen = min(wide, key=lambda sessions: (sign * _used(sessions), index_order(sessions[0].device)))
        needed = {s.id for s in required}
        return sorted(chosen, key=lambda s: (s.id not in needed, s.replica))[:size]

    return choose


def _used(free: Sequence[Slice]) -> int:
    return free[0].replicas - len(free)


def _too_many(free: Mapping[str, Sequence[Slice]], held: set[str], size: int) -> str:
    agents = [(agent, sessions) for agent, sessions in free.items() if held <= {agent}]
    agents.sort(key=lambda item: index_order(item[1][0].device))
    counts = ", ".join(f"{agent} has {len(sessions)}" for agent, sessions in agents)
    return f"{size} sessions were asked for, and a container has all of one agent: {counts}"
