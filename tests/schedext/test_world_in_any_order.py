"""Whatever happens in whichever order, the world is what counting anew would make of it."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schedext.look import Look, Occupancy
from schedext.tracked import TrackedPod
from schedext.world import NodeFacts
from tasuki.kube.collection import Applied, Deleted, ObjectName, Replaced
from tasuki.kube.placement import Plan, plan_text
from tests.schedext.accelerators import GIB, GPU, gpu_status, holder
from tests.schedext.pods import a_container
from tests.schedext.scenes import START, Scene, kept, on

NAMES = ("n", "m")
DEVICES = 2
OPTIONS = st.fixed_dictionaries(
    {
        "gpus": st.integers(1, DEVICES),
        "replicas": st.integers(1, 2),
        "sick": st.lists(st.integers(0, 1), unique=True),
        "trouble": st.sampled_from(["", "", "away"]),
    }
)


@dataclass
class Modelled:
    """A pod of one container that wants `count` slices, as the API server and we know it."""

    tracked: TrackedPod
    count: int
    memory_bytes: int
    node: str = ""
    bound: tuple[str, ...] = ()
    promised: tuple[str, tuple[str, ...], float] | None = None
    plan: tuple[str, tuple[str, ...], float] | None = None


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whichever order, each node looks as if counted anew from what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.nodes: set[str] = set()
        self.published: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in NAMES}
        self.pods: dict[str, Modelled] = {}
        self.came = 0
        self.last: dict[str, Look] = {}
        self.plan_ended = False
        self.scene.world.take_nodes(Replaced({}))
        self.scene.world.take_accelerators(Replaced({}))
        self.scene.world.take_pods(Replaced({}))

    def pick(self, data: st.DataObject, names: list[str]) -> Modelled:
        return self.pods[data.draw(st.sampled_from(sorted(names)))]

    def chosen(self, data: st.DataObject, node: str, count: int) -> tuple[str, ...]:
        ids = st.sampled_from([f"{node}-{n}" for n in range(DEVICES + 1)])
        return tuple(data.draw(st.lists(ids, min_size=count, max_size=count)))

    def tell(self, pod: Modelled, phase: str = "Pending") -> None:
        name = pod.tracked.name
        options: dict[str, Any] = {"containers": (a_container(gpus=pod.count),), "phase": phase}
        notes = {"tasuki.dev/gpu-memory": str(pod.memory_bytes)} if pod.memory_bytes else {}
        if pod.plan:
            until = (START + timedelta(seconds=pod.plan[2])).isoformat()
            made = {"main": {GPU: dict(Counter(pod.plan[1]))}}
            notes["tasuki.dev/plan"] = plan_text(Plan(node=pod.plan[0], until=until, slices=made))
        slices = on(*pod.bound) if pod.bound else None
        found = self.scene.tracked(name, pod.node, slices, annotations=notes, **options)
        self.scene.world.take_pods(Applied(ObjectName("research", name), found))
        if found is None:
            del self.pods[name]
        else:
            pod.tracked = found
            if pod.node:
                pod.promised = None

    @rule(name=st.sampled_from(NAMES))
    def node_comes(self, name: str) -> None:
        self.nodes.add(name)
        self.scene.put_node(name)

    @rule(name=st.sampled_from(NAMES))
    def node_goes(self, name: str) -> None:
        self.nodes.discard(name)
        self.scene.world.take_nodes(Deleted(ObjectName("", name)))

    @rule(name=st.sampled_from(NAMES), options=OPTIONS, data=st.data())
    def publishes(self, name: str, options: dict[str, Any], data: st.DataObject) -> None:
        there = [pod for pod in self.pods.values() if pod.node == name]
        self.entries[name] = {
            pod.tracked.name: tuple(
                f"{name}-{data.draw(st.integers(0, options['gpus'] - 1))}::{pod.tracked.name}{n}"
                for n in range(pod.count)
            )
            for pod in there
            if data.draw(st.booleans())
        }
        holders = [holder(pod, *slices) for pod, slices in sorted(self.entries[name].items())]
        self.published[name] = options
        self.scene.publish(gpu_status(*holders, node=name, **options), name)

    @rule(name=st.sampled_from(NAMES))
    def publishes_no_longer(self, name: str) -> None:
        self.published.pop(name, None)
        self.entries[name] = {}
        self.scene.world.take_accelerators(Deleted(ObjectName("", name)))

    @rule(count=st.integers(1, 2), memory_bytes=st.sampled_from([0, 5]), plan=st.booleans(), data=st.data())
    def pod_comes(self, count: int, memory_bytes: int, plan: bool, data: st.DataObject) -> None:
        # Each name once: what becomes of a predecessor's entries has its own test.
        self.came += 1
        name = f"p{self.came}"
        made = self.scene.tracked(name)
        assert made is not None
        pod = self.pods[name] = Modelled(made, count, memory_bytes)
        if plan:
            node = data.draw(st.sampled_from(NAMES))
            pod.plan = node, self.chosen(data, node, count), data.draw(st.integers(-10, 700))
        self.tell(pod)

    @precondition(lambda self: any(not pod.node for pod in self.pods.values()))
    @rule(data=st.data(), node=st.sampled_from(NAMES), lasts=st.integers(1, 30))
    def promise(self, data: st.DataObject, node: str, lasts: int) -> None:
        pod = self.pick(data, [name for name, pod in self.pods.items() if not pod.node])
        devices = self.chosen(data, node, pod.count)
        pod.promised = node, devices, self.scene.seconds + lasts
        self.scene.world.reserve(pod.tracked, node, on(*devices), (), lasts)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        pod = self.pick(data, [*self.pods])
        pod.promised = None
        self.scene.world.release(pod.tracked.uid)

    @precondition(lambda self: any(not pod.node for pod in self.pods.values()))
    @rule(data=st.data(), node=st.sampled_from(NAMES), says=st.booleans())
    def bound(self, data: st.DataObject, node: str, says: bool) -> None:
        pod = self.pick(data, [name for name, pod in self.pods.items() if not pod.node])
        pod.node = node
        pod.bound = self.chosen(data, node, pod.count) if says else ()
        self.tell(pod)

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), deleted=st.booleans())
    def ends(self, data: st.DataObject, deleted: bool) -> None:
        pod = self.pick(data, [*self.pods])
        if deleted:
            self.scene.remove_pod(pod.tracked.name)
            del self.pods[pod.tracked.name]
        else:
            self.tell(pod, "Succeeded")

    @rule(seconds=st.sampled_from([1, 10, 300]))
    def time_passes(self, seconds: int) -> None:
        before = self.scene.seconds
        self.scene.seconds += seconds
        self.scene.world.tick()
        ends = (min(pod.plan[2], 600) for pod in self.pods.values() if pod.plan)
        self.plan_ended = any(before < end <= self.scene.seconds for end in ends)
        for pod in self.pods.values():
            if pod.promised and pod.promised[2] <= self.scene.seconds:
                pod.promised = None

    @rule()
    def listed_again(self) -> None:
        kept = {ObjectName("research", name): pod.tracked for name, pod in self.pods.items()}
        self.scene.world.take_pods(Replaced(kept))
        self.scene.world.take_nodes(Replaced({ObjectName("", name): NodeFacts() for name in self.nodes}))

    def model(self, node: str) -> Occupancy:
        """Counted in the plainest way."""
        facts = self.published[node]
        gpus, replicas = facts["gpus"], facts["replicas"]
        ids = [f"{node}-{n}" for n in range(gpus)]
        taken, users, promised, floating = [0] * gpus, [0] * gpus, [0] * gpus, 0
        for name, pod in self.pods.items():
            devices = self.devices(node, name, pod, ids)
            if devices is None:
                continue
            floating += pod.count - len(devices)
            for device, count in Counter(devices).items():
                index = ids.index(device)
                taken[index] += count
                users[index] += 1
                promised[index] += pod.memory_bytes or count * (80 * GIB // replicas)
        return Occupancy(
            healthy=tuple(n not in facts["sick"] for n in range(gpus)),
            loaded=("",) * gpus,
            taken=((GPU, tuple(taken)),) if any(taken) else (),
            floating=((GPU, floating),) if floating else (),
            users=tuple(users),
            promised_bytes=tuple(promised),
        )

    def devices(self, node: str, name: str, pod: Modelled, ids: list[str]) -> tuple[str, ...] | None:
        if pod.node:
            if pod.node != node:
                return None
            if name in self.entries[node]:
                return tuple(slice_id.partition("::")[0] for slice_id in self.entries[node][name])
            return pod.bound if set(pod.bound) <= {*ids} else ()
        if pod.promised:
            return (pod.promised[1] if {*pod.promised[1]} <= {*ids} else ()) if pod.promised[0] == node else None
        if pod.plan and pod.plan[0] == node and self.scene.seconds < min(pod.plan[2], 600):
            return pod.plan[1] if {*pod.plan[1]} <= {*ids} else None
        return None

    @invariant()
    def looks_as_counted_anew(self) -> None:
        assert set(self.scene.world.nodes) == self.nodes
        freed, self.scene.freed[:] = set(self.scene.freed), []
        for name, node in self.scene.world.nodes.items():
            if name not in self.published:
                assert (node.publishes, node.look.layout.parts, node.look.occupancy) == (False, (), Occupancy())
                continue
            assert node.look.occupancy == self.model(name)
            assert bool(node.look.trouble) is bool(self.published[name]["trouble"])
            before = self.last.get(name)
            if before is not None and before is not node.look and not node.look.trouble:
                # Of a look that is all free, without doubt.
                assert room(node.look) <= room(before) or name in freed
            # Only the end of a plan is told of without room: its pod may go elsewhere now.
            assert before is not node.look or name not in freed or name not in self.last or self.plan_ended
        self.plan_ended = False
        self.last = {name: node.look for name, node in self.scene.world.nodes.items()}

    @invariant()
    def equal_looks_are_one(self) -> None:
        looks = [node.look for node in self.scene.world.nodes.values()]
        for one in looks:
            for other in looks:
                alike = (one.layout, one.occupancy, one.trouble) == (other.layout, other.occupancy, other.trouble)
                assert (one is other) is alike

    def teardown(self) -> None:
        for name in [*self.pods]:
            self.scene.remove_pod(name)
        for pod in self.pods.values():
            self.scene.world.release(pod.tracked.uid)
        for name in NAMES:
            self.scene.world.take_accelerators(Deleted(ObjectName("", name)))
        world = self.scene.world

        assert kept(world) == []


def room(look: Look) -> int:
    if look.trouble or GPU not in look.layout.offers:
        return 0
    taken, healthy = look.taken(GPU), look.occupancy.healthy
    free = sum(max(0, cut - taken[part]) for part, cut in look.layout.offers[GPU].devices if healthy[part])
    return max(0, free - look.floating(GPU))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
