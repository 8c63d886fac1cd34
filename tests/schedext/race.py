"""Many pods that race for few devices, while the API server fails and extenders stop, crash and take over."""

import asyncio
import random
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from aiohttp import web

from schedext.binding import Binder, BindTimes, Choosing
from schedext.costs import DEFAULT_COSTS
from schedext.deciding import Decider
from schedext.lease import HeldLease, LeaseTimes
from schedext.watches import Watches
from schedext.world import World
from tasuki.kube.client import Kube
from tasuki.kube.names import BOUND_SLICES, GPU_MEMORY, PACK, SPREAD
from tasuki.kube.placement import read_slices
from tasuki.kube.watching import WatchTimes
from tests.schedext.api_server import LEASES, Fault, SchedulingApiServer, connected
from tests.schedext.binders import status_of_gpus
from tests.schedext.pods import GPU, Json, a_container, pod_json
from tests.tasuki.kube.api_server import ACCELERATOR_NODES, NODES, PODS

BIND_TIMES = BindTimes(prepare_seconds=1.0, post_seconds=0.1, look_seconds=0.1, reserve_seconds=0.8, seen_seconds=10.0)
# A lease lasts whole seconds. What is late comes before another one may have taken over and chosen.
LEASE_TIMES = LeaseTimes(
    lease_seconds=1.0,
    ours_seconds=0.6,
    renew_seconds=0.2,
    idle_seconds=0.5,
    settle_seconds=0.4,
    wait_seconds=0.9,
    retry_seconds=0.1,
)
LATE_SECONDS = 0.3
# How many pods are made before the first is bound; each that is bound is followed by a new one.
AHEAD = 100
# What pods ask for: slices of how many, and how they must sit.
WANTS: tuple[tuple[int, dict[str, str]], ...] = (
    (1, {}),
    (1, {}),
    (2, {}),
    (2, {SPREAD: "devices"}),
    (2, {PACK: "device"}),
    (1, {GPU_MEMORY: "15Gi"}),
)
WATCH_TIMES = WatchTimes(first_pause_seconds=0.01, most_pause_seconds=0.05)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How large the race is.

    Attributes:
        slices_per_gpu: How many pods may share one.
        schedulers: How many bind at the same time.
        fault_part: Of the requests about pods and leases.
        upheavals: How often the extender that is asked crashes, stops or changes.
        duplicate_part: Of the binds: asked twice at once.
        leaving_part: Of the binds: who asked does not wait for the answer.
        anew_part: Of the attempts: the pod is deleted and made anew under its name before it.
        fullness: The part of all slices above which pods end.
        ending_part: Of the attempts: some pod ends after it.
    """

    pods: int = 300
    nodes: int = 4
    gpus: int = 3
    slices_per_gpu: int = 2
    schedulers: int = 24
    fault_part: float = 0.15
    upheavals: int = 4
    duplicate_part: float = 0.2
    leaving_part: float = 0.1
    anew_part: float = 0.03
    fullness: float = 0.5
    ending_part: float = 0.03
    seed: int = 1
    longest_seconds: float = 60.0


@dataclass
class Result:
    """What became of it.

    Attributes:
        bound: How many pods were bound in all.
        words: What became of the attempts.
        answers: What schedulers were told, how often.
        overbooked: Every moment at which more slices of a device were promised than there are.
        bound_twice: Uids.
        wrong: Pods that were bound with other devices than their node has, with too few, or not as they must sit.
        reserved: Reservations that were left at the end.
    """

    bound: int = 0
    words: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    overbooked: list[str] = field(default_factory=list)
    bound_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)


class Extender:
    """One process: a world with its watches, a lease and a binder."""

    def __init__(self, kube: Kube, identity: str, words: Counter[str]) -> None:
        self.world = World(monotonic, lambda: datetime.now(UTC), lambda _: None)
        self.broken: dict[str, str] = {}
        self.watches = Watches(kube, self.world, self.broken.__setitem__, random.uniform, WATCH_TIMES)
        self.lease = HeldLease(kube, identity, monotonic, lambda: datetime.now(UTC), LEASE_TIMES)
        decider = Decider(self.world, DEFAULT_COSTS, lambda: datetime.now(UTC))
        choosing = Choosing(self.world, self.ready, decider.choose)
        self.binder = Binder(kube, choosing, self.lease, lambda word: words.update([word]), BIND_TIMES)
        work = (self.watches.run(), self.lease.run(self.watches.renew), self.binder.run(), self._tick())
        self.tasks = [asyncio.create_task(each) for each in work]

    def ready(self) -> str:
        broken = {reason for name, reason in self.broken.items() if name != "cachenodes"}
        return "" if self.watches.synced and self.watches.current and broken <= {""} else "not synced"

    async def crash(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def stop(self) -> None:
        await self.binder.drain()
        self.lease.stop()
        await self.tasks[1]
        await self.crash()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.world.tick()


async def race(folder: Path, settings: Settings) -> Result:
    """Bind all pods, each of which makes room again some time after it was bound."""
    api = SchedulingApiServer()
    await api.start()
    try:
        async with connected(api, folder) as kube, asyncio.timeout(settings.longest_seconds):
            return await _Race(api, kube, settings).run()
    finally:
        await api.stop()


class _Race:
    def __init__(self, api: SchedulingApiServer, kube: Kube, settings: Settings) -> None:
        self.api = api
        self.kube = kube
        self.settings = settings
        self.random = random.Random(settings.seed)
        self.result = Result()
        self.made = 0
        self.extenders: list[Extender] = []
        self.asked = 0
        self.waiting: deque[str] = deque()
        self.running: list[str] = []
        self.uids = 0

    async def run(self) -> Result:
        await self._prepare()
        self.api.chance = self._chance
        self.extenders = [self._extender(), self._extender()]
        trouble = asyncio.create_task(self._trouble())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.schedulers):
                    group.create_task(self._schedule())
            await trouble
            self.api.chance = lambda _: None
            await self._end()
        finally:
            trouble.cancel()
            await asyncio.gather(*(each.crash() for each in self.extenders), trouble, return_exceptions=True)
        self._judge()
        return self.result

    async def _prepare(self) -> None:
        settings = self.settings
        for number in range(settings.nodes):
            node = f"node-{number}"
            slices = settings.gpus * settings.slices_per_gpu
            await self.api.put(NODES, node, status={"allocatable": {GPU: str(slices)}})
            await self.api.put(ACCELERATOR_NODES, node, status=_status(node, settings))
        for number in range(settings.pods):
            self.waiting.append(f"pod-{number}")
        for name in list(self.waiting)[:AHEAD]:
            await self._make(name)

    async def _make(self, name: str) -> None:
        self.uids += 1
        gpus, annotations = self.random.choice(WANTS)
        pod = pod_json(a_container(gpus=gpus), name=name, namespace="n", annotations=annotations)
        pod["metadata"]["uid"] = f"{name}-{self.uids}"
        await self.api.put_pod("n", name, **pod)

    def _extender(self) -> Extender:
        self.made += 1
        return Extender(self.kube, f"extender-{self.made}", self.result.words)

    async def _schedule(self) -> None:
        while self.waiting:
            name = self.waiting.popleft()
            if len(self.waiting) >= AHEAD:
                await self._make(self.waiting[AHEAD - 1])
            while not self.api.node_of("n", name):
                if self.random.random() < self.settings.anew_part:
                    await self.api.remove_pod("n", name)
                    await self._make(name)
                uid = self.api.pod("n", name)["metadata"]["uid"]
                await self._ask(name, uid, f"node-{self.random.randrange(self.settings.nodes)}")
                if self.random.random() < self.settings.ending_part:
                    await self._make_room(1)
            self.running.append(name)
            slices = self.settings.nodes * self.settings.gpus * self.settings.slices_per_gpu
            await self._make_room(len(self.running) - int(slices * self.settings.fullness))

    async def _ask(self, name: str, uid: str, node: str) -> None:
        binder = self.extenders[self.asked].binder
        times = 2 if self.random.random() < self.settings.duplicate_part else 1
        asked = [asyncio.ensure_future(binder.bind("n", name, uid, node)) for _ in range(times)]
        leaves = self.random.random() < self.settings.leaving_part
        await asyncio.wait(asked, timeout=0.005 if leaves else 5.0)
        for each in asked:
            if not each.done():
                each.cancel()
            with suppress(asyncio.CancelledError):
                self.result.answers[await each] += 1
        if not self.api.node_of("n", name):
            await asyncio.sleep(self.random.uniform(0.0, 0.1))

    async def _make_room(self, pods: int) -> None:
        for _ in range(min(pods, len(self.running))):
            name = self.running.pop(self.random.randrange(len(self.running)))
            await self.api.remove_pod("n", name)

    async def _trouble(self) -> None:
        """At even distances of what is done, so that it comes at any speed."""
        settings = self.settings
        for number in range(settings.upheavals):
            before = settings.pods - settings.pods * (number + 1) // (settings.upheavals + 1)
            while len(self.waiting) > before:
                await asyncio.sleep(0.01)
            await (self._crash, self._stop, self._change, self._drop_watches)[number % 4]()

    async def _crash(self) -> None:
        await self.extenders[self.asked].crash()
        self.extenders[self.asked] = self._extender()

    async def _stop(self) -> None:
        old, new = self.extenders[self.asked], self._extender()
        self.extenders[self.asked] = new
        await old.stop()

    async def _change(self) -> None:
        self.asked = 1 - self.asked

    async def _drop_watches(self) -> None:
        for stream in self.api.watches(PODS):
            self.api.drop(stream)

    def _chance(self, request: web.Request) -> Fault | None:
        if self.random.random() >= self.settings.fault_part or "watch" in request.query:
            return None
        if request.path.endswith("/binding"):
            return self.random.choice([
                Fault(refused=500),
                Fault(refused=503, lost=True),
                Fault(refused=429),
                Fault(refused=403),
                Fault(answered=500),
                Fault(lost=True),
                Fault(silent_seconds=0.2),
                *(Fault(late_seconds=LATE_SECONDS) for _ in range(6)),
                Fault(late_seconds=0.05),
            ])  # fmt: skip
        if request.path.startswith("/api/v1/namespaces/"):
            return self.random.choice([Fault(refused=500), Fault(lost=True), Fault(silent_seconds=0.3)])
        if request.path.startswith(LEASES):
            return self.random.choice([Fault(refused=500), Fault(lost=True), Fault(answered=500)])
        return None

    async def _end(self) -> None:
        """Let everything that is on its way arrive, and every promise end."""
        for each in self.extenders:
            await each.binder.drain()
        await asyncio.sleep(LATE_SECONDS + BIND_TIMES.reserve_seconds + 0.2)
        # A pod that was bound and deleted before any watch showed it stays reserved for longer.
        deadline = monotonic() + BIND_TIMES.seen_seconds + 1.0
        while any(each.world.reservations for each in self.extenders) and monotonic() < deadline:
            await asyncio.sleep(0.05)

    def _judge(self) -> None:
        result, settings = self.result, self.settings
        bound = Counter(uid for uid, _ in self.api.bindings)
        result.bound = len(bound)
        result.bound_twice = [uid for uid, times in bound.items() if times > 1]
        result.reserved = [uid for each in self.extenders for uid in each.world.reservations]
        used: Counter[str] = Counter()
        held: dict[str, Counter[str]] = {}
        for _, path, change, pod in self.api._log:
            if path != PODS:
                continue
            name = pod["metadata"]["name"]
            used.subtract(held.pop(name, Counter()))
            if change == "DELETED" or not pod["spec"].get("nodeName"):
                continue
            held[name] = devices = _devices(pod)
            used.update(devices)
            wanted = int(pod["spec"]["containers"][0]["resources"]["requests"][GPU])
            on_node = all(device.startswith(f"{pod['spec']['nodeName']}-gpu-") for device in devices)
            notes = pod["metadata"]["annotations"]
            sits = not (SPREAD in notes and len(devices) < wanted) and not (PACK in notes and len(devices) > 1)
            if devices.total() != wanted or not on_node or not sits:
                result.wrong.append(f"{name}: {dict(devices)}")
            result.overbooked += [
                f"{device}: {used[device]} after {pod['metadata']['uid']}"
                for device in devices
                if used[device] > settings.slices_per_gpu
            ]


def _devices(pod: Json) -> Counter[str]:
    found: Counter[str] = Counter()
    for resources in read_slices(pod["metadata"]["annotations"][BOUND_SLICES]).values():
        for devices in resources.values():
            found.update(devices)
    return found


def _status(node: str, settings: Settings) -> Json:
    found = status_of_gpus(node, settings.gpus, settings.slices_per_gpu)
    return {
        "devices": [{"id": each.id, "kind": each.kind, "memoryBytes": each.memory_bytes} for each in found.devices],
        "resources": [
            {"name": each.name, "devices": [{"device": d.device, "replicas": d.replicas} for d in each.devices]}
            for each in found.resources
        ],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
