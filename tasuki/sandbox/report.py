"""What the sandbox says: one line for each event, then a summary."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

import msgspec

from tasuki.devices.model import DeviceKind, Slice, index_order
from tasuki.sandbox.admission import Admission, AdmittedContainer
from tasuki.sandbox.events import Event
from tasuki.sandbox.outcomes import Outcome
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.table import Cell, table
from tasuki.sandbox.views import ResourceView

_UUID: Final = re.compile(r"\b((?:GPU|MIG)-[0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEADS: Final = ("POD", "CONTAINER", "RESOURCE", "DEVICE", "THE CONTAINER GETS")
# What a device is called, and a part of it that a container holds.
_NAMES: Final = {
    DeviceKind.GPU: ("GPU", "slice"),
    DeviceKind.MIG: ("MIG", "slice"),
    DeviceKind.FPGA: ("FPGA", "channel"),
    DeviceKind.VACCEL: ("agent", "session"),
}
_BOLD, _GREEN, _RED, _PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Report:
    """Writes for people.

    Attributes:
        live: Where events go.
        slices: What the ids of the machine's slices stand for, by resource and id.
        colour: Whether `live` and the summary are for a terminal that shows colours.
    """

    live: TextIO
    slices: Mapping[tuple[str, str], Slice]
    colour: bool = False

    def say(self, text: str) -> None:
        self.live.write(f"{text}\n")
        self.live.flush()

    def event(self, event: Event) -> None:
        self.say(f"kubelet    {printable(str(event))}")

    def ended(self, pod: str) -> None:
        self.say(f"pod        {pod} ended, its devices are free")

    def waits(self, pod: Pod, reasons: Sequence[str]) -> None:
        self.say(f"pod        {pod} {self._marked(_BOLD, 'waits')}: {printable('; '.join(reasons))}")

    def waits_for_release(self, pod: Pod, seconds: float) -> None:
        self.say(
            f"pod        {pod} waits for the device plugin to see that in the kubelet's lists, {seconds:g} s at most"
        )

    def outcome(self, outcome: Outcome) -> None:
        verdict = self._marked(_RED, "does not fit" if outcome.shortages else "failed")
        for reason in outcome.reasons:
            self.say(f"pod        {outcome.pod} {verdict}: {printable(reason)}")
        if outcome.admission is None:
            return
        for container in outcome.admission.containers:
            place = f"container  {outcome.pod} {container.container.name}"
            for resource, ids in container.devices.items():
                devices = ", ".join(self._name(resource, i) for i in self._in_order(resource, ids))
                self.say(f"{place} {self._marked(_GREEN, 'gets')} {resource}: {devices}")
            for each in outcome.prepared:
                if each.container == container.container.name:
                    self.say(f"{place} {printable(str(each))}")
            for conflict in container.conflicts:
                self.say(f"{place}: {printable(conflict)}")

    def _in_order(self, resource: str, ids: Sequence[str]) -> list[str]:
        """The driver's order; what the machine does not know comes last."""
        unknown = (1, (), 0)
        found = {i: s for i in ids if (s := self.slices.get((resource, i))) is not None}
        places = {i: (0, index_order(s.device), s.replica) for i, s in found.items()}
        return sorted(ids, key=lambda i: (places.get(i, unknown), i))

    def _name(self, resource: str, slice_id: str) -> str:
        """For example `GPU 4 slice 1 of 4`."""
        found = self.slices.get((resource, slice_id))
        if found is None:
            return short(slice_id)
        device, share = _NAMES[found.device.kind]
        part = f" {share} {found.replica + 1} of {found.replicas}" if found.replicas > 1 else ""
        return f"{device} {found.device.index}{part}"

    def _model(self, resource: str, slice_id: str) -> str:
        found = self.slices.get((resource, slice_id))
        return f" {printable(found.device.profile or found.device.model)}" if found is not None else ""

    def summary(self, outcomes: Sequence[Outcome], resources: Mapping[str, ResourceView]) -> str:
        admissions = [(o, o.admission) for o in outcomes if o.admission is not None and o.admission.admitted]
        rows = [row for outcome, admission in admissions for row in self._rows(outcome, admission)]
        parts = [table([self._marked(_BOLD, head) for head in _HEADS], rows)] if rows else []
        waited = [f"  {o.pod}: {printable('; '.join(o.waited))}" for o in outcomes if o.satisfied and o.waited]
        if waited:
            parts.append("\n".join([self._marked(_BOLD, "Waited first"), *waited]))
        programmed = [
            f"  {o.pod} {printable(f'{each.container} {each}')}"
            for o in outcomes
            for each in o.prepared
            if each.programmed
        ]
        if programmed:
            parts.append("\n".join([self._marked(_BOLD, "Programmed"), *programmed]))
        unsatisfied = [o for o in outcomes if not o.satisfied]
        if unsatisfied:
            reasons = [f"  {o.pod}: {printable(reason)}" for o in unsatisfied for reason in o.reasons]
            parts.append("\n".join([self._marked(_RED, "Not running"), *reasons]))
        running = [o.pod for o in outcomes if o.satisfied and not o.ended]
        totals = [
            f"  {name}: {sum(pod.requests.get(name, 0) for pod in running)} of {view.allocatable} in use"
            + (f", {len(view.unhealthy)} unhealthy" if view.unhealthy else "")
            for name, view in resources.items()
        ]
        parts.append("\n".join([self._marked(_BOLD, "Node"), *(totals or ["  offers nothing"])]))
        return "\n\n".join(parts)

    def _rows(self, outcome: Outcome, admission: Admission) -> list[Sequence[Cell]]:
        rows: list[Sequence[Cell]] = []
        for container in admission.containers:
            pairs = [
                (resource, i) for resource, ids in container.devices.items() for i in self._in_order(resource, ids)
            ]
            names = [resource if n == 0 or pairs[n - 1][0] != resource else "" for n, (resource, _) in enumerate(pairs)]
            pod = [str(outcome.pod), *(["(ended)"] if outcome.ended else [])] if not rows else []
            rows.append(
                (
                    pod,
                    [container.container.name],
                    names,
                    [f"{self._name(resource, i)}{self._model(resource, i)}" for resource, i in pairs],
                    gets(container),
                )
            )
        return rows

    def _marked(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.colour else text


def short(text: str) -> str:
    """A text with the ids of devices cut to what tells them apart."""
    return _UUID.sub(r"\1…", text)


def printable(text: str) -> str:
    """A text from elsewhere with its control characters spelled out, so that none of them reaches the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def gets(container: AdmittedContainer) -> Cell:
    """All that is changed in the container, one line for each thing."""
    edits = container.edits
    lines = [f"{name}={value}" for name, value in sorted(edits.envs.items())]
    lines += [
        node.container_path
        + (f" from {node.host_path}" if node.host_path != node.container_path else "")
        + f" ({node.permissions})"
        for node in edits.nodes
    ]
    lines += [
        f"{mount.container_path} from {mount.host_path}" + (" (read-only)" if mount.read_only else "")
        for mount in edits.mounts
    ]
    lines += [f"annotation {name}: {value}" for name, value in sorted(edits.annotations.items())]
    lines += [f"CDI {name}" for name in edits.cdi_devices]
    return [short(printable(line)) for line in lines] or ["nothing"]


def as_json(machine: str, outcomes: Sequence[Outcome], resources: Mapping[str, ResourceView]) -> str:
    """The summary for programs, with nothing shortened."""
    document = {
        "machine": machine,
        "resources": {
            name: {"capacity": view.capacity, "allocatable": view.allocatable} for name, view in resources.items()
        },
        "pods": [_pod(outcome) for outcome in outcomes],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _pod(outcome: Outcome) -> dict[str, Any]:
    containers = outcome.admission.containers if outcome.admission is not None else ()
    return {
        "namespace": outcome.pod.namespace,
        "name": outcome.pod.name,
        "running": outcome.satisfied and not outcome.ended,
        "ended": outcome.ended,
        "reasons": outcome.reasons,
        "waited": outcome.waited,
        "regions": [
            {
                "container": each.container,
                "resource": each.resource,
                "region": each.region,
                "programmed": each.programmed,
                "before": each.before,
                "after": each.after,
                "seconds": each.seconds,
            }
            for each in outcome.prepared
        ],
        "containers": [
            {
                "name": container.container.name,
                "devices": container.devices,
                "env": container.edits.envs,
                "deviceNodes": [
                    {"hostPath": n.host_path, "containerPath": n.container_path, "permissions": n.permissions}
                    for n in container.edits.nodes
                ],
                "mounts": [
                    {"hostPath": m.host_path, "containerPath": m.container_path, "readOnly": m.read_only}
                    for m in container.edits.mounts
                ],
                "annotations": container.edits.annotations,
                "cdiDevices": container.edits.cdi_devices,
            }
            for container in containers
        ],
    }
