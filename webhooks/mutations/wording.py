"""What several mutations say to users in the same words."""

from collections.abc import Iterable

from tasuki.process import sentences
from webhooks.patch import Operations
from webhooks.pod import Pod, is_of_daemon_set


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like it; empty if none is."""
    return sentences.nearest(word, sorted(known), alike=0.5)


def selects_too_late(pod: Pod, annotation: str, selection: Operations) -> tuple[str, ...]:
    """A warning if nodes are selected for a pod that is made for one node, whether that is among them or not."""
    if not selection or not is_of_daemon_set(pod):
        return ()
    return (
        f"{annotation} selects nodes, and the DaemonSet's pods on others never start; select the same in its template",
    )
