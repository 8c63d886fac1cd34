"""What each kind of accelerator brings to the one life cycle: how it is found, judged, offered and handed out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from deviceplugin.config.model import Config
from deviceplugin.health import Fault, HealthBook
from deviceplugin.machine import Machine
from deviceplugin.node_status import Loaded
from deviceplugin.offers import Grant, Start, refuse_all
from deviceplugin.resources import Resource
from tasuki.devices.model import Device
from tasuki.devices.preference import POLICIES, Policy

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Offered:
    """All that one kind offers at one moment.

    Attributes:
        devices: Every device, with its health as judged.
        resources: With slices of these devices.
        grant: How slices are handed out; runs in the event loop.
        policy: Which slices of a resource are preferred.
        start: None if nothing has to be done before a container starts.
        problems: Sentences for the operator on what is left out, and why.
        misfits: Where the configuration speaks of devices that are not there; a new configuration with misfits is
            refused.
        trouble: Why none of the devices can be handed out at present; empty if they can.
        waiting: What must be known before any can be handed out, as usual for a moment after a start; empty if it is.
        loaded: By device id.
        labels: For the node, besides those of GPUs.
        machine: The GPUs' machine, with their health as judged; empty for another kind.
    """

    devices: tuple[Device, ...]
    resources: tuple[Resource, ...]
    grant: Grant
    policy: Callable[[Resource], Policy]
    start: Start | None = None
    problems: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    trouble: str = ""
    waiting: str = ""
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)


def nothing_offered(trouble: str) -> Offered:
    """What a kind offers of which nothing was ever found, because of this trouble."""
    return Offered((), (), refuse_all(trouble), lambda _: POLICIES["distributed"], trouble=trouble)


class Kind(Protocol[Found]):
    """One kind of accelerator. `Found` is what its scans find.

    The methods up to `close` block, and each is called from a worker thread; never two at once but for
    `wait_for_faults`. A kind whose offers change without a scan (a claim by Allocate) is given a callback for that.
    """

    @property
    def name(self) -> str: ...

    def scan(self) -> Found:
        """Look at every device afresh.

        Raises:
            DriverUnavailableError: Nothing could be read at all.
        """

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        """Faults since the last call, as soon as there is one; an empty list after the timeout, never before.

        Raises:
            DriverUnavailableError: Faults cannot be waited for at present.
        """

    def probe(self, device: str) -> str:
        """Look for reasons why a physical device should still not be used; empty if there is none."""

    def plan(self, found: Found, book: HealthBook, config: Config, trouble: str) -> Offered:
        """What is offered of a scan's findings; may look at files, and write some.

        `trouble` says why the driver is away, so that nothing can be handed out; it is empty if it is not.
        """

    def close(self) -> None:
        """Let go of the driver."""

    def check(self, found: Found, config: Config) -> tuple[str, ...]:
        """The misfits of a configuration that is not in force yet; changes nothing."""

    def settled(self, book: HealthBook, before: Found, after: Found) -> HealthBook:
        """The book without ailments of what is no longer there, after another scan."""

    def devices(self, found: Found) -> tuple[Device, ...]:
        """Every device of a scan, with its health as found."""
