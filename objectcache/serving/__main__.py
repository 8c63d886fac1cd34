"""One worker's process; the keeper starts it with three descriptors: its listener, its link, and the counters."""

import argparse
import gc
import logging
import mmap
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from objectcache.counters import OPEN, Row
from objectcache.link import Drain, FromKeeper, LinkError, NewIndex, Setup
from objectcache.serving.keeper_link import KeeperGoneError, KeeperLink
from objectcache.serving.loop import Loop
from objectcache.serving.requests import Requests
from objectcache.serving.worker import Worker
from tasuki.process import logging as process_logging
from tasuki.process.running import raise_open_files

log: Final = logging.getLogger("objectcache.worker")

# The keeper sends the setup at once.
_SETUP_SECONDS: Final = 30.0
# The process's own, and what threads and uploads need besides.
_OTHER_DESCRIPTORS: Final = 64


def main(argv: Sequence[str]) -> int:
    """Run until the keeper drains the worker or ends."""
    parser = argparse.ArgumentParser(prog="tasuki cache (worker)", description=__doc__)
    parser.add_argument("listener", type=int)
    parser.add_argument("link", type=int)
    parser.add_argument("counters", type=int)
    parser.add_argument("log_level")
    parser.add_argument("log_format")
    given = parser.parse_args(argv)
    process_logging.configure(given.log_level, given.log_format)
    # The keeper says when to end; a terminal's Ctrl-C reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise_open_files()
    listener = socket.socket(fileno=given.listener)
    link = socket.socket(fileno=given.link)
    listener.setblocking(False)
    link.setblocking(False)
    try:
        _work(listener, link, given.counters)
    except KeeperGoneError as error:
        log.info("ending reason=%r", str(error))
        return 0
    except LinkError as error:
        log.error("ending reason=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 1
    return 0


def _work(listener: socket.socket, link: socket.socket, counters: int) -> None:
    worker: Worker | None = None
    loop: Loop | None = None
    early: list[tuple[FromKeeper, int]] = []

    def told(message: FromKeeper, descriptor: int) -> None:
        if worker is None or loop is None:
            early.append((message, descriptor))
        elif isinstance(drain := worker.told(message, descriptor), Drain):
            loop.drain(drain)

    keeper = KeeperLink(link, told)
    waiting = select.poll()
    waiting.register(link, select.POLLIN)
    # All that has to be known before anybody is answered, the index last.
    while not any(isinstance(message, NewIndex) for message, _ in early):
        if not waiting.poll(_SETUP_SECONDS * 1000):
            raise LinkError("the keeper sends no setup")
        keeper.receive()
    setup, _ = early.pop(0)
    if not isinstance(setup, Setup):
        raise LinkError(f"the keeper begins with {type(setup).__name__}")
    row = Row(mmap.mmap(counters, 0), setup.number)
    row.at[OPEN] = 0
    worker = Worker(setup, keeper, row)
    loop = Loop(worker, listener, Requests(worker), _most_connections(setup.most_connections))
    for message, descriptor in early:
        told(message, descriptor)
    # What is here now stays; requests leave no cycles behind.
    gc.collect()
    gc.freeze()
    try:
        loop.run()
    finally:
        loop.close()


def _most_connections(wanted: int) -> int:
    """As many as the process may have, each with its file."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    most = min(wanted, max(1, (limit - _OTHER_DESCRIPTORS) // 2))
    if most < wanted:
        log.warning("fewer connections than wanted, raise the limit of open files wanted=%d most=%d", wanted, most)
    return most


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # A thread may still read a file, which nobody needs any more: not waited for.
    os._exit(status)
