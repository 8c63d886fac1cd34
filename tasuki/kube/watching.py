"""Following one node as it changes, for as long as the process lives."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

import msgspec

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import GoneError, KubeError, UnavailableError
from tasuki.kube.objects import UNREADABLE, Node

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How patient a watch is.

    Attributes:
        lasts_seconds: After which the server is asked to end a watch; up to a fifth more, so that a thousand
            nodes do not return as one.
        silence_seconds: By how much it may be late, before the connection is taken for broken.
        first_pause_seconds: Before the first attempt after a failure.
        most_pause_seconds: Before any attempt.
    """

    lasts_seconds: float = 300.0
    silence_seconds: float = 30.0
    first_pause_seconds: float = 1.0
    most_pause_seconds: float = 60.0


# A server that names a longer time than this is not believed.
_LONGEST_RETRY_AFTER_SECONDS: Final = 300.0

DEFAULT_WATCH_TIMES: Final = WatchTimes()


async def follow_node(
    kube: Kube, name: str, uniform: Callable[[float, float], float], times: WatchTimes
) -> AsyncGenerator[Node | None, None]:
    """The node as it is, then again at each change of it; None while there is no such node.

    Never ends. A broken connection, an absent API server, a resource version that has expired: it comes back.
    Close it (`contextlib.aclosing`) when done.
    """
    backoff = Backoff(times.first_pause_seconds, times.most_pause_seconds, uniform)
    version = ""
    while True:
        began, opened = monotonic(), False
        try:
            if not version:
                found = await kube.nodes_named(name)
                version = found.metadata.resource_version
                yield found.items[0] if found.items else None
            lasts = int(uniform(times.lasts_seconds, times.lasts_seconds * 1.2))
            silence = lasts + times.silence_seconds
            async with kube.watch_nodes_named(name, version, lasts, silence) as events:
                opened = True
                async for event in events:
                    node = _node(event.object)
                    version = node.metadata.resource_version or version
                    backoff.reset()
                    if event.type in {"ADDED", "MODIFIED", "DELETED"}:
                        yield None if event.type == "DELETED" else node
        except GoneError:
            version = ""
        except KubeError as error:
            log.warning("the watch of our node broke, it is taken up again node=%s error=%s", name, error)
            if not opened:
                # The server may be back with an older state, of which a watch from our version would bring nothing.
                version = ""
            asked = min(error.retry_after_seconds, _LONGEST_RETRY_AFTER_SECONDS)
            await asyncio.sleep(max(backoff.next_seconds(), asked))
            continue
        # An ended watch is taken up at once, but never in a tight loop.
        if monotonic() - began < times.first_pause_seconds:
            await asyncio.sleep(backoff.next_seconds())


def _node(raw: msgspec.Raw) -> Node:
    try:
        return msgspec.json.decode(raw, type=Node)
    except UNREADABLE as error:
        raise UnavailableError(f"a watch of nodes sent what is none: {error}") from error
