"""`tasuki sandbox cache`: what the object cache does, on one machine and without a cluster; read `steps` first."""

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import fsspec

from objectcache.client.client import CacheClient
from objectcache.client.errors import CacheError, RefusedError
from objectcache.client.filesystem import CachedFileSystem
from objectcache.client.names import escaped, routing_key
from tasuki.routing.maglev import Maglev
from tasuki.sandbox.cache_scene import BUCKET, MEMBER, NODES, STRANGER, Deadline, Scene, SceneError, scene
from tasuki.sandbox.report import printable
from tasuki.sandbox.settings import seconds

SATISFIED, UNSATISFIED, BAD_INPUT, PROGRAM_FAILED = 0, 1, 2, 3
# What a shell reports of a process that a signal ended.
_SIGNALLED: Final = 128
_OBJECTS: Final = tuple(f"object-{number:02}" for number in range(30))
_CONTENT: Final = b"what the origin has\n" * 1000
_TIMEOUT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_DONE_WIDTH: Final = 58


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried.

    Attributes:
        done: What was done.
        seen: What came of it.
        good: Whether that is what should come of it.
    """

    done: str
    seen: str
    good: bool


def main(argv: Sequence[str]) -> int:
    """Show it; 0 if all went as it should, 1 if not, 2 for bad arguments, 3 if a program failed."""
    asked = _parser().parse_args(argv)
    envoy = shutil.which(asked.envoy)
    if envoy is None:
        sys.stderr.write(
            f"tasuki sandbox cache: there is no program {printable(asked.envoy)!r}; install Envoy 1.40 or later, or "
            "name it by --envoy\n"
        )
        return BAD_INPUT
    # That a cache is passed by is told as a step.
    logging.getLogger("objectcache").addHandler(logging.NullHandler())
    signals = _Signals()
    signals.follow()
    try:
        return _shown(asked, str(Path(envoy).absolute()), signals.check)
    except SceneError as error:
        sys.stderr.write(f"tasuki sandbox cache: {error}\n")
        return PROGRAM_FAILED
    except CacheError as error:
        sys.stderr.write(f"tasuki sandbox cache: no cache answers as it should: {printable(str(error))}\n")
        return PROGRAM_FAILED
    except _StoppedError as error:
        return _SIGNALLED + error.number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tasuki sandbox cache",
        description="Show the object cache on this machine: three caches behind an Envoy, what they do for whoever "
        "reads through them, for a namespace that may not, and when one of them is lost. All is gone afterwards.",
        allow_abbrev=False,
    )
    parser.add_argument("--envoy", metavar="PROGRAM", default="envoy", help="Envoy 1.40 or later (envoy, on the path)")
    parser.add_argument(
        "--keep", action="store_true", help="leave the other two caches running, to try more, until Ctrl-C"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=_TIMEOUT_SECONDS,
        help=f"for all that is waited for ({_TIMEOUT_SECONDS:g})",
    )  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default="table", help="how it is told (table)")
    return parser


def _row(step: Step) -> str:
    return f"{'ok ' if step.good else 'NOT'}  {step.done:<{_DONE_WIDTH}}  {step.seen}\n"


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: Final = number


class _Signals:
    """Notes SIGINT and SIGTERM, for work to be ended where nothing is half begun."""

    def __init__(self) -> None:
        self._number = 0

    def follow(self) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._note)

    def check(self) -> None:
        """Raise _StoppedError if there was one."""
        if self._number:
            raise _StoppedError(self._number)

    def _note(self, number: int, _: object) -> None:
        self._number = self._number or number


def _shown(asked: argparse.Namespace, envoy: str, check: Callable[[], None]) -> int:
    deadline = Deadline(time.monotonic() + asked.timeout, check)
    with tempfile.TemporaryDirectory(prefix="tasuki-cache-") as name, scene(Path(name), envoy, deadline) as there:
        found = []
        for step in steps(there, Path(name), deadline):
            check()
            found.append(step)
            if asked.output == "table":
                sys.stdout.write(_row(step))
                sys.stdout.flush()
        if asked.output == "json":
            sys.stdout.write(json.dumps([asdict(step) for step in found], indent=2) + "\n")
        if asked.keep:
            _keep(there, check)
    return SATISFIED if all(step.good for step in found) else UNSATISFIED


def _keep(there: Scene, check: Callable[[], None]) -> None:
    sys.stderr.write(
        f"Ctrl-C ends it. Until then:\n  export TASUKI_CACHE_URL={there.url} TASUKI_CACHE_BUCKET={BUCKET} "
        f"PFIO_HTTP_BEARER_TOKEN_PATH={there.tokens[MEMBER]}\n"
    )
    while True:
        check()
        time.sleep(_POLL_SECONDS)


def steps(there: Scene, folder: Path, deadline: Deadline) -> Iterator[Step]:
    """One after the other, each on what the ones before have left; fewer where there is nothing to go on with.

    Args:
        there: Ready.
        folder: For the origin's files.
        deadline: Of what the control plane and the Envoy need to notice a loss.
    """
    yield Step("three caches, a control plane and an Envoy", f"ready at {there.url}", good=True)
    owned = _put(there)
    yield _where(there, owned)
    file = folder / "dataset"
    file.write_bytes(_CONTENT)
    files = _files(there, MEMBER)
    yield _first_read(files, file)
    yield _second_read(files, file)
    yield _refused(there)
    yield _strangers_read(there, file)
    name = _name_of_the_file(there)
    if name is None:
        return
    owner = _owner(NODES, name)
    there.lose(owner)
    yield _read_without_owner(there, file, owner)
    there.forget(owner)
    left = [node for node in NODES if node != owner]
    yield _new_owner(there, file, name, left, deadline)
    yield _others_stay(there, owned, owner)


def _put(there: Scene) -> dict[str, str]:
    """By object, whose disk it should lie on."""
    client = _client(there)
    owned = {}
    for name in _OBJECTS:
        client.put(name, f"content of {name}".encode())
        owned[name] = _owner(NODES, name)
    return owned


def _owner(nodes: Sequence[str], name: str | bytes) -> str:
    return Maglev(nodes).owner(routing_key(BUCKET, escaped(name)))


def _name_of_the_file(there: Scene) -> bytes | None:
    """What the file system calls it in the cache, where it lies now; None if it lies nowhere."""
    listed = (each for node in NODES for each in _client(there, node).list())
    return next((each.sent_name for each in listed if each.text not in _OBJECTS), None)


def _where(there: Scene, owned: dict[str, str]) -> Step:
    found = {node: {name for name in owned if _client(there, node).head(name) is not None} for node in NODES}
    good = all(found[node] == {name for name, owner in owned.items() if owner == node} for node in NODES)
    counts = ", ".join(f"{node} {len(names)}" for node, names in found.items())
    return Step(
        f"{len(_OBJECTS)} objects are put through the Envoy of {NODES[0]}",
        f"{counts}: {'each' if good else 'NOT each'} where its owner was computed",
        good,
    )


def _first_read(files: CachedFileSystem, file: Path) -> Step:
    content = files.cat_file(str(file))
    counts = files.counts
    good = content == _CONTENT and (counts.misses, counts.hits, counts.kept) == (1, 0, 1)
    put = "are put" if counts.kept else "are NOT put"
    return Step("a file is read that no cache has", f"{len(content)} bytes from the origin, which {put}", good)


def _second_read(files: CachedFileSystem, file: Path) -> Step:
    content = files.cat_file(str(file))
    good = content == _CONTENT and files.counts.hits == 1
    return Step("it is read again", f"{len(content)} bytes from {'a cache' if good else 'the origin'}", good)


def _refused(there: Scene) -> Step:
    try:
        _client(there, namespace=STRANGER).get(_OBJECTS[0])
    except RefusedError as error:
        said = printable(str(error).partition(";")[0])
        return Step(f"namespace {STRANGER!r} asks for an object", said, error.status == 403)
    return Step(f"namespace {STRANGER!r} asks for an object", "it is given", good=False)


def _strangers_read(there: Scene, file: Path) -> Step:
    files = _files(there, STRANGER)
    content = files.cat_file(str(file))
    good = content == _CONTENT and files.counts.hits == 0
    return Step(f"namespace {STRANGER!r} reads the file", f"{len(content)} bytes from the origin: no read fails", good)


def _read_without_owner(there: Scene, file: Path, owner: str) -> Step:
    files = _files(there, MEMBER)
    content = files.cat_file(str(file))
    good = content == _CONTENT and files.counts.hits == 0
    where = "the origin" if good else "a cache"
    return Step(f"{owner}, whose it is, is killed; the file is read", f"{len(content)} bytes from {where}", good)


def _new_owner(there: Scene, file: Path, name: bytes, left: Sequence[str], deadline: Deadline) -> Step:
    owner = _owner(left, name)

    def is_there() -> bool:
        # A file system pauses after failures; one of its own asks at once.
        return _files(there, MEMBER).cat_file(str(file)) == _CONTENT and _has(there, owner, name)

    good = deadline.met(is_there)
    seen = f"{owner} has it now" if good else f"{owner} does not get it"
    return Step("the control plane hears of the loss; the file is read", seen, good)


def _others_stay(there: Scene, owned: dict[str, str], lost: str) -> Step:
    left = [node for node in NODES if node != lost]
    rest = {name: owner for name, owner in owned.items() if owner != lost}
    stayed = [name for name, owner in rest.items() if _owner(left, name) == owner]
    kept = sum(_client(there).get(name) is not None for name in stayed)
    moved = len(rest) - len(stayed)
    seen = f"{kept} of {len(stayed)} are where they were"
    if moved:
        seen += f"; {moved} have another owner, and are misses once"
    return Step("the objects of the other two are read", seen, kept == len(stayed))


def _has(there: Scene, node: str, name: bytes) -> bool:
    try:
        return _client(there, node).head(name) is not None
    except CacheError:
        return False


def _client(there: Scene, node: str = "", namespace: str = MEMBER) -> CacheClient:
    return CacheClient(there.caches[node] if node else there.url, BUCKET, token_path=there.tokens[namespace])


def _files(there: Scene, namespace: str) -> CachedFileSystem:
    return CachedFileSystem(
        fs=fsspec.filesystem("file"),
        cache_url=there.url,
        bucket=BUCKET,
        token_path=str(there.tokens[namespace]),
        skip_instance_cache=True,
    )
