"""Tokens of pods that ended are dropped as soon as that is seen."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from objectcache.access.verdicts import SeenPod, Verdicts
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Change, Collection, Deleted, Metadata, Replaced, Resource
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes


class PodMetadata(Metadata, frozen=True, kw_only=True):
    uid: str = ""
    deletion_timestamp: str | None = None


class PodFound(msgspec.Struct, frozen=True):
    metadata: PodMetadata


def unfinished_pods(
    kube: Kube,
    report: Callable[[str], None],
    uniform: Callable[[float, float], float],
    times: WatchTimes = DEFAULT_WATCH_TIMES,
) -> Collection[PodFound, SeenPod]:
    """All of the cluster's, as clients of this node's cache are on any node.

    Args:
        kube: The connection.
        report: Told why they are not watched, "" when they are; until then tokens last as long as their verdicts.
        uniform: `random.uniform`, or what stands for it.
        times: How patient the watch is.
    """
    return Collection(kube, _PODS, times, uniform, report)


async def drop_ended(pods: Collection[PodFound, SeenPod], verdicts: Verdicts, forget: Callable[[str], None]) -> None:
    """Until cancelled; `forget` is told the uid of each pod whose known tokens are to be reviewed again."""
    async with aclosing(pods.changes()) as changes:
        async for change in changes:
            for uid in _dropped(change, verdicts):
                forget(uid)


def _dropped(change: Change[SeenPod], verdicts: Verdicts) -> Sequence[str]:
    match change:
        case Replaced(pods):
            return verdicts.pods_listed(pods)
        case Applied(name, pod):
            return verdicts.pod_seen(name, pod)
        case Deleted(name):
            return verdicts.pod_deleted(name)


def _seen(pod: PodFound) -> SeenPod:
    return SeenPod(pod.metadata.uid, is_ending=pod.metadata.deletion_timestamp is not None)


# A pod that ends no longer matches, which the API server tells as DELETED (kubernetes, apiserver/pkg/storage/cacher,
# cacheWatcher.convertToWatchEvent).
_PODS: Final = Resource(
    "",
    "v1",
    "pods",
    PodFound,
    _seen,
    {"fieldSelector": "status.phase!=Failed,status.phase!=Succeeded"},
    metadata_only=True,
)
