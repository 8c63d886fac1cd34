"""Binding a pod to a node together with its devices; read `Binder` first."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
from aiohttp import ClientConnectorError

from schedext.bind_outcome import (
    AGAIN,
    ANEW,
    BOUND,
    GONE,
    Chosen,
    End,
    Sight,
    Word,
    after_refusal,
    after_silence,
    annotations,
    bound_elsewhere,
)
from schedext.demand import Demand
from schedext.lease import Lease
from schedext.node import Node
from schedext.placement import Refusal
from schedext.pod import Pod
from schedext.tracked import Demands, Reservation, TrackedPod
from tasuki.kube.client import Kube
from tasuki.kube.errors import ConflictError, ForbiddenError, InvalidError, KubeError, NotFoundError
from tasuki.kube.placement import Slices

log: Final = logging.getLogger(__name__)

_POD: Final = "/api/v1/namespaces/{}/pods/{}"
_TOO_MANY_REQUESTS: Final = 429
# Of the pods bound last it is remembered where, so that a repeated question costs no call.
_MOST_REMEMBERED: Final = 10_000


class World(Protocol):
    """What binding needs of `schedext.world.World`."""

    @property
    def nodes(self) -> Mapping[str, Node]: ...

    def pod(self, uid: str) -> TrackedPod | None: ...

    def reservation(self, uid: str) -> Reservation | None: ...

    def reserve(
        self, pod: TrackedPod, node: str, slices: Slices, visible: tuple[str, ...], lasts_seconds: float
    ) -> None: ...

    def release(self, uid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Choosing:
    """How devices are chosen: all of it without waiting.

    Attributes:
        ready: Why nothing can be chosen at the moment; empty if it can.
        choose: What the pod gets if it goes to the node now.
    """

    world: World
    ready: Callable[[], str]
    choose: Callable[[TrackedPod, Node], Chosen | Refusal]


@dataclass(frozen=True, slots=True)
class BindTimes:
    """How long things may take; the first three together must be less than the scheduler's httpTimeout.

    Attributes:
        prepare_seconds: For the lease, and for looking at a pod that no watch has brought yet.
        post_seconds: For the binding itself; see `LeaseTimes`.
        look_seconds: For finding out what became of it.
        reserve_seconds: What was reserved stays so at most if nobody knows what became of the binding: as long as the
            API server works on a request of which the client has heard no more (kube-apiserver, --request-timeout, a
            minute).
        seen_seconds: How long it stays so if the pod is certainly bound and no watch shows it: longer than a broken
            watch can go unnoticed (`WatchTimes`).
    """

    prepare_seconds: float = 3.0
    post_seconds: float = 3.5
    look_seconds: float = 1.5
    reserve_seconds: float = 60.0
    seen_seconds: float = 600.0


DEFAULT_BIND_TIMES: Final = BindTimes()


class Binder:
    """Chooses devices and binds; each pod in a task of its own, which goes on to its end if whoever asked has left.

    The world's reservation of a pod is what keeps its devices from others: from the choice until the watch of pods
    shows it bound, until it is certain that it was not bound, or until it expires.
    """

    def __init__(
        self,
        kube: Kube,
        choosing: Choosing,
        lease: Lease,
        outcome: Callable[[Word], None],
        times: BindTimes = DEFAULT_BIND_TIMES,
    ) -> None:
        """Prepare; binds are refused before `run`.

        Args:
            kube: The connection.
            choosing: How devices are chosen.
            lease: Without it, another replica may be choosing the same devices.
            outcome: Told what became of each attempt.
            times: How long things may take.
        """
        self._kube: Final = kube
        self._choosing: Final = choosing
        self._world: Final = choosing.world
        self._lease: Final = lease
        self._outcome: Final = outcome
        self._times: Final = times
        self._demands: Final = Demands()
        self._attempts: Final[dict[str, _Attempt]] = {}
        # The node by the pod's uid; a pod never leaves its node.
        self._bound: Final[dict[str, str]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopped: Final = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._attempts)

    async def run(self) -> None:
        """Own the attempts, until `drain` was called and the last of them has ended."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._stopped.wait()
            finally:
                self._group = None

    async def drain(self) -> None:
        """Refuse whatever comes from now on, and wait for what is in flight; its time is bounded."""
        self._stopped.set()
        self._group = None
        if self._attempts:
            await asyncio.wait([attempt.task for attempt in self._attempts.values()])

    async def bind(self, namespace: str, name: str, uid: str, node: str) -> str:
        """Bind a pod and say why that failed; empty if it is bound. Asking again is always safe."""
        running = self._attempts.get(uid)
        if running is None:
            if self._group is None:
                return "the extender is starting or stopping"
            asked = _Asked(namespace, name, uid, node)
            running = _Attempt(node, self._group.create_task(self._run(asked), name=f"bind {namespace}/{name}"))
            self._attempts[uid] = running
            running.task.add_done_callback(lambda _: self._attempts.pop(uid))
        elif running.node != node:
            return f"the pod is being bound to {running.node} at the moment"
        return await asyncio.shield(running.task)

    async def _run(self, asked: "_Asked") -> str:
        try:
            end = await self._attempt(asked)
        except Exception:
            # The outermost place of this task; what was reserved expires.
            log.exception("a bind broke pod=%s/%s node=%s", asked.namespace, asked.name, asked.node)
            end = End("failed", "the extender made a mistake; its log has more")
        if end.word in {"bound", "again"}:
            self._remember(asked)
        elif end.word != "refused":
            log.warning("not bound pod=%s/%s node=%s error=%s", asked.namespace, asked.name, asked.node, end.error)
        self._outcome(end.word)
        return end.error

    async def _attempt(self, asked: "_Asked") -> End:
        if self._bound.get(asked.uid) == asked.node:
            return AGAIN
        try:
            async with asyncio.timeout(self._times.prepare_seconds):
                fetched = None if self._world.pod(asked.uid) else await self._fetch(asked)
                if isinstance(fetched, End):
                    return fetched
                lacking = self._choosing.ready() or await self._lease.held()
        except TimeoutError:
            return End("failed", "the API server does not answer in time")
        # From here until the binding is sent nothing awaits: that the one event loop does nothing else meanwhile is
        # the critical section in which a node's devices are chosen and reserved.
        pod = self._world.pod(asked.uid) or fetched
        if pod is None:
            return GONE
        if pod.node:
            return AGAIN if pod.node == asked.node else bound_elsewhere(pod.node)
        if lacking or (lacking := self._choosing.ready() or pod.problem):
            return End("failed", lacking)
        reserved = self._reserve(pod, asked)
        if isinstance(reserved, End):
            return reserved
        return await self._post(asked, reserved)

    def _reserve(self, pod: TrackedPod, asked: "_Asked") -> "_Reserved | End":
        """The same as the attempt before if nobody knows what became of that: it may still be on its way."""
        node = self._world.nodes.get(asked.node)
        held = self._world.reservation(asked.uid)
        chosen: Chosen | Refusal
        if held is not None:
            if held.node != asked.node:
                return End("failed", f"the pod may still become bound to {held.node}, by a request without an answer")
            chosen = held
        elif node is None:
            return End("failed", f"the extender has not seen the node {asked.node} yet")
        else:
            chosen = self._choosing.choose(pod, node)
        if isinstance(chosen, Refusal):
            return End("refused", chosen.reason)
        if chosen.slices or chosen.visible:
            self._world.reserve(pod, asked.node, chosen.slices, chosen.visible, self._times.reserve_seconds)
        order = node.device_ids if node is not None else ()
        return _Reserved(annotations(chosen, order), is_first=held is None)

    async def _post(self, asked: "_Asked", reserved: "_Reserved") -> End:
        metadata: dict[str, object] = {"name": asked.name, "namespace": asked.namespace, "uid": asked.uid}
        if reserved.annotations:
            metadata["annotations"] = reserved.annotations
        target = {"apiVersion": "v1", "kind": "Node", "name": asked.node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        try:
            async with asyncio.timeout(self._times.post_seconds):
                await self._kube.call("POST", f"{asked.path}/binding", _Done, body)
        except (NotFoundError, ConflictError) as error:
            return self._settle(asked, after_refusal(await self._look(asked), asked.node, str(error)), reserved)
        except (ForbiddenError, InvalidError) as error:
            return self._settle(asked, End("failed", _text(error)), reserved)
        except TimeoutError:
            error_text = f"no answer within {self._times.post_seconds:g} seconds"
        except KubeError as error:
            # The server says this instead of looking at the request, or there was nobody to send it to.
            if error.status == _TOO_MANY_REQUESTS or isinstance(error.__cause__, ClientConnectorError):
                return self._settle(asked, End("failed", str(error)), reserved)
            error_text = str(error)
        else:
            return self._settle(asked, BOUND, reserved)
        return self._settle(asked, after_silence(await self._look(asked), asked.node, error_text), reserved)

    def _settle(self, asked: "_Asked", end: End, reserved: "_Reserved") -> End:
        """Release what is certainly not going to be used, and keep what certainly is."""
        # That this request failed says nothing about one before it, whose answer never came.
        if end.is_over or (reserved.is_first and end.word in {"conflict", "failed"}):
            self._world.release(asked.uid)
        elif end.word == "bound" and (held := self._world.reservation(asked.uid)) is not None:
            self._world.reserve(held.pod, held.node, held.slices, held.visible, self._times.seen_seconds)
        elif end.word == "unknown":
            # Nobody else may choose before it is certain that what we sent does not take effect any more.
            self._lease.keep(self._times.reserve_seconds)
        return end

    async def _fetch(self, asked: "_Asked") -> TrackedPod | End:
        """A pod that no watch has brought yet."""
        try:
            found = await self._kube.call("GET", asked.path, Pod)
        except NotFoundError:
            return GONE
        except KubeError as error:
            return End("failed", _text(error))
        if found.metadata.uid != asked.uid:
            return ANEW
        # Of a pod that no device concerns nothing is tracked; it is bound without any.
        return self._demands.tracked(found) or TrackedPod(
            asked.uid, asked.namespace, asked.name, found.spec.node_name, Demand()
        )

    async def _look(self, asked: "_Asked") -> Sight:
        try:
            async with asyncio.timeout(self._times.look_seconds):
                found = await self._kube.call("GET", asked.path, Pod)
        except NotFoundError:
            return Sight("gone")
        except (KubeError, TimeoutError):
            return Sight("unseen")
        if found.metadata.uid != asked.uid:
            return Sight("anew")
        return Sight("there", found.spec.node_name)

    def _remember(self, asked: "_Asked") -> None:
        self._bound[asked.uid] = asked.node
        if len(self._bound) > _MOST_REMEMBERED:
            del self._bound[next(iter(self._bound))]


def _text(error: KubeError) -> str:
    if isinstance(error, ForbiddenError) and error.status == 403:
        return f"{error}; grant our service account the verb create on pods/binding, and get on pods"
    return str(error)


@dataclass(frozen=True, slots=True)
class _Asked:
    namespace: str
    name: str
    uid: str
    node: str

    @property
    def path(self) -> str:
        return _POD.format(quote(self.namespace), quote(self.name))


class _Attempt(NamedTuple):
    node: str
    task: "asyncio.Task[str]"


class _Reserved(NamedTuple):
    """`is_first`: no request of ours for this pod was sent before, of which nobody knows what became."""

    annotations: dict[str, str]
    is_first: bool


class _Done(msgspec.Struct, frozen=True):
    """An answer of which nothing matters."""
