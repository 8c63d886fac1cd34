"""FPGA regions as devices: what all families have in common, their numbering, and those that were seen before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deviceplugin.discovery.fpga_health import health_of
from deviceplugin.discovery.fpga_sysfs import card_order
from deviceplugin.fpga import Region
from tasuki.devices.model import Device, DeviceKind, Place, index_order, unhealthy


@dataclass(frozen=True, slots=True)
class Part:
    """Where a region is and what it is called.

    Attributes:
        card: The card's id.
        id: The region's.
        number: Its position within the card.
    """

    card: str
    id: str
    number: int
    model: str
    place: Place = field(default_factory=Place)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What one family's reading gave.

    Attributes:
        regions: With `0:<number>` as index; they are numbered together later.
        failed: Why regions of a card may be missing, by the card's id.
        folders: What belongs to these cards, besides what is below it.
    """

    regions: tuple[Region, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()


def device(part: Part, reasons: list[str]) -> Device:
    return Device(
        id=part.id,
        kind=DeviceKind.FPGA,
        index=f"0:{part.number}",
        model=part.model,
        memory_bytes=part.memory_bytes,
        health=health_of(reasons),
        place=part.place,
        parent=part.card,
    )


def with_reasons(region: Region, reasons: list[str]) -> Region:
    """The region with more that speaks against it."""
    if not reasons:
        return region
    health = health_of([region.device.health.reason, *reasons])
    return replace(region, device=replace(region.device, health=health), rewritable=False)


class SeenRegions:
    """Every region that was ever read, as it was last: one that is lost is seen as such, never as a smaller machine."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def update(self, found: Sequence[Region], failed: Mapping[str, str]) -> tuple[tuple[Region, ...], tuple[str, ...]]:
        """Add one scan's result to what is known.

        Args:
            found: The regions that were read.
            failed: Why regions of a card could not be, by the card's id.

        Returns:
            All regions in the order of their index, those that are missing marked unhealthy; and one sentence for
            each card in `failed` of which no region was ever seen.
        """
        regions = {region.device.id: region for region in found}
        for region in self._regions.values():
            if region.device.id not in regions:
                reason = failed.get(region.card, "the kernel no longer lists it")
                lost = replace(region.device, health=unhealthy(f"lost: {reason}"))
                regions[lost.id] = replace(region, device=lost, rewritable=False)
        known = {region.card for region in regions.values()}
        self._regions = {region.device.id: region for region in _numbered(list(regions.values()))}
        unreadable = [f"{card} is left out: {reason}" for card, reason in sorted(failed.items()) if card not in known]
        return tuple(self._regions.values()), tuple(unreadable)


def _numbered(regions: list[Region]) -> list[Region]:
    """Number the cards by their PCI addresses, and each card's regions from 0."""
    regions.sort(key=lambda region: (card_order(region.card), index_order(region.device)[1:], region.device.id))
    numbered: list[Region] = []
    card, position, previous = -1, 0, ""
    for region in regions:
        if region.card != previous:
            card, position, previous = card + 1, 0, region.card
        index = f"{card}:{position}"
        numbered.append(replace(region, device=replace(region.device, index=index)))
        position += 1
    return numbered
