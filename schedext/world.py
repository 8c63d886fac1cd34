"""The cluster as the extender sees it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar

from schedext.accounts import NOTHING, Account, Stake
from schedext.demand import ChainName, Edge
from schedext.heartbeats import Heartbeats
from schedext.layouts import Accelerators, Layouts, Looks
from schedext.ledger import has_more_room
from schedext.look import EMPTY_LAYOUT, Look, Occupancy
from schedext.node import Node, PlacedFunction
from schedext.owners import Owners
from schedext.residency import Residency
from schedext.tracked import Demands, Reservation, TrackedPod
from tasuki.kube.cache_node import CacheNodeStatus
from tasuki.kube.collection import Applied, Change, Deleted, ObjectName, Replaced
from tasuki.kube.placement import Slices

T = TypeVar("T")

# Looking at one takes some microseconds, and who belongs to a chain is for users to write.
_MOST_OF_CHAIN: Final = 500


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a Node object."""

    zone: str = ""
    allocatable: Mapping[str, int] = field(default_factory=dict)


class World:
    """Changed in place by the one event loop; whatever is read from it is current.

    Attributes:
        nodes: Of the API server, by name.
        reservations: By the pods' uids.
        residency: Where the buckets of the object cache lie.
        owners: Whose which object of them is.
        layouts: For whoever reads AcceleratorNodes for this world.
        demands: For whoever reads pods for this world.
    """

    def __init__(
        self, monotonic: Callable[[], float], now: Callable[[], datetime], room_freed: Callable[[str], None]
    ) -> None:
        """Begin with nothing.

        Args:
            monotonic: For reservations, and for how long a cache has said nothing.
            now: For plans, and for how old a cache's first report is.
            room_freed: Told a node's name when a pod may fit there that did not before.
        """
        self.nodes: Final[dict[str, Node]] = {}
        self.reservations: Final[dict[str, Reservation]] = {}
        self.residency: Final = Residency()
        self.owners: Final = Owners()
        self.layouts: Final = Layouts()
        self.demands: Final = Demands()
        self._monotonic: Final = monotonic
        self._now: Final = now
        self._room_freed: Final = room_freed
        self._looks: Final = Looks()
        self._empty_look: Final = self._looks.look(EMPTY_LAYOUT, Occupancy())
        self._accounts: Final[dict[str, Account]] = {}
        self._offered: Final = Counter[str]()
        self._named: Final[dict[ObjectName, TrackedPod]] = {}
        self._pods: Final[dict[str, TrackedPod]] = {}
        self._waiting: Final[dict[str, TrackedPod]] = {}
        # Of each chain the pods' uids, in the order in which they came.
        self._chains: Final[dict[ChainName, dict[str, None]]] = {}
        self._chain_of: Final[dict[str, ChainName]] = {}
        # By pod; it counts on one node at most.
        self._stakes: Final[dict[str, Stake]] = {}
        # Pods that count where they are planned: their plans end by themselves.
        self._planned: Final[dict[str, TrackedPod]] = {}
        self._moment = 0
        self._stale: Final[set[str]] = set()
        self._heartbeats: Final = Heartbeats(monotonic, now)
        self._seen: Final[set[str]] = set()

    @property
    def resources(self) -> Collection[str]:
        """Those that any node offers, or would with other functions in its FPGAs."""
        return self._offered.keys()

    def pod(self, uid: str) -> TrackedPod | None:
        return self._pods.get(uid)

    def named(self, namespace: str, name: str) -> TrackedPod | None:
        return self._named.get(ObjectName(namespace, name))

    def waiting(self) -> Iterator[TrackedPod]:
        """Pods that are bound to no node, in the order in which they came."""
        return iter(self._waiting.values())

    def reservation(self, uid: str) -> Reservation | None:
        return self.reservations.get(uid)

    def placed(self, chain: ChainName) -> Sequence[PlacedFunction]:
        """The chain's pods that have a node, or one kept for them; sorted by function, and of very many the first."""
        found: list[PlacedFunction] = []
        for uid in self._chains.get(chain, ()):
            if len(found) == _MOST_OF_CHAIN:
                break
            stake = self._stakes.get(uid)
            place = stake.pod.demand.chain if stake is not None else None
            if stake is not None and place is not None and stake.node in self.nodes:
                parts = self._accounts[stake.node].charge(uid).parts
                found.append(PlacedFunction(uid, place.function, stake.node, parts))
        return sorted(found, key=lambda each: (each.function, each.uid))

    def declared_edges(self, chain: ChainName) -> Mapping[str, tuple[Edge, ...]]:
        """By function; of pods that differ the one that came first counts. Of very many pods only the first."""
        declared: dict[str, tuple[Edge, ...]] = {}
        for uid in islice(self._chains.get(chain, ()), _MOST_OF_CHAIN):
            pod = self._subject(uid)
            place = pod.demand.chain if pod is not None else None
            if place is not None and place.edges is not None:
                declared.setdefault(place.function, place.edges)
        return declared

    def look_without(self, node: str, uids: Collection[str]) -> Look:
        """How a node would look if these pods were gone."""
        account = self._accounts.get(node)
        if account is not None and account.accelerators is not NOTHING and account.has_any(uids):
            return account.look(self._looks, set(uids))
        return self.nodes[node].look if node in self.nodes else self._empty_look

    def reserve(
        self, pod: TrackedPod, node: str, slices: Slices, visible: tuple[str, ...], lasts_seconds: float
    ) -> None:
        """Promise a place to a pod until it is seen bound, at most for so long; replaces an earlier promise."""
        self._moment += 1
        self.reservations[pod.uid] = Reservation(pod, node, slices, visible, self._monotonic() + lasts_seconds)
        self._settle(pod.uid)
        self._refresh()

    def release(self, uid: str) -> None:
        """Take a promise back; the pod itself is not affected."""
        self._moment += 1
        if self.reservations.pop(uid, None) is not None:
            self._settle(uid)
        self._refresh()

    def tick(self) -> None:
        """Let end what ends by itself: promises, plans, and what caches said that say nothing any more."""
        self._moment += 1
        monotonic, now = self._monotonic(), self._now()
        for uid in [uid for uid, each in self.reservations.items() if each.expires_at <= monotonic]:
            del self.reservations[uid]
            self._settle(uid)
        ended = [uid for uid, pod in self._planned.items() if not _is_planned(pod, now)]
        planned = {self._stakes[uid].node for uid in ended}
        for node in self._heartbeats.fallen_silent():
            self._apply_cache(node, None)
        for uid in ended:
            self._settle(uid)
        # Its pod may go elsewhere now, even if nothing was kept for it; any node will do to tell of that.
        self._refresh(freed=sorted(planned & self.nodes.keys()) or [*self.nodes][:1] if planned else ())

    def take_nodes(self, change: Change[NodeFacts]) -> None:
        first = self._begin("nodes", change)
        for name, facts in _each(change, (ObjectName("", node) for node in self.nodes)):
            if facts is not None:
                self._apply_node(name.name, facts)
            else:
                self.nodes.pop(name.name, None)
        self._refresh(quietly=first)

    def take_accelerators(self, change: Change[Accelerators | None]) -> None:
        first = self._begin("accelerators", change)
        known = (ObjectName("", n) for n, each in self._accounts.items() if each.accelerators is not NOTHING)
        for name, accelerators in _each(change, known):
            self._apply_accelerators(name.name, accelerators or NOTHING)
        self._refresh(quietly=first)

    def take_pods(self, change: Change[TrackedPod | None]) -> None:
        first = self._begin("pods", change)
        moment = 0 if first else self._moment
        for name, pod in _each(change, self._named):
            self._apply_pod(name, pod, moment)
        self._refresh(quietly=first)

    def take_caches(self, change: Change[CacheNodeStatus | None]) -> None:
        for name, status in _each(change, (ObjectName("", node) for node in self._heartbeats.known)):
            self._apply_cache(name.name, self._heartbeats.take(name.name, status))

    def _begin(self, what: str, change: Change[T]) -> bool:
        """Whether this is the collection's first list."""
        self._moment += 1
        first = isinstance(change, Replaced) and what not in self._seen
        self._seen.add(what)
        return first

    def _apply_node(self, name: str, facts: NodeFacts) -> None:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node(name, self._empty_look)
            self._stale.add(name)
        node.zone = facts.zone
        node.allocatable = facts.allocatable

    def _apply_cache(self, node: str, status: CacheNodeStatus | None) -> None:
        self.residency.apply(node, status)
        self.owners.apply(node, status)

    def _apply_accelerators(self, name: str, accelerators: Accelerators) -> None:
        account = self._accounts.setdefault(name, Account())
        # Even of a node that is not there, whose account goes again when it is looked at.
        self._stale.add(name)
        if accelerators == account.accelerators:
            return
        before = account.offered
        account.take(accelerators, self._moment)
        self._offered.update(account.offered - before)
        for resource in before - account.offered:
            self._offered[resource] -= 1
            if not self._offered[resource]:
                del self._offered[resource]

    def _apply_pod(self, name: ObjectName, pod: TrackedPod | None, moment: int) -> None:
        before = self._named.get(name)
        if before == pod:
            return
        if before is not None and (pod is None or pod.uid != before.uid):
            self._drop(name, before)
        if pod is None:
            return
        self._named[name] = self._pods[pod.uid] = pod
        if pod.node:
            self._waiting.pop(pod.uid, None)
            self.reservations.pop(pod.uid, None)
        else:
            self._waiting[pod.uid] = pod
        self._settle(pod.uid, moment)

    def _drop(self, name: ObjectName, pod: TrackedPod) -> None:
        del self._named[name]
        self._pods.pop(pod.uid, None)
        self._waiting.pop(pod.uid, None)
        self.reservations.pop(pod.uid, None)
        self._settle(pod.uid)

    def _subject(self, uid: str) -> TrackedPod | None:
        """As the API server has it; of one that it has not told of yet, as it was promised a place."""
        if (pod := self._pods.get(uid)) is not None:
            return pod
        reservation = self.reservations.get(uid)
        return reservation.pod if reservation is not None else None

    def _settle(self, uid: str, moment: int | None = None) -> None:
        """Let a pod count where it belongs now: it has changed, or what was kept for it has."""
        old = self._stakes.get(uid)
        stake = self._stake(uid, old, self._moment if moment is None else moment)
        if old is not None and (stake is None or stake.node != old.node):
            self._accounts[old.node].remove(uid)
            self._stale.add(old.node)
            del self._stakes[uid]
        self._planned.pop(uid, None)
        if stake is not None:
            self._stakes[uid] = stake
            self._accounts.setdefault(stake.node, Account()).put(uid, stake)
            self._stale.add(stake.node)
            if stake.is_plan:
                self._planned[uid] = stake.pod
        self._enchain(uid)

    def _stake(self, uid: str, old: Stake | None, moment: int) -> Stake | None:
        """Where a pod counts, once: being bound goes before a promise, and that before a plan."""
        pod, reservation = self._pods.get(uid), self.reservations.get(uid)
        plan = pod.demand.plan if pod is not None and _is_planned(pod, self._now()) else None
        if pod is not None and pod.node:
            stake = Stake(pod, pod.node, moment, pod.slices, pod.visible)
        elif reservation is not None:
            stake = Stake(reservation.pod, reservation.node, moment, reservation.slices, reservation.visible)
        elif pod is not None and plan is not None:
            stake = Stake(pod, plan.node, moment, plan.slices, is_plan=True)
        else:
            return None
        return replace(stake, since=old.since) if old is not None and old.node == stake.node else stake

    def _enchain(self, uid: str) -> None:
        subject = self._subject(uid)
        chain = subject.demand.chain.name if subject is not None and subject.demand.chain is not None else None
        if (old := self._chain_of.get(uid)) == chain:
            return
        if old is not None:
            del self._chain_of[uid]
            del self._chains[old][uid]
            if not self._chains[old]:
                del self._chains[old]
        if chain is not None:
            self._chain_of[uid] = chain
            self._chains.setdefault(chain, {})[uid] = None

    def _refresh(self, *, quietly: bool = False, freed: Iterable[str] = ()) -> None:
        """Look anew at the nodes that something changed of, and tell of those with more room, and of those given."""
        found = set(freed)
        for name in sorted(self._stale):
            account = self._accounts.get(name)
            if account is not None and account.is_idle:
                del self._accounts[name]
                account = None
            node = self.nodes.get(name)
            if node is None:
                continue
            before = node.look
            if account is None or account.accelerators is NOTHING:
                node.publishes, node.device_ids, node.look = False, (), self._empty_look
            else:
                node.publishes, node.device_ids = True, account.accelerators.device_ids
                node.look = account.look(self._looks)
            if has_more_room(node.look, before):
                found.add(name)
        self._stale.clear()
        for name in sorted(found) if not quietly else ():
            self._room_freed(name)


def _is_planned(pod: TrackedPod, now: datetime) -> bool:
    return pod.planned_until is not None and now < pod.planned_until


def _each(change: Change[T], known: Iterable[ObjectName]) -> Iterable[tuple[ObjectName, T | None]]:
    """What a change comes down to, object by object; None for those that are gone."""
    match change:
        case Replaced(objects):
            gone = [name for name in known if name not in objects]
            return [*((name, None) for name in gone), *objects.items()]
        case Applied(name, found):
            return [(name, found)]
        case Deleted(name):
            return [(name, None)]
