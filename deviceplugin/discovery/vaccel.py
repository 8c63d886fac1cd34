"""Whether a vAccel agent answers: a call over its own socket that changes nothing.

`vaccel-rpc-agent` serves `AgentService` by ttrpc, in a package for each of its two builds, sync and async
(nubificus/vaccel-rust, vaccel-rpc-proto/protos). GetProfiler looks a session's timings up in a map and answers with an
empty message if there are none, so asked for a session that cannot exist it is the cheapest proof of a working agent
(vaccel-rpc-agent/src/agent_service.rs). An agent without that method is older than 0.5.0 or no vAccel agent.
"""

import errno
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deviceplugin.config.model import VaccelAgent, VaccelTransport
from deviceplugin.discovery import ttrpc

# For all of a probe: finding the address, connecting, asking twice. A local agent needs a millisecond.
PROBE_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.05

SERVICES: Final = ("vaccel.sync.agent.AgentService", "vaccel.asynchronous.agent.AgentService")
METHOD: Final = "GetProfiler"
# Sessions are numbered upwards from 1; this one is the last that an int64 can name.
_NO_SESSION: Final = ttrpc.field_of(1, 2**63 - 1)


class _SilentError(Exception):
    """The agent's end of the connection does not do its part; the text says what it does."""


def finding(agent: VaccelAgent, timeout_seconds: float = PROBE_SECONDS) -> str:
    """Why an agent cannot be used, in one line; empty if it answers."""
    deadline = time.monotonic() + timeout_seconds
    try:
        with _connected(agent, deadline) as connection:
            reason = _asked(connection, deadline)
    except TimeoutError:
        reason = "it takes connections, but does not answer"
    except OSError as error:
        reason = reason_of(agent.transport, error)
    except (_SilentError, ttrpc.TtrpcError) as error:
        reason = str(error)
    return f"{agent.address}: {reason}" if reason else ""


def _connected(agent: VaccelAgent, deadline: float) -> socket.socket:
    family, address = _endpoint(agent)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        _connect(connection, address, deadline)
    except TimeoutError:
        connection.close()
        raise _SilentError("nothing answers there") from None
    except OSError:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, address: Any, deadline: float) -> None:
    while True:
        connection.settimeout(_left(deadline))
        try:
            return connection.connect(address)
        except BlockingIOError:
            # A unix socket whose queue of connections is full says so at once, without waiting (connect(2)).
            if _left(deadline) < _RETRY_SECONDS * 2:
                raise
            time.sleep(_RETRY_SECONDS)


def _endpoint(agent: VaccelAgent) -> tuple[int, Any]:
    if agent.transport is VaccelTransport.UNIX:
        return socket.AF_UNIX, agent.socket
    if agent.transport is VaccelTransport.VSOCK:
        return socket.AF_VSOCK, (int(agent.host), agent.port)
    # The first address only, as vAccel's client does: where that one is dead, so is the agent to its clients.
    family, _, _, _, address = socket.getaddrinfo(agent.host, agent.port, type=socket.SOCK_STREAM)[0]
    return family, address


def _asked(connection: socket.socket, deadline: float) -> str:
    """Call the one method, of the one build or the other."""
    answer = ttrpc.Status()
    for stream, service in zip((1, 3), SERVICES, strict=True):
        connection.settimeout(_left(deadline))
        connection.sendall(ttrpc.request(stream, service, METHOD, _NO_SESSION, PROBE_SECONDS))
        length = ttrpc.response_bytes(_received(connection, ttrpc.HEADER_BYTES, deadline), stream)
        answer = ttrpc.status(_received(connection, length, deadline))
        if not _is_missing(answer):
            # Whatever the method itself answered: it is there, and works on requests.
            return ""
    return (
        f"it speaks ttrpc, but is no vAccel agent, or one older than 0.5.0 (vAccel 0.8): asked for {METHOD}, "
        f"it says {answer.message!r}"
    )


def _is_missing(answer: ttrpc.Status) -> bool:
    """Whether there is no such service or method: ttrpc-rust's two servers say so in different ways."""
    if answer.code == ttrpc.INVALID_ARGUMENT:
        return answer.message.endswith("does not exist")
    return answer.code == ttrpc.UNIMPLEMENTED


def _received(connection: socket.socket, count: int, deadline: float) -> bytes:
    received = b""
    while len(received) < count:
        connection.settimeout(_left(deadline))
        part = connection.recv(count - len(received))
        if not part:
            raise _SilentError("it closes connections without an answer")
        received += part
    return received


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def reason_of(transport: VaccelTransport, error: OSError) -> str:
    """What the operator is told of an error of the connection."""
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    known = _REASONS.get((transport, error.errno or 0)) or _REASONS.get((None, error.errno or 0))
    return known or f"it cannot be reached: {error.strerror or error}"


_REASONS: Final[Mapping[tuple[VaccelTransport | None, int], str]] = {
    (None, errno.ECONNREFUSED): "nothing listens there",
    (None, errno.ECONNRESET): "it closes connections without an answer",
    (None, errno.EPIPE): "it closes connections without an answer",
    (VaccelTransport.UNIX, errno.ENOENT): "there is no such socket; is the agent running, and its folder mounted here?",
    # ttrpc never removes its socket, so that one stays behind.
    (VaccelTransport.UNIX, errno.ECONNREFUSED): "the socket is there, but no agent listens at it (any more)",
    (VaccelTransport.UNIX, errno.EAGAIN): "it takes no connections at present: its queue of them is full",
    (VaccelTransport.UNIX, errno.EACCES): "the socket's or its folder's mode keeps this daemon out",
    (VaccelTransport.VSOCK, errno.EAFNOSUPPORT): "the kernel has no vsock; load the module vsock",
    (VaccelTransport.VSOCK, errno.EPERM): (
        "vsock is forbidden to this container by its seccomp profile (RuntimeDefault has no vsock)"
    ),
    (VaccelTransport.VSOCK, errno.ENODEV): (
        "the kernel has no way to that context id; where the agent is on this machine, load the module vsock_loopback"
    ),
}


@dataclass(slots=True)
class _Probe:
    reason: str = "the probe ended with an internal error, which the log tells"
    done: bool = False


class Prober:
    """Probes agents at the same time, each in a thread of its own that ends by itself.

    A name server that does not answer can hold a thread for longer than any timeout of ours. So no one waits for a
    thread beyond the timeout, and while one of an agent's is still busy, there is no second for the same agent.
    """

    def __init__(self, timeout_seconds: float = PROBE_SECONDS) -> None:
        self._timeout: Final = timeout_seconds
        self._changed: Final = threading.Condition()
        self._running: dict[str, _Probe] = {}
        self._closed = False

    def findings(self, agents: Iterable[VaccelAgent]) -> dict[str, str]:
        """What `finding` says of each agent, by address, within the timeout."""
        with self._changed:
            probes = {agent.address: self._running.get(agent.address) or self._started(agent) for agent in agents}
            self._changed.wait_for(
                lambda: self._closed or all(probe.done for probe in probes.values()),
                # Those that time out by themselves have the better reason.
                timeout=self._timeout * 1.25,
            )
            return {
                address: probe.reason if probe.done else f"{address}: no answer within {self._timeout:g} s"
                for address, probe in probes.items()
            }

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _started(self, agent: VaccelAgent) -> _Probe:
        probe = self._running[agent.address] = _Probe()
        # A daemon, because the process must not wait for a name server at its end.
        threading.Thread(target=self._probe, args=(agent, probe), name=f"probe {agent.name}", daemon=True).start()
        return probe

    def _probe(self, agent: VaccelAgent, probe: _Probe) -> None:
        try:
            probe.reason = finding(agent, self._timeout)
        finally:
            with self._changed:
                probe.done = True
                del self._running[agent.address]
                self._changed.notify_all()
