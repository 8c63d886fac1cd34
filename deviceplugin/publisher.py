"""Publishing what the daemon knows of its node; start reading at `Publisher`."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from deviceplugin.node_status import Holder, Holders, NodeFacts
from deviceplugin.pod_resources import PodResources, PodResourcesError
from deviceplugin.targets import Known, LabelFile, NodeLabels, NodeObject, Target, now_utc
from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import KubeConfigError, KubeError
from tasuki.kube.events import EventRecorder, Occurrence
from tasuki.kube.names import NVIDIA_CONFIG_LABEL
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes, follow_node

if TYPE_CHECKING:
    from tasuki.kube.objects import Node

log: Final = logging.getLogger(__name__)

Uniform = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class PublisherTimes:
    """How often the outside world is bothered.

    Attributes:
        between_writes_seconds: Pause after writing, up to a half more or less at random, so that thousands of
            nodes do not write as one.
        resync_seconds: After which the AcceleratorNode is looked at again, in case somebody changed it.
        poll_seconds: Between two questions to the kubelet.
        after_allocation_seconds: From an allocation to the question who holds it.
        first_pause_seconds: Before the first attempt after a failure; it doubles with each further one.
        most_pause_seconds: Before any attempt.
        between_events_seconds: Pause after sending an event.
    """

    between_writes_seconds: float = 5.0
    resync_seconds: float = 600.0
    poll_seconds: float = 10.0
    after_allocation_seconds: float = 1.0
    first_pause_seconds: float = 1.0
    most_pause_seconds: float = 120.0
    between_events_seconds: float = 1.0
    watch: WatchTimes = DEFAULT_WATCH_TIMES


DEFAULT_TIMES: Final = PublisherTimes()


class HolderListener(Protocol):
    """Whoever must know which slices are held; called in the event loop, with the monotonic time of the question."""

    def holders_seen(self, holders: Collection[Holder], at: float) -> None: ...

    def holders_unavailable(self, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeEdges:
    """What the publisher stands between.

    Attributes:
        kube: None without an API server: then only feature discovery's output file is written.
        node_name: Our node's.
        pod_resources: The kubelet.
        config_label: Told the value of the node label that chooses a configuration: first as it is, then at
            each change; None where there is no label. Never called without an API server.
        sysfs: Where the kernel tells of PCI devices.
    """

    kube: Kube | None
    node_name: str
    pod_resources: PodResources
    config_label: Callable[[str | None], Awaitable[None]]
    sysfs: Path = Path("/sys")


@dataclass(frozen=True, slots=True)
class PublisherState:
    """How publishing goes, for /readyz and the metrics.

    Attributes:
        problem: Why the newest facts are not published; empty if they are.
        writes: Times that something outside was changed, since the start.
        failures: Attempts that failed, since the start.
        dropped_events: Events that could not be sent, since the start.
    """

    problem: str
    writes: int
    failures: int
    dropped_events: int


class Publisher:
    """Writes labels, the AcceleratorNode and events: always the newest state, never a queue of old ones.

    `update`, `allocated` and `record` never wait, so that nothing here can hold up the devices.
    """

    def __init__(self, edges: NodeEdges, uniform: Uniform, times: PublisherTimes = DEFAULT_TIMES) -> None:
        if edges.kube is not None and not edges.node_name:
            raise KubeConfigError("with an API server the node's name is needed: set --node-name or NODE_NAME")
        self._listeners: Final[list[HolderListener]] = []
        self._edges: Final = edges
        self._times: Final = times
        self._uniform: Final = uniform
        self._file: Final = LabelFile(edges.sysfs)
        targets: list[Target] = [self._file]
        self._events: EventRecorder | None = None
        if edges.kube is not None:
            targets.append(NodeLabels(edges.kube, edges.node_name, edges.sysfs))
            targets.append(NodeObject(edges.kube, edges.node_name, times.resync_seconds, now_utc))
            self._events = EventRecorder(edges.kube, edges.node_name, uniform, times.between_events_seconds)
        self._keepers: Final = [_Keeper(target, self._known, times, uniform) for target in targets]
        self._facts: NodeFacts | None = None
        self._labelled_at = now_utc()
        self._holders: Holders | None = None
        self._node: Node | None = None
        self._allocated: Final = asyncio.Event()

    @property
    def state(self) -> PublisherState:
        return PublisherState(
            problem="; ".join(keeper.problem for keeper in self._keepers if keeper.problem),
            writes=sum(keeper.writes for keeper in self._keepers),
            failures=sum(keeper.failures for keeper in self._keepers),
            dropped_events=self._events.dropped if self._events else 0,
        )

    def update(self, facts: NodeFacts) -> None:
        """Publish these facts, and no longer the ones before. To be called once the machine was scanned."""
        if self._facts is None or facts.config != self._facts.config:
            self._labelled_at = now_utc()
        self._facts = facts
        self._wake()

    def listen(self, listener: HolderListener) -> None:
        """Tell somebody what the kubelet says of who holds what; to be called before `run`."""
        self._listeners.append(listener)

    def allocated(self) -> None:
        """The kubelet was handed slices: find out soon for whom."""
        self._allocated.set()

    def record(self, occurrence: Occurrence) -> None:
        """Send an event on our node; nothing happens without an API server."""
        if self._events is not None:
            self._events.record(occurrence)

    async def run(self) -> None:
        """Publish until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for keeper in self._keepers:
                    tasks.create_task(keeper.run())
                if self._edges.kube is not None and self._events is not None:
                    tasks.create_task(self._follow_node(self._edges.kube))
                    tasks.create_task(self._events.run())
                if self._edges.kube is not None or self._listeners:
                    tasks.create_task(self._follow_holders())
        finally:
            self._file.remove()

    def _known(self) -> Known | None:
        if self._facts is None:
            return None
        return Known(self._facts, self._labelled_at, self._holders, self._node)

    def _wake(self) -> None:
        for keeper in self._keepers:
            keeper.changed.set()

    async def _follow_holders(self) -> None:
        while True:
            asked_at = time.monotonic()
            try:
                holders = Holders(await self._edges.pod_resources.holders())
                for listener in self._listeners:
                    listener.holders_seen(holders.found, asked_at)
            except PodResourcesError as error:
                holders = Holders(self._holders.found if self._holders else (), str(error))
                for listener in self._listeners:
                    listener.holders_unavailable(asked_at)
            if holders != self._holders:
                self._holders = holders
                self._wake()
            try:
                async with asyncio.timeout(self._times.poll_seconds * self._uniform(0.9, 1.1)):
                    await self._allocated.wait()
            except TimeoutError:
                continue
            self._allocated.clear()
            await asyncio.sleep(self._times.after_allocation_seconds)

    async def _follow_node(self, kube: Kube) -> None:
        told: tuple[str | None] | None = None
        async with aclosing(follow_node(kube, self._edges.node_name, self._uniform, self._times.watch)) as nodes:
            async for node in nodes:
                self._node = node  # no reason to write: compared the next time that labels are looked at
                chosen = node.metadata.labels.get(NVIDIA_CONFIG_LABEL) if node else None
                if told != (chosen,):
                    told = (chosen,)
                    await self._edges.config_label(chosen)


class _Keeper:
    """Keeps one target in agreement with what is known.

    Attributes:
        changed: Set it when something changed.
        problem: Why it does not agree at present; empty if it does.
    """

    def __init__(
        self, target: Target, known: Callable[[], Known | None], times: PublisherTimes, uniform: Uniform
    ) -> None:
        self._target: Final = target
        self._known: Final = known
        self._times: Final = times
        self._uniform: Final = uniform
        self.changed: Final = asyncio.Event()
        self.problem = ""
        self.writes = 0
        self.failures = 0

    async def run(self) -> None:
        backoff = Backoff(self._times.first_pause_seconds, self._times.most_pause_seconds, self._uniform)
        while True:
            await self._wait()
            self.changed.clear()
            known = self._known()
            if known is None:
                continue
            try:
                writes = await self._target.publish(known)
            except (KubeError, OSError) as error:
                self.problem = str(error)
                self.failures += 1
                log.warning("the node's facts are not published, it is tried again error=%s", error)
                asked_seconds = error.retry_after_seconds if isinstance(error, KubeError) else 0.0
                self.changed.set()
                await asyncio.sleep(max(backoff.next_seconds(), asked_seconds))
                continue
            self.problem = ""
            self.writes += writes
            backoff.reset()
            if writes:
                await asyncio.sleep(self._times.between_writes_seconds * self._uniform(0.5, 1.5))

    async def _wait(self) -> None:
        """Until something changed, or it is time to look at the target again."""
        known = self._known()
        seconds = self._target.recheck_seconds(known) * self._uniform(0.9, 1.1) if known else float("inf")
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await self.changed.wait()
        except TimeoutError:
            self._target.forget()
