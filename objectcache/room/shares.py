"""How a disk is divided between buckets that want more than there is: weighted max-min fairness."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

# A weight is counted in millionths: whole numbers, so that the same buckets always get the same bytes.
_STEPS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Demand:
    """What one bucket asks of the disk.

    Attributes:
        wanted_bytes: It holds, or would like to hold.
        quota_bytes: It may hold.
        weight: Of its share; more than 0.

    Raises:
        ValueError: If bytes are negative or the weight is none.
    """

    wanted_bytes: int
    quota_bytes: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.wanted_bytes < 0 or self.quota_bytes < 0:
            raise ValueError(
                f"{self.wanted_bytes} bytes wanted of a quota of {self.quota_bytes}: neither may be below 0"
            )
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight {self.weight}: give a number above 0")

    @property
    def most_bytes(self) -> int:
        """It can use."""
        return min(self.wanted_bytes, self.quota_bytes)


def fair_shares(capacity_bytes: int, demands: Mapping[int, Demand]) -> dict[int, int]:
    """Each bucket's share in bytes.

    No share exceeds its demand or quota; what a bucket leaves goes to those that want more, by weight. So no share
    can grow but by taking from a bucket that has no more per weight (max-min fairness by filling up: Bertsekas and
    Gallager, Data Networks, 6.5.2). Single bytes that do not divide go to the lowest numbers. O(B log B).

    Args:
        capacity_bytes: To be divided; below 0 counts as 0.
        demands: By bucket number.
    """
    steps = {number: max(1, round(demand.weight * _STEPS)) for number, demand in demands.items()}
    left, weight = max(0, capacity_bytes), sum(steps.values())
    shares: dict[int, int] = {}
    # Who needs least per weight is satisfied first; the shift keeps apart whatever differs, up to weights of a million.
    order = sorted(demands, key=lambda number: ((demands[number].most_bytes << 96) // steps[number], number))
    for place, number in enumerate(order):
        most = demands[number].most_bytes
        if most * weight > left * steps[number]:
            return shares | _divided(left, {each: steps[each] for each in order[place:]}, demands)
        shares[number] = most
        left -= most
        weight -= steps[number]
    return shares


def _divided(left: int, steps: Mapping[int, int], demands: Mapping[int, Demand]) -> dict[int, int]:
    """In proportion, among buckets of which none has enough."""
    weight = sum(steps.values())
    shares = {number: min(demands[number].most_bytes, left * step // weight) for number, step in steps.items()}
    over = left - sum(shares.values())
    for number in sorted(steps):
        given = min(over, 1, demands[number].most_bytes - shares[number])
        shares[number] += given
        over -= given
    return shares
