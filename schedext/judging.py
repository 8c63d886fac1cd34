"""Whether and at what cost pods of one shape fit, remembered by how nodes look; read `Judgements` first."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from schedext.costs import Costs
from schedext.demand import Demand, Shape, Turn, Want
from schedext.look import Look
from schedext.node import Node
from schedext.placement import Refusal
from schedext.placing import place

# Pods of one Deployment or Job are of one shape, and mostly those of many are.
_MOST_SHAPES: Final = 256
# Of all shapes together, some 200 bytes each, and a kilobyte more for a look that no node has any more.
_MOST_JUDGEMENTS: Final = 200_000
_FEWEST_JUDGEMENTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a demand the devices of a node decide on.

    Attributes:
        shape: All that judging looks at.
        wants: Who gets which of the devices.
    """

    shape: Shape
    wants: tuple[Want, ...]

    @property
    def is_empty(self) -> bool:
        return self.shape.is_empty

    @property
    def as_one(self) -> tuple[Want, ...]:
        """What one container would want that stood for all."""
        return tuple(Want("", Turn.MAIN, resource, count) for resource, count in self.shape.counts)


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
    """Of the shapes that were asked about last.

    Args:
        costs: By which pods are judged.
        nodes: Whose looks are worth remembering: others come and go with every pod that does.
    """

    def __init__(self, costs: Costs, nodes: Mapping[str, Node]) -> None:
        self._costs: Final = costs
        self._nodes: Final = nodes
        self._shapes: OrderedDict[Shape, Judged] = OrderedDict()
        self._count = 0
        self._most = _FEWEST_JUDGEMENTS

    def of(self, shape: Shape) -> "Judged":
        found = self._shapes.get(shape)
        if found is not None:
            self._shapes.move_to_end(shape)
            return found
        if len(self._shapes) >= _MOST_SHAPES:
            self._forget_oldest()
        made = self._shapes[shape] = Judged(shape, self)
        return made

    def judge(self, shape: Shape, look: Look) -> Judgement:
        """Anew; counted as one that is kept."""
        if self._count >= self._most:
            self._make_room()
        self._count += 1
        # Which container gets which slice makes no difference here, and of containers there may be thousands.
        found = place(shape, (), look, self._costs)
        return found if isinstance(found, Refusal) else Cost(found.total_seconds, found.watts)

    def _make_room(self) -> None:
        """So seldom that it takes a small part of the time that judging takes."""
        looks = {node.look for node in self._nodes.values()}
        for each in self._shapes.values():
            each.keep(looks)
        self._count = sum(len(each.by_look) for each in self._shapes.values())
        while self._count > _MOST_JUDGEMENTS // 2:
            self._forget_oldest()
        self._most = max(_FEWEST_JUDGEMENTS, 2 * self._count)

    def _forget_oldest(self) -> None:
        _, oldest = self._shapes.popitem(last=False)
        self._count -= len(oldest.by_look)


class Judged:
    """What became of pods of one shape.

    Attributes:
        by_look: Of the looks that were judged; to be read only.
    """

    def __init__(self, shape: Shape, judgements: Judgements) -> None:
        self._shape: Final = shape
        self._judgements: Final = judgements
        self.by_look: Final[dict[Look, Judgement]] = {}

    def judge(self, look: Look) -> Judgement:
        """What it is on this look, whether or not it was judged before."""
        found = self.by_look.get(look)
        if found is None:
            found = self._judgements.judge(self._shape, look)
            self.by_look[look] = found
        return found

    def keep(self, looks: set[Look]) -> None:
        """Forget all others."""
        for look in self.by_look.keys() - looks:
            del self.by_look[look]
