"""Whether and how pods of one kind fit, remembered by how nodes look; read `Judgements` first."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from schedext.costs import Costs
from schedext.demand import Demand, Shape, Want
from schedext.look import Look
from schedext.placement import Placement, Refusal
from schedext.placing import place

Judgement: TypeAlias = Placement | Refusal

# Pods of one Deployment or Job are one kind, whatever their names are.
_MOST_KINDS: Final = 256
# Looks come and go with every pod that does; of each kind so many judgements are kept.
_MOST_LOOKS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a demand the devices of a node decide on; demands of one kind are judged alike."""

    shape: Shape
    wants: tuple[Want, ...]

    @property
    def is_empty(self) -> bool:
        return self.shape.is_empty


def kind_of(demand: Demand, is_ours: Callable[[str], bool]) -> Kind:
    """The part of a demand that is about devices which nodes publish; the scheduler itself counts all others."""
    shape, wants = demand.shape, demand.wants
    if all(is_ours(resource) for resource, _ in shape.counts):
        return Kind(shape, wants)
    kept = [(count, largest) for count, largest in zip(shape.counts, shape.largest, strict=True) if is_ours(count[0])]
    reduced = replace(shape, counts=tuple(count for count, _ in kept), largest=tuple(largest for _, largest in kept))
    return Kind(reduced, tuple(want for want in wants if is_ours(want.resource)))


class Judged:
    """What became of one kind of pod on each look, and what it costs there.

    Attributes:
        by_look: The judgement.
        cost: Of the looks that the kind fits on, the seconds lost in an hour and the watts.
    """

    def __init__(self, kind: Kind, costs: Costs) -> None:
        self._kind: Final = kind
        self._costs: Final = costs
        self.by_look: dict[Look, Judgement] = {}
        self.cost: dict[Look, tuple[float, float]] = {}

    def judge(self, look: Look) -> Judgement:
        """Decide on a look that is not in `by_look` yet."""
        if len(self.by_look) >= _MOST_LOOKS:
            self.by_look.clear()
            self.cost.clear()
        made = self.by_look[look] = place(self._kind.shape, self._kind.wants, look, self._costs)
        if isinstance(made, Placement):
            self.cost[look] = (made.total_seconds, made.watts)
        return made


class Judgements:
    """Of the kinds of pods that were asked about last."""

    def __init__(self, costs: Costs) -> None:
        self._costs: Final = costs
        self._kinds: OrderedDict[Kind, Judged] = OrderedDict()

    def of(self, kind: Kind) -> Judged:
        found = self._kinds.get(kind)
        if found is not None:
            self._kinds.move_to_end(kind)
            return found
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.popitem(last=False)
        made = self._kinds[kind] = Judged(kind, self._costs)
        return made
