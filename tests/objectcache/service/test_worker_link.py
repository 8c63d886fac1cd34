"""The keeper's side of a link, with real processes: they may be slow, stuck or broken."""

import asyncio
import os
import selectors
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from objectcache.counters import Counters
from objectcache.link import FromWorker, Rules, Setup, Sum, TookIndex, Writable, frame
from objectcache.service import worker_link
from objectcache.service.worker_link import WorkerCommand, WorkerLink
from objectcache.service.workers import listeners
from objectcache.storage.files import DataFolder
from objectcache.storage.index import IndexWriter
from objectcache.storage.keys import SECRET_BYTES
from tests.objectcache.service.nodes import command_of
from tests.objectcache.serving.test_link import RULES

NONE = Rules(())
# Beyond all that are open.
NO_DESCRIPTOR = 2**30


@pytest.fixture
def index() -> IndexWriter:
    return IndexWriter.create(1024)


def worker_processes() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(each) for each in children if b"objectcache.serving" in command_of(int(each))]


@asynccontextmanager
async def running(
    link: WorkerLink, tmp_path: Path, index: IndexWriter, rules: Rules = NONE
) -> AsyncIterator["asyncio.Task[int]"]:
    """A worker that was greeted."""
    DataFolder.open(tmp_path / "data").close()
    counters = Counters.create(1)
    [listener] = listeners(("127.0.0.1", 0), 1)
    link.send(Setup(0, str(tmp_path / "data"), bytes(SECRET_BYTES), "never", 100, 0))
    link.send(rules)
    link.send(Writable())
    link.give_index(index.fd)
    task = asyncio.create_task(link.run(WorkerCommand(counters.fd, "info", "text"), listener))
    try:
        async with asyncio.timeout(20):
            while not link.answers and not task.done():
                await asyncio.sleep(0.01)
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        os.close(counters.fd)


async def test_a_worker_takes_ten_thousand_rules_and_one_index_after_the_other(
    tmp_path: Path, index: IndexWriter
) -> None:
    heard: list[FromWorker] = []
    link = WorkerLink(0, 1, lambda _, message: heard.append(message))
    async with running(link, tmp_path, index, RULES):
        for _ in range(3):
            link.send(RULES)
            another = IndexWriter.create(1024)
            async with asyncio.timeout(20):
                await link.hand_over(another.fd)
            another.close()

    assert [each.ticket for each in heard if isinstance(each, TookIndex)] == [0, 1, 2, 3]
    assert not any(isinstance(each, Sum) for each in heard)


async def test_a_worker_that_does_not_take_an_index_is_ended(tmp_path: Path, index: IndexWriter) -> None:
    link = WorkerLink(0, 1, lambda *_: None, take_seconds=0.2)
    async with running(link, tmp_path, index) as task:
        [worker] = worker_processes()
        os.kill(worker, signal.SIGSTOP)
        # Beyond what the socket holds, so that the keeper waits in the middle of a message.
        link.send(RULES)
        async with asyncio.timeout(20):
            await link.hand_over(index.fd)

            assert not Path(f"/proc/{worker}").exists()
            assert await task == -signal.SIGKILL


async def test_whoever_waits_for_a_worker_that_ends_goes_on(tmp_path: Path, index: IndexWriter) -> None:
    link = WorkerLink(0, 1, lambda *_: None)
    async with running(link, tmp_path, index) as task:
        [worker] = worker_processes()
        os.kill(worker, signal.SIGSTOP)
        taking = asyncio.create_task(link.hand_over(index.fd))
        await asyncio.sleep(0)
        os.kill(worker, signal.SIGKILL)
        async with asyncio.timeout(20):
            await taking

            assert await task == -signal.SIGKILL
            await link.hand_over(index.fd)


async def test_a_worker_that_was_not_set_up_ends_and_says_why(
    tmp_path: Path, index: IndexWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    link = WorkerLink(0, 1, lambda *_: None)
    link.send(Rules(()))
    async with running(link, tmp_path, index) as task:
        async with asyncio.timeout(20):
            assert await task == 1

    assert "the keeper begins with Rules" in capfd.readouterr().err


def scripted_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """Workers are programs that do this with `link`, a descriptor, and then nothing."""
    script = tmp_path / "worker"
    lines = ["import os, sys, time", "link = int(sys.argv[4])", does, "time.sleep(60)"]
    script.write_text("\n".join([f"#!{sys.executable} -S", *lines]))
    script.chmod(0o755)
    monkeypatch.setattr(worker_link, "_END_SECONDS", 0.2)
    monkeypatch.setattr(sys, "executable", str(script))


async def ended(link: WorkerLink) -> int:
    """Its exit status."""
    counters = Counters.create(1)
    [listener] = listeners(("127.0.0.1", 0), 1)
    with listener:
        async with asyncio.timeout(20):
            status = await link.run(WorkerCommand(counters.fd, "info", "text"), listener)
    os.close(counters.fd)
    return status


async def test_a_worker_that_said_what_is_no_message_is_heard_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[FromWorker] = []
    said = frame(TookIndex(1)) + b"\0\0\0\1x"
    later = frame(TookIndex(2))
    does = f"os.write(link, {said!r}); time.sleep(0.1); os.write(link, {later!r})"
    scripted_worker(tmp_path, monkeypatch, does)

    assert await ended(WorkerLink(0, 1, lambda _, message: heard.append(message))) == -signal.SIGKILL
    assert TookIndex(2) not in heard


async def test_a_worker_that_cannot_be_told_something_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_worker(tmp_path, monkeypatch, "pass")
    link = WorkerLink(0, 1, lambda *_: None)
    link.send(Writable())
    link.give_index(NO_DESCRIPTOR)

    assert await ended(link) == -signal.SIGKILL


def test_the_end_of_a_link_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(selectors.DefaultSelector):
        looks = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self.looks += 1
            return super().select(timeout)

    scripted_worker(tmp_path, monkeypatch, "os.close(link)")
    selector = Counting()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        status = runner.run(ended(WorkerLink(0, 1, lambda *_: None)))

    assert status == -signal.SIGKILL
    assert selector.looks < 100


def test_a_listener_refuses_until_its_worker_can_answer() -> None:
    [listener] = listeners(("127.0.0.1", 0), 1)
    with listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())
