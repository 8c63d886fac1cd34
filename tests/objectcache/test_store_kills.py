"""What a store has answered is there after its process was killed at any time, and a batch is there whole or not.

Run as a program, it keeps objects in a folder until it is killed; see `spawn`.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from objectcache.link import Done, Remove, Reserve
from objectcache.store import Asked, Limits, Message
from tests.objectcache.test_store import NOW, Cache, commit

ROUNDS: Final = 30
NAMES: Final = [f"object-{each}" for each in range(12)]
# A name, and what is to be under it from then on; None for nothing.
Intent = tuple[str, str | None]


def keep_objects(path: Path, seed: int) -> None:
    """For ever; prints `begin` and `done` around each batch of changes."""
    chance = random.Random(seed)
    cache = Cache(path, Limits(10**6))
    cache.rules(bk=10**6)
    for serial in range(10**6):
        intents: list[Intent] = []
        batch: list[Message] = []
        for each in range(chance.randint(1, 8)):
            name = chance.choice(NAMES)
            if chance.random() < 0.3:
                intents.append((name, None))
                batch.append(Remove(1, "bk", name.encode()))
                continue
            content = f"{seed}/{serial}/{each} " * chance.randint(1, 40)
            (reserved,) = cache.store.handle([Asked(1, Reserve(1, "bk", len(content)))], NOW)
            assert isinstance(reserved, Done)
            cache.write(reserved.object_id, content.encode())
            intents.append((name, content))
            batch.append(commit(reserved.object_id, name.encode(), content.encode()))
        tell({"begin": intents})
        cache.store.handle([Asked(1, each) for each in batch], NOW)
        tell({"done": True})
        if serial % 20 == 19:
            cache.store.tick(NOW + serial)


def tell(what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def spawn(path: Path) -> None:
    """For each line on standard input, a process that keeps objects; a fork is there at once, an interpreter is not."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            keep_objects(path, int(line))
        tell({"pid": child})
        os.waitpid(child, 0)
        tell({"ended": True})


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.objectcache.test_store_kills", str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def round_of(spawner: subprocess.Popen[str], seed: int, batches: int) -> tuple[list[list[Intent]], list[Intent]]:
    """The batches that were answered, and the one under way when the process was killed, if there was one."""
    assert spawner.stdin is not None
    assert spawner.stdout is not None
    spawner.stdin.write(f"{seed}\n")
    answered: list[list[Intent]] = []
    under_way: list[Intent] = []
    pid = 0
    for line in spawner.stdout:
        match json.loads(line):
            case {"pid": int(found)}:
                pid = found
            case {"begin": intents}:
                under_way = [(name, content) for name, content in intents]
            case {"done": _}:
                answered.append(under_way)
                under_way = []
            case {"ended": _}:
                return answered, under_way
        if pid and len(answered) >= batches:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"the spawner ended with {spawner.wait()}")


def applied(state: dict[str, str], intents: list[Intent]) -> dict[str, str]:
    after = dict(state)
    # A name may come twice in a batch.
    for name, content in intents:
        if content is None:
            after.pop(name, None)
        else:
            after[name] = content
    return after


def test_what_was_answered_outlives_being_killed_at_any_time(tmp_path: Path, spawner: subprocess.Popen[str]) -> None:
    chance = random.Random(20261122)
    state: dict[str, str] = {}
    halves = 0
    for seed in range(ROUNDS):
        answered, under_way = round_of(spawner, seed, chance.randint(1, 12))
        for batch in answered:
            state = applied(state, batch)
        cache = Cache(tmp_path / "cache", Limits(10**6))
        cache.rules(bk=10**6)
        found = {name: content.decode() for name in NAMES if (content := cache.get(name.encode())) is not None}
        used, files, incoming = cache.used(), cache.files(), cache.incoming()
        cache.kill()

        assert found in (state, applied(state, under_way))
        sizes = sum(map(len, found.values()))
        assert (used, files, incoming) == ((sizes, len(found)), sizes, [])
        halves += bool(under_way)
        state = found
    print(f"{halves} of {ROUNDS} rounds ended within a batch")


if __name__ == "__main__":
    spawn(Path(sys.argv[1]))
