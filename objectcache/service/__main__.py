"""`tasuki cache`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import gc
import logging
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import uvloop

from objectcache.access.bucket_source import Buckets, BucketSources, Defined
from objectcache.access.buckets import rules
from objectcache.access.pod_watch import drop_ended, unfinished_pods
from objectcache.access.reviewing import Reviewer
from objectcache.access.static_tokens import StaticTokens
from objectcache.access.tokens import TokenReviewer
from objectcache.counters import Counters
from objectcache.link import (
    BucketRules,
    Forget,
    FromKeeper,
    FromWorker,
    Review,
    Reviewed,
    Rules,
    Setup,
    TookIndex,
    Writable,
)
from objectcache.service.keeping import Keeping, Outlets
from objectcache.service.metrics import Metrics, State
from objectcache.service.publishing import Holdings, Publisher, Site
from objectcache.service.scrubbing import Pace as ScrubPace
from objectcache.service.scrubbing import Scrubber
from objectcache.service.settings import Settings, read
from objectcache.service.state import state_of
from objectcache.service.worker_link import WorkerCommand, WorkerLink
from objectcache.service.workers import Hooks, Workers, listeners
from objectcache.storage.errors import StorageError
from objectcache.storage.files import DataFolder
from objectcache.storage.recovery import Recovered, boot_id, recover
from objectcache.store import Disk, Limits, Store
from tasuki import __version__
from tasuki.kube.cache_node import BucketResidency
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.process import logging as process_logging
from tasuki.process.http import OperatorServer
from tasuki.process.readiness import Readiness
from tasuki.process.running import Heartbeat, exit_status

log: Final = logging.getLogger("objectcache")

# What must be there before requests can be answered, as /readyz spells it.
STORE: Final = "store"
BUCKETS: Final = "buckets"
WORKERS: Final = "workers"
SERVING: Final = "serving"

# A disk that is away may come back.
_RETRY_SECONDS: Final = 5.0
# Requests in flight may take so long when the cache ends; a body of 64 MiB at 4 MiB a second takes 16.
_FINISH_SECONDS: Final = 20.0
_LEAVE_SECONDS: Final = 5.0


class StartError(Exception):
    """The settings do not make a service that could ever be ready."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own."""
    return run(read(argv, os.environ))


def run(settings: Settings) -> int:
    """As `main`, with settings that were read."""
    process_logging.configure(settings.log_level, settings.log_format)
    log.info("starting version=%s workers=%d", __version__, settings.worker_count)
    return exit_status(log, lambda stop: serve(settings, stop), (KubeConfigError, StartError), uvloop.new_event_loop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`, then until every request has ended."""
    kube = await connect()
    if kube is None and settings.auth == "tokenreview":
        raise StartError(
            "no API server is configured that could review tokens; give KUBECONFIG, run in a pod with a service "
            "account, or give --auth static with --tokens"
        )
    if kube is None and settings.buckets is None:
        raise StartError("there are no buckets without an API server or a file; give --buckets")
    readiness, heartbeat, metrics = Readiness(STORE, BUCKETS, WORKERS, SERVING), Heartbeat(), Metrics()
    try:
        with ExitStack() as stack:
            if settings.metrics_address is not None:
                server = OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive)
                stack.enter_context(server)
            sockets = listeners(settings.listen, settings.worker_count)
            beating = asyncio.create_task(heartbeat.beat())
            stack.callback(beating.cancel)
            found = await _recovered(settings, readiness, stop)
            if found is not None:
                folder, store, secret = found
                stack.callback(folder.close)
                cache = Cache(settings, kube, (store, secret), readiness, metrics)
                await cache.run(sockets, stop)
    finally:
        if kube is not None:
            await kube.close()


async def _recovered(
    settings: Settings, readiness: Readiness, stop: asyncio.Event
) -> tuple[DataFolder, Store, bytes] | None:
    """What an earlier cache left; None if told to stop before it could be read."""
    while not stop.is_set():
        readiness.unmet(STORE, "what lies on the disk is being read")
        try:
            found = await asyncio.to_thread(_start, settings, time.monotonic())
        except (StorageError, OSError) as error:
            log.warning("the data folder cannot be used, it is tried again error=%r", str(error))
            readiness.unmet(STORE, str(error))
            try:
                async with asyncio.timeout(_RETRY_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
        else:
            readiness.met(STORE)
            return found
    return None


def _start(settings: Settings, began: float) -> tuple[DataFolder, Store, bytes]:
    """The folder, the store, and the secret that names are hashed with.

    Blocking, perhaps for seconds: from a worker thread.
    """
    folder = DataFolder.open(settings.data_dir, settings.fsync)
    try:
        capacity_bytes = settings.capacity.of(folder.total_bytes())
        found: Recovered = recover(folder, boot_id(), int(time.time()), lambda text: log.info("%s", text))
    except BaseException:
        folder.close()
        raise
    report = found.report
    log.info(
        "the store is open before=%s objects=%d suspect=%d removed_files=%d removed_rows=%d seconds=%.1f%s",
        report.before, report.objects, report.suspect, report.removed_files, report.removed_rows,
        time.monotonic() - began, f" lost={report.lost!r}" if report.lost else "",
    )  # fmt: skip
    limits = Limits(capacity_bytes, floor_bytes=settings.free_bytes)
    usage = {number: (each.bytes, each.objects, each.pinned_bytes) for number, each in found.usage.items()}
    store = Store(Disk(folder, found.catalogue, found.index, usage), limits)
    return folder, store, found.catalogue.header.secret


class Cache:
    """All parts of a running cache, and who tells whom what."""

    def __init__(
        self,
        settings: Settings,
        kube: Kube | None,
        opened: tuple[Store, bytes],
        readiness: Readiness,
        metrics: Metrics,
    ) -> None:
        self._settings: Final = settings
        self._kube: Final = kube
        self._readiness: Final = readiness
        self._metrics: Final = metrics
        store, self._secret = opened
        self._counters: Final = Counters.create(settings.worker_count)
        self._keeping: Final = Keeping(store, Outlets(self._hand_over, self._tell, self._disk))
        self._rules: tuple[BucketRules, ...] = ()
        self._defined: Defined | None = None
        self._is_complete = False
        self._redefined: Final = asyncio.Event()
        self._in_force: Final = asyncio.Event()
        self._reviewing: asyncio.TaskGroup | None = None
        self._workers: Workers | None = None
        self._was_ready = False
        self._tokens, self._token_loops = self._reviewer()

    async def run(self, sockets: list[socket.socket], stop: asyncio.Event) -> None:
        """Until `stop`, and then until every request has ended."""
        settings = self._settings
        command = WorkerCommand(self._counters.fd, settings.log_level, settings.log_format)
        workers = self._workers = Workers(
            sockets, command, self._counters, Hooks(self._greet, self._heard, self._worker_ended)
        )
        self._metrics.follow(self._counters, self._state)
        self._metrics.worker_restarts.set_function(lambda: workers.restarts)
        try:
            async with asyncio.TaskGroup() as group:
                self._reviewing = group
                background = [group.create_task(loop()) for loop in self._loops()]
                await self._first_rules(stop)
                if not stop.is_set():
                    await self._serve(workers, group.create_task(workers.run()), stop)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                await self._keeping.finish()
        finally:
            # Whoever lets go of the folder next must not do so under the store's thread.
            self._keeping.stop()

    async def _serve(self, workers: Workers, serving: asyncio.Task[None], stop: asyncio.Event) -> None:
        """Until `stop`, and then until the workers have ended."""
        self._readiness.met(SERVING)
        # What is here now mostly stays.
        gc.collect()
        gc.freeze()
        async with self._published():
            await stop.wait()
            # Where nobody was ever sent here, nobody has to learn that it ends.
            drain_seconds = self._settings.drain_seconds if self._was_ready else 0.0
            self._readiness.unmet(SERVING, "stopping")
            workers.drain(drain_seconds, _FINISH_SECONDS)
        try:
            async with asyncio.timeout(drain_seconds + _FINISH_SECONDS + _LEAVE_SECONDS):
                await serving
        except TimeoutError:
            log.warning("workers that did not end in time are killed")

    def _loops(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        sources = BucketSources(self._settings.buckets, self._kube, self._kube)
        buckets = Buckets(sources, self._define, self._note, _uniform)
        loops = [self._keeping.run, buckets.run, self._follow_rules, *self._token_loops]
        if self._settings.scrub_days:
            pace = ScrubPace(self._settings.scrub_days, self._settings.scrub_rate)
            scrubber = Scrubber(self._keeping, self._settings.data_dir, pace)
            self._metrics.follow_scrubber(scrubber)
            loops.append(scrubber.run)
        return loops

    async def _first_rules(self, stop: asyncio.Event) -> None:
        """Wait until buckets are known: a cache that refuses everybody would only make clients give up."""
        self._readiness.unmet(BUCKETS, "no buckets were read yet")
        stopped = asyncio.create_task(stop.wait())
        defined = asyncio.create_task(self._in_force.wait())
        await asyncio.wait({stopped, defined}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, defined):
            task.cancel()
        if self._in_force.is_set():
            self._readiness.met(BUCKETS)

    # Buckets.

    def _define(self, defined: Defined) -> None:
        self._defined = defined
        self._redefined.set()

    async def _follow_rules(self) -> None:
        """Let workers and store go by what is defined now."""
        while True:
            await self._redefined.wait()
            self._redefined.clear()
            defined = self._defined
            if defined is None:
                continue
            numbers = await self._keeping.number_all(sorted(defined.buckets))
            if len(numbers) < len(defined.buckets):
                # The disk takes no new ones now.
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._redefined.set)
            complete = defined.complete and len(numbers) == len(defined.buckets)
            known = {name: bucket for name, bucket in defined.buckets.items() if name in numbers}
            found = rules(known, defined.namespaces, numbers.__getitem__)
            if found == self._rules and self._in_force.is_set() and complete == self._is_complete:
                # Any label of any namespace may have changed.
                continue
            self._rules, self._is_complete = found, complete
            self._keeping.set_rules(self._rules, complete=complete)
            self._tell(Rules.of(self._rules))
            self._in_force.set()
            log.info("buckets are in force buckets=%d", len(self._rules))

    # Workers.

    def _greet(self, link: WorkerLink) -> None:
        settings = self._settings
        link.send(
            Setup(
                link.number,
                str(settings.data_dir),
                self._secret,
                settings.fsync,
                settings.most_connections,
                # 0 would stand for no bound.
                settings.bandwidth and max(1, settings.bandwidth // settings.worker_count),
                settings.times,
            )
        )
        link.send(Rules.of(self._rules))
        writable = self._keeping.writable
        link.send(Writable(writable.status, writable.reason))
        link.give_index(self._keeping.index_fd)

    def _heard(self, link: WorkerLink, message: FromWorker) -> None:
        match message:
            case Review():
                if self._reviewing is not None:
                    self._reviewing.create_task(self._review(link, message))
            case TookIndex():
                self._note_workers()
            case _:
                self._keeping.ask(link, message)

    def _worker_ended(self, link: WorkerLink) -> None:
        self._keeping.ended(link)
        self._note_workers()

    def _note_workers(self) -> None:
        """Ready as soon as all answer, and no more only when none does."""
        count = self._settings.worker_count
        answering = sum(link.answers for link in self._workers.links) if self._workers is not None else 0
        few = "" if answering == count else f"{answering} of {count} workers answer requests"
        self._was_ready = self._was_ready or answering == count
        if answering in (0, count):
            self._readiness.unmet(WORKERS, few)
        self._readiness.note("fewer workers", few)

    def _tell(self, message: FromKeeper) -> None:
        if self._workers is not None:
            self._workers.tell(message)

    async def _hand_over(self, index: int) -> None:
        if self._workers is not None:
            await self._workers.hand_over(index)

    def _disk(self, problem: str) -> None:
        self._readiness.note("disk", problem)
        if problem:
            log.warning("the disk takes no new objects reason=%r", problem)
        else:
            log.info("the disk takes new objects again")

    # Tokens.

    def _reviewer(self) -> tuple[Reviewer, list[Callable[[], Coroutine[Any, Any, None]]]]:
        if self._settings.auth == "static" or self._kube is None:
            if self._settings.tokens is None:
                raise StartError("--auth static takes --tokens")
            static = StaticTokens(self._settings.tokens, partial(self._note, "tokens"))
            return static, [static.run]
        reviewer = TokenReviewer(self._kube, (self._settings.audience,), partial(self._note, "token reviews"))
        pods = unfinished_pods(self._kube, partial(self._note, "pods"), _uniform)
        return reviewer, [partial(drop_ended, pods, reviewer.verdicts, self._forget)]

    async def _review(self, link: WorkerLink, asked: Review) -> None:
        found = await self._tokens.review(asked.token)
        self._metrics.reviews.labels(str(found.status)).inc()
        link.send(Reviewed(asked.ticket, found.identity, found.status, found.reason, found.lasts_seconds))

    def _forget(self, pod_uid: str) -> None:
        self._tell(Forget(pod_uid))

    # What others see.

    def _note(self, name: str, problem: str) -> None:
        self._readiness.note(name, problem)
        self._metrics.sources.labels(name).set(0 if problem else 1)

    def _state(self) -> State:
        return state_of(self._keeping.view, self._rules)

    def _holdings(self) -> Holdings:
        view = self._keeping.view
        held = tuple(
            BucketResidency(name=view.names[number], bytes=account.kept_bytes, objects=account.objects)
            for number, account in view.accounts.items()
            if number in view.names
        )
        return Holdings(view.capacity_bytes, view.used_bytes, held)

    @asynccontextmanager
    async def _published(self) -> AsyncIterator[None]:
        """What the cache holds is told to the cluster meanwhile, if there is one."""
        settings = self._settings
        if self._kube is None or not settings.node_name:
            yield
            return
        publisher = Publisher(self._kube, Site(settings.node_name, settings.zone or None), self._holdings, _uniform)
        running = asyncio.create_task(publisher.run())
        publisher.serve()
        try:
            yield
            await publisher.leave(_LEAVE_SECONDS)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


_uniform: Final = random.SystemRandom().uniform


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
