"""Whether and at what cost pods of one kind fit, remembered by how nodes look; read `Judgements` first."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from schedext.costs import Costs
from schedext.demand import Demand, Shape, Want
from schedext.look import Look
from schedext.placement import Refusal
from schedext.placing import place

# Pods of one Deployment or Job are one kind, whatever their names are.
_MOST_KINDS: Final = 256
# Of all kinds together, some 200 bytes each. Looks come and go with every pod that does.
_MOST_JUDGEMENTS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a demand the devices of a node decide on; demands of one kind are judged alike."""

    shape: Shape
    wants: tuple[Want, ...]

    @property
    def is_empty(self) -> bool:
        return self.shape.is_empty


class Cost(NamedTuple):
    """What a pod that fits loses in an hour, and draws (0: unknown)."""

    seconds: float
    watts: float


Judgement: TypeAlias = Cost | Refusal


def kind_of(demand: Demand, is_ours: Callable[[str], bool]) -> Kind:
    """The part of a demand that is about devices which nodes publish; the scheduler itself counts all others."""
    shape, wants = demand.shape, demand.wants
    if all(is_ours(resource) for resource, _ in shape.counts):
        return Kind(shape, wants)
    kept = [(count, largest) for count, largest in zip(shape.counts, shape.largest, strict=True) if is_ours(count[0])]
    reduced = replace(shape, counts=tuple(count for count, _ in kept), largest=tuple(largest for _, largest in kept))
    return Kind(reduced, tuple(want for want in wants if is_ours(want.resource)))


class Judgements:
    """Of the kinds of pods that were asked about last."""

    def __init__(self, costs: Costs) -> None:
        self._costs: Final = costs
        self._kinds: OrderedDict[Kind, Judged] = OrderedDict()
        self._count = 0

    def of(self, kind: Kind) -> "Judged":
        found = self._kinds.get(kind)
        if found is not None:
            self._kinds.move_to_end(kind)
            return found
        if len(self._kinds) >= _MOST_KINDS:
            _, oldest = self._kinds.popitem(last=False)
            self._count -= len(oldest.by_look)
        made = self._kinds[kind] = Judged(kind, self)
        return made

    def judge(self, kind: Kind, look: Look) -> Judgement:
        """Anew; counted as one that is kept."""
        if self._count >= _MOST_JUDGEMENTS:
            for each in self._kinds.values():
                each.by_look.clear()
            self._count = 0
        self._count += 1
        found = place(kind.shape, kind.wants, look, self._costs)
        return found if isinstance(found, Refusal) else Cost(found.total_seconds, found.watts)


class Judged:
    """What became of one kind of pod.

    Attributes:
        by_look: Of the looks that were judged; to be read only.
    """

    def __init__(self, kind: Kind, judgements: Judgements) -> None:
        self._kind: Final = kind
        self._judgements: Final = judgements
        self.by_look: Final[dict[Look, Judgement]] = {}

    def judge(self, look: Look) -> Judgement:
        """What it is on this look, whether or not it was judged before."""
        found = self.by_look.get(look)
        if found is None:
            found = self._judgements.judge(self._kind, look)
            self.by_look[look] = found
        return found
