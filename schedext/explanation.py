"""Why a pod goes where it goes, as a value, as text and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import msgspec

from schedext.costs import CAUSES

_MOST_EXAMPLES: Final = 3

_UNITS: Final = {
    "seconds": "lost in an hour of the pod's run, by cause; fewer are better",
    "watts": "of all devices that the pod would use; 0 where that is not known",
    "score": "from 0 to 10, as the scheduler is told; higher is better",
}


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """What a node is to the pod.

    Attributes:
        reason: Why it does not fit; empty if it does.
        never: It would not fit either if the node were empty and healthy.
        seconds: Lost in an hour of the pod's run, by cause.
        watts: Of all devices that it would use; 0 if that is not known.
        score: As prioritize answers it; None if the pod does not fit.
        devices: What it would get, by id.
    """

    name: str
    zone: str = ""
    fits: bool = True
    reason: str = ""
    never: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    watts: float = 0.0
    score: int | None = None
    devices: tuple[str, ...] = ()

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Explanation:
    """What all nodes are to a pod.

    Attributes:
        pod: `namespace/name`.
        objective: What the pod asks to be placed for.
        notes: What is to be known about the pod or the cluster besides.
    """

    pod: str
    objective: str
    notes: tuple[str, ...] = ()
    nodes: tuple[NodeExplanation, ...] = ()

    @property
    def fitting(self) -> list[NodeExplanation]:
        """The best first."""
        return sorted(
            (node for node in self.nodes if node.fits),
            key=lambda node: (-(node.score or 0), node.total_seconds, node.name),
        )

    @property
    def refused(self) -> list[NodeExplanation]:
        return sorted((node for node in self.nodes if not node.fits), key=lambda node: node.name)


def as_text(explanation: Explanation, limit: int) -> str:
    """For people.

    Args:
        explanation: What is to be shown.
        limit: Of the nodes that fit, and of the reasons why others do not; 0 for all.
    """
    fitting, refused = explanation.fitting, explanation.refused
    lines = [f"pod {explanation.pod}, placed for {explanation.objective}"]
    lines += [f"note: {note}" for note in explanation.notes]
    lines += ["", f"fits on {len(fitting)} of {_counted(len(explanation.nodes), 'node')}"]
    if fitting:
        shown = fitting[:limit] if limit else fitting
        lines += [f"  {name}: {text}" for name, text in _UNITS.items()]
        lines += ["", *_table(shown), *_more(len(fitting) - len(shown), "node")]
    if refused:
        lines += ["", f"does not fit on {_counted(len(refused), 'node')}", *_reasons(refused, limit)]
    return "\n".join([*lines, ""])


def as_json(explanation: Explanation, limit: int) -> bytes:
    """For programs: those that fit, the best first, then the others by name; at most `limit` of each, 0 for all."""
    kept = limit or None
    nodes = [*explanation.fitting[:kept], *explanation.refused[:kept]]
    document = {
        "pod": explanation.pod,
        "objective": explanation.objective,
        "notes": explanation.notes,
        "units": _UNITS,
        "fitting": len(explanation.fitting),
        "refused": len(explanation.refused),
        "nodes": [_document(node) for node in nodes],
    }
    return msgspec.json.encode(document) + b"\n"


def _document(node: NodeExplanation) -> dict[str, Any]:
    place = {
        "seconds": {cause: node.seconds[cause] for cause in _causes([node])},
        "totalSeconds": node.total_seconds,
        "watts": node.watts,
        "score": node.score,
        "devices": node.devices,
    }
    refusal = {"reason": node.reason, "never": node.never}
    return {"name": node.name, "zone": node.zone, "fits": node.fits, **(place if node.fits else refusal)}


def _causes(nodes: Iterable[NodeExplanation]) -> list[str]:
    """All that count for something, in the order in which they are documented."""
    found = {cause for node in nodes for cause in node.seconds}
    return [*(cause for cause in CAUSES if cause in found), *sorted(found.difference(CAUSES))]


def _table(nodes: Sequence[NodeExplanation]) -> list[str]:
    causes = _causes(nodes)
    head = ["NODE", "ZONE", "SCORE", "SECONDS", *(cause.upper() for cause in causes), "WATTS", "DEVICES"]
    rows = [
        [
            node.name,
            node.zone or "-",
            "-" if node.score is None else str(node.score),
            _number(node.total_seconds),
            *(_number(node.seconds.get(cause, 0.0)) for cause in causes),
            _number(node.watts),
            ",".join(node.devices) or "-",
        ]
        for node in nodes
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numbers = range(2, len(head) - 1)
    return [
        "  ".join(
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _number(value: float) -> str:
    """Three digits that count; `1e+06` would be no help to a reader."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) < 0.001:
        return "<0.001"
    return f"{value:.3g}"


def _reasons(refused: Iterable[NodeExplanation], limit: int) -> list[str]:
    """One line a reason: those first that may pass, then the one that is most common."""

    def kind(node: NodeExplanation) -> tuple[bool, str]:
        return node.never, node.reason

    grouped = [(key, [node.name for node in nodes]) for key, nodes in groupby(sorted(refused, key=kind), key=kind)]
    grouped.sort(key=lambda group: (group[0][0], -len(group[1]), group[0][1]))
    shown = grouped[:limit] if limit else grouped
    return [_reason(*key, names) for key, names in shown] + _more(len(grouped) - len(shown), "reason")


def _reason(never: bool, reason: str, names: Sequence[str]) -> str:  # noqa: FBT001 - half of a key
    when = "never" if never else "not now"
    examples = ", ".join(names[:_MOST_EXAMPLES]) + (", …" if len(names) > _MOST_EXAMPLES else "")
    return f"  {_counted(len(names), 'node')}, {when}: {reason} ({examples})"


def _more(count: int, what: str) -> list[str]:
    return [f"  … and {count} more {what if count == 1 else what + 's'}; a limit of 0 shows all"] if count else []


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
