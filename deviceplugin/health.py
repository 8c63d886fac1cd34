"""Which devices may be handed out, from the faults that the driver reports and the probes that follow."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from deviceplugin.machine import Gpu, Machine
from tasuki.devices.model import Device, Health, unhealthy


@dataclass(frozen=True, slots=True)
class Fault:
    """One report of the driver.

    Attributes:
        device: The physical device's id; None where the driver could not say which, so that it may be any.
        gi: The GPU instance that it happened in; None if it is the whole GPU's.
        ci: The compute instance; None if it is the whole GPU instance's.
        xid: NVIDIA's error number; None for a fault that is none, such as a GPU that does not answer.
    """

    device: str | None
    reason: str
    xid: int | None = None
    gi: int | None = None
    ci: int | None = None


# Errors of an application, after which the GPU is as good as before; the peer's list (NVIDIA's device plugin,
# internal/rm/health.go; the numbers' meanings: https://docs.nvidia.com/deploy/xid-errors/).
APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})

_ALL_WORDS: Final = frozenset({"all", "xids"})


class XidListError(ValueError):
    """A list of XIDs holds something else."""


@dataclass(frozen=True, slots=True)
class XidFilter:
    """Which XIDs make a device unhealthy.

    Attributes:
        ignored: Besides these, all do; or, if `only_enabled`, none does but `enabled`.
        enabled: These do, whatever else is said.
    """

    ignored: frozenset[int] = APPLICATION_XIDS
    enabled: frozenset[int] = frozenset()
    only_enabled: bool = False

    def is_critical(self, xid: int) -> bool:
        if xid in self.enabled:
            return True
        return not self.only_enabled and xid not in self.ignored


def xid_filter(disabled: str, enabled: str) -> XidFilter:
    """Read DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS as NVIDIA documents them.

    Each is a comma-separated list of XIDs; `all` (or `xids`) stands for every one. What is enabled wins.

    Raises:
        XidListError: An entry is neither a number nor one of the words.
    """
    off, all_off = _xids("DP_DISABLE_HEALTHCHECKS", disabled)
    on, all_on = _xids("DP_ENABLE_HEALTHCHECKS", enabled)
    if all_on:
        return XidFilter(ignored=frozenset(), enabled=on)
    return XidFilter(ignored=(APPLICATION_XIDS | off) - on, enabled=on, only_enabled=all_off)


def _xids(variable: str, text: str) -> tuple[frozenset[int], bool]:
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    numbers = [word for word in words if word not in _ALL_WORDS]
    wrong = [word for word in numbers if not (word.isascii() and word.isdigit())]
    if wrong:
        raise XidListError(f"{variable}: {wrong[0]!r} is not an XID; write numbers separated by commas, or all")
    return frozenset(map(int, numbers)), len(numbers) < len(words)


@dataclass(frozen=True, slots=True)
class Ailment:
    """Why something is not handed out, and for how long it has looked well since.

    Attributes:
        well_since: When the probes began to find nothing, on the caller's clock; None while they find something.
    """

    reason: str
    well_since: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What an ailment is about: a physical device, one of a GPU's GPU instances, or one compute instance of that."""

    device: str
    gi: int | None = None
    ci: int | None = None

    def includes(self, gi: int, ci: int) -> bool:
        return self.gi in (None, gi) and self.ci in (None, ci)


@dataclass(frozen=True, slots=True)
class HealthBook:
    """All ailments of a node; a new book for each change."""

    ailments: Mapping[Part, Ailment] = field(default_factory=dict)

    @property
    def ailing(self) -> tuple[str, ...]:
        """The physical devices, in order."""
        return tuple(sorted({part.device for part in self.ailments}))


def record(book: HealthBook, fault: Fault, present: Collection[str], critical: XidFilter) -> HealthBook:
    """Write down a fault, unless it is an application's own. An older ailment of the part starts over.

    `present` are the ids of all physical devices.
    """
    if fault.xid is not None and not critical.is_critical(fault.xid):
        return book
    # Where the driver cannot say which device it was, every one may be it.
    devices = present if fault.device is None else [fault.device]
    new = {Part(device, fault.gi, fault.ci): Ailment(fault.reason) for device in devices}
    return HealthBook({**book.ailments, **new})


def probed(book: HealthBook, device: str, finding: str, now: float, recovery_seconds: float) -> HealthBook:
    """Take in a probe's finding (empty if it found nothing) and end what has been well for long enough.

    That a device answers proves little: after most faults it does. So one probe that finds something starts the
    probation over, and `recovery_seconds` of 0 never ends it.
    """
    ailments = dict(book.ailments)
    for part, ailment in book.ailments.items():
        if part.device != device:
            continue
        if finding:
            ailments[part] = replace(ailment, well_since=None)
        elif ailment.well_since is None:
            ailments[part] = replace(ailment, well_since=now)
        elif recovery_seconds > 0 and now - ailment.well_since >= recovery_seconds:
            del ailments[part]
    return HealthBook(ailments)


def without_lost_parts(book: HealthBook, before: Machine, after: Machine) -> HealthBook:
    """The book without ailments of MIG devices that were taken apart; others may bear their numbers now."""

    def devices(part: Part, machine: Machine) -> set[str]:
        return {
            instance.device.id
            for gpu in machine.gpus
            if gpu.device.id == part.device
            for instance in gpu.mig
            if part.includes(instance.gi, instance.ci)
        }

    return HealthBook(
        {
            part: ailment
            for part, ailment in book.ailments.items()
            if part.gi is None or not devices(part, before).isdisjoint(devices(part, after))
        }
    )


def judged(machine: Machine, book: HealthBook) -> Machine:
    """The machine with each device's health as the book tells, on top of what the scan itself found."""
    return replace(machine, gpus=tuple(_judged_gpu(gpu, book) for gpu in machine.gpus))


def _judged_gpu(gpu: Gpu, book: HealthBook) -> Gpu:
    mine = sorted(
        ((part, ailment) for part, ailment in book.ailments.items() if part.device == gpu.device.id),
        key=lambda item: (item[0].gi is not None, item[0].ci is not None, item[0].gi or 0, item[0].ci or 0),
    )
    # A whole GPU is handed out as one, so a fault in any part of it counts against it.
    health = _first(gpu.device.health, [ailment for _, ailment in mine])
    whole = _first(gpu.device.health, [ailment for part, ailment in mine if part.gi is None])
    instances = tuple(
        replace(
            instance,
            device=replace(
                instance.device,
                health=_first(
                    whole if not whole.healthy else instance.device.health,
                    [ailment for part, ailment in mine if part.includes(instance.gi, instance.ci)],
                ),
            ),
        )
        for instance in gpu.mig
    )
    return replace(gpu, device=replace(gpu.device, health=health), mig=instances)


def _first(found: Health, ailments: list[Ailment]) -> Health:
    if not found.healthy or not ailments:
        return found
    return unhealthy(ailments[0].reason)


def judged_device(device: Device, book: HealthBook) -> Device:
    """A device that has no parts of its own, with its health as the book tells of the physical one."""
    ailments = [ailment for part, ailment in book.ailments.items() if part.device == device.physical]
    return replace(device, health=_first(device.health, ailments))


def all_unhealthy(machine: Machine, reason: str) -> Machine:
    """The machine as it was last seen, with nothing of it to be handed out."""
    sick = unhealthy(reason)
    return replace(
        machine,
        gpus=tuple(
            replace(
                gpu,
                device=replace(gpu.device, health=sick),
                mig=tuple(replace(i, device=replace(i.device, health=sick)) for i in gpu.mig),
            )
            for gpu in machine.gpus
        ),
    )
