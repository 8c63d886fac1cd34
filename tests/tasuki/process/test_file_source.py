"""What a file means, read again whenever it is replaced: real files, and readers that can be held up."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tasuki.process.file_source import FileSource, Pace, folders_of

# Long enough that only a noticed change ends a wait.
QUICK = Pace(poll_seconds=60.0, settle_seconds=0.01)
SECONDS = 10.0


class Listener:
    """Keeps what a source tells, and in which thread."""

    def __init__(self) -> None:
        self.values: asyncio.Queue[str | None] = asyncio.Queue()
        self.problems: asyncio.Queue[str] = asyncio.Queue()
        self.threads: set[int] = set()

    def changed(self, value: str | None) -> None:
        self.threads.add(threading.get_ident())
        self.values.put_nowait(value)

    def report(self, problem: str) -> None:
        self.threads.add(threading.get_ident())
        self.problems.put_nowait(problem)

    async def value(self) -> str | None:
        return await asyncio.wait_for(self.values.get(), SECONDS)

    async def problem(self) -> str:
        return await asyncio.wait_for(self.problems.get(), SECONDS)


class SlowReader:
    """Reads each content only when told to."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.may_end = threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0
        self._loop = asyncio.get_running_loop()

    def __call__(self, content: bytes | None) -> str | None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self._loop.call_soon_threadsafe(self.begun.put_nowait, text(content) or "")
        told = self.may_end.acquire(timeout=SECONDS)
        self.at_once -= 1
        if not told:
            raise ValueError("the loop stood still while this was read")
        return text(content)


def text(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


def refuse(sentence: str) -> Callable[[bytes | None], str | None]:
    def read(content: bytes | None) -> str | None:
        raise ValueError(sentence)

    return read


@contextlib.asynccontextmanager
async def running(
    file: Path, read: Callable[[bytes | None], str | None], pace: Pace = QUICK
) -> AsyncIterator[Listener]:
    listener = Listener()
    task = asyncio.create_task(FileSource(file, read, listener.changed, listener.report, pace).run())
    try:
        yield listener
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def replace(file: Path, content: str) -> None:
    whole = file.with_name("new")
    whole.write_text(content)
    whole.replace(file)


async def test_the_loop_goes_on_while_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    slow = SlowReader()
    async with running(file, slow) as listener:
        await asyncio.wait_for(slow.begun.get(), SECONDS)
        slow.may_end.release()

        assert await listener.value() == "a"
        assert await listener.problem() == ""
        assert listener.threads == {threading.get_ident()}


async def test_a_file_that_changes_while_it_is_read_is_read_again_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    slow = SlowReader()
    async with running(file, slow) as listener:
        first = await asyncio.wait_for(slow.begun.get(), SECONDS)
        replace(file, "b")
        slow.may_end.release()
        second = await asyncio.wait_for(slow.begun.get(), SECONDS)
        slow.may_end.release()

        assert (first, second) == ("a", "b")
        assert (await listener.value(), await listener.value()) == ("a", "b")
        assert slow.most_at_once == 1


async def test_a_problem_of_any_length_is_told_within_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    async with running(file, refuse("wrong " * 100_000)) as listener:
        problem = await listener.problem()

    assert problem.startswith(f"{file}: wrong wrong")
    assert len(problem) < 5_000
    assert all(len(record.getMessage()) < 5_000 for record in caplog.records)


async def test_what_stays_in_force_is_told_once_and_only_if_there_is_something(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("bad")

    def read(content: bytes | None) -> str | None:
        if content == b"bad":
            raise ValueError("is bad")
        return text(content)

    async with running(file, read) as listener:
        at_first = await listener.problem()
        replace(file, "good")
        good = await listener.problem()
        replace(file, "bad")
        later = await listener.problem()

    assert at_first == f"{file}: is bad"
    assert good == ""
    assert later == f"{file}: is bad; what was in force stays in force"


async def test_a_file_that_was_never_there_is_not_said_to_be_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tasuki.process.file_source")
    file = tmp_path / "file"
    async with running(file, text) as listener:
        await listener.problem()
        file.write_text("a")
        await listener.problem()
        file.unlink()
        await listener.problem()

    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name.endswith("file_source")]
    assert told == [
        ("DEBUG", f"no file file={file}"),
        ("INFO", f"in force file={file}"),
        ("INFO", f"no file file={file}"),
    ]


async def test_a_folder_that_is_removed_and_made_anew_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file"
    file.parent.mkdir(parents=True)
    file.write_text("first")
    async with running(file, text) as listener:
        first = await listener.value()
        file.unlink()
        file.parent.rmdir()
        file.parent.parent.rmdir()
        gone = await listener.value()
        file.parent.mkdir(parents=True)
        replace(file, "second")
        second = await listener.value()

    assert (first, gone, second) == ("first", None, "second")


@pytest.mark.parametrize(
    ("path", "watched"),
    [
        pytest.param("real/file", ["real"], id="its own"),
        pytest.param("real/absent", ["real"], id="of a file to come"),
        pytest.param("absent/folder/file", ["."], id="where the way to it will begin"),
        pytest.param("real/file/below", ["real"], id="a file that is in the way of a folder"),
        pytest.param("link/file", [".", "real"], id="that of a linked folder and its own"),
        pytest.param("dangling/file", [".", "."], id="that of a link to nothing"),
    ],
)
def test_the_folders_in_which_a_change_can_change_the_file(tmp_path: Path, path: str, watched: list[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")

    assert folders_of(tmp_path / path) == tuple(dict.fromkeys(tmp_path / folder for folder in watched))
