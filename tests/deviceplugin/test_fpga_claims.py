"""Claims on regions: how they are made, what ends them, and that no region ever serves two functions at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from deviceplugin.config.model import FpgaOptions
from deviceplugin.fpga import Region
from deviceplugin.fpga_claims import (
    ABSENT_FOR_SECONDS,
    LISTED_AFTER_SECONDS,
    Claim,
    Held,
    Knowledge,
    Ledger,
    RegionHeldError,
    User,
    Wanted,
    allocated,
    blinded,
    held_regions,
    others_running,
    programming,
    released,
    reserved,
    resumed,
    rolled_back,
    running,
    seen,
)
from deviceplugin.fpga_plan import FpgaPlan, Means, may_run, plan
from deviceplugin.node_status import Holder
from tests.fpga_builders import RESIZE, SHARPEN, a_catalogue, a_region, an_implementation, some_fpgas

A = "fpga.tasuki.dev/a"
B = "fpga.tasuki.dev/b"
REGIONS = frozenset({"r0", "r1"})
KNOWN = Ledger(knowledge=Knowledge.KNOWN, judged=REGIONS)
LATER = LISTED_AFTER_SECONDS + 1


def wanted(*slice_ids: str, users: int = 4) -> tuple[Wanted, ...]:
    regions = dict.fromkeys(slice_id.partition("::")[0] for slice_id in slice_ids)
    return tuple(
        Wanted(region, frozenset(s for s in slice_ids if s.startswith(f"{region}::")), users) for region in regions
    )


def held(resource: str, *slice_ids: str, running: bool = True, fits: bool = False) -> Held:
    return Held(slice_ids[0].partition("::")[0], resource, frozenset(slice_ids), running, fits)


def test_the_first_container_claims_a_region() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0"), 1.0)

    assert ledger.claims == {"r0": Claim(A, (User(frozenset({"r0::0"}), 1.0),))}


def test_another_function_is_refused_and_told_who_holds_it() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0"), 1.0)

    with pytest.raises(RegionHeldError, match=f"region r0 is held under {A} by a container; it can serve {B} once"):
        allocated(ledger, B, wanted("r0::1"), 2.0)


def test_containers_share_a_region_up_to_its_users() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0", users=2), 1.0)
    ledger = allocated(ledger, A, wanted("r0::1", users=2), 2.0)

    assert len(ledger.claims["r0"].users) == 2
    with pytest.raises(RegionHeldError, match=f"held by 2 containers, which is as many as {A} allows"):
        allocated(ledger, A, wanted("r0::2", users=2), 3.0)


def test_one_container_may_hold_several_channels() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0", "r0::1", "r1::0", users=1), 1.0)

    assert {region: len(claim.users) for region, claim in ledger.claims.items()} == {"r0": 1, "r1": 1}


def test_a_request_that_is_refused_claims_nothing() -> None:
    ledger = allocated(KNOWN, A, wanted("r1::0"), 1.0)

    with pytest.raises(RegionHeldError):
        allocated(ledger, B, wanted("r0::0", "r1::1"), 2.0)

    assert set(ledger.claims) == {"r1"}


def test_a_slice_that_is_handed_out_again_was_given_back() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0", users=1), 1.0)
    ledger = allocated(ledger, A, wanted("r0::0", users=1), 2.0)

    assert ledger.claims["r0"].users == (User(frozenset({"r0::0"}), 2.0),)


class TestTheKubeletsList:
    def test_a_claim_that_it_has_stays(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)

        ledger, _ = seen(ledger, [held(A, "r0::0")], 100.0, REGIONS)

        assert set(ledger.claims) == {"r0"}

    def test_a_claim_that_it_lacks_twice_ends(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)

        once, _ = seen(ledger, [], LATER, REGIONS)
        twice, _ = seen(once, [], LATER + ABSENT_FOR_SECONDS, REGIONS)

        assert set(once.claims) == {"r0"}
        assert twice.claims == {}

    def test_a_claim_that_it_lacks_once_was_missed_by_a_kubelet_that_starts(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)

        ledger, _ = seen(ledger, [], LATER, REGIONS)
        ledger, _ = seen(ledger, [held(A, "r0::0")], LATER + 1, REGIONS)
        ledger, _ = seen(ledger, [], LATER + ABSENT_FOR_SECONDS + 1, REGIONS)

        assert set(ledger.claims) == {"r0"}

    def test_a_claim_that_it_lacks_for_a_moment_stays(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)

        ledger, _ = seen(ledger, [], LATER, REGIONS)
        ledger, _ = seen(ledger, [], LATER + ABSENT_FOR_SECONDS - 0.1, REGIONS)

        assert set(ledger.claims) == {"r0"}

    def test_a_list_from_before_a_claim_says_nothing_of_it(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 10.0)

        ledger, _ = seen(ledger, [], 10.0, REGIONS)
        ledger, _ = seen(ledger, [], 10.0 + LISTED_AFTER_SECONDS - 0.1, REGIONS)

        assert ledger.claims["r0"].users[0].absent_since is None

    def test_each_user_ends_by_itself(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)
        ledger = allocated(ledger, A, wanted("r0::1"), 0.0)

        ledger, _ = seen(ledger, [held(A, "r0::1")], LATER, REGIONS)
        ledger, _ = seen(ledger, [held(A, "r0::1")], LATER + ABSENT_FOR_SECONDS, REGIONS)

        assert ledger.claims["r0"].slice_ids == {"r0::1"}

    def test_a_holder_of_another_resource_does_not_keep_a_claim(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)

        ledger, conflicts = seen(ledger, [held(B, "r0::0")], LATER, REGIONS)

        assert ledger.claims["r0"].resource == A
        assert (
            f"region r0 is held under {A}, but the kubelet also has a container that holds it under {B}" in conflicts[0]
        )

    def test_a_conflict_is_told_once(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)
        both = [held(A, "r0::0"), held(B, "r0::0")]

        ledger, first = seen(ledger, both, LATER, REGIONS)
        _, second = seen(ledger, both, LATER + 1, REGIONS)

        assert (len(first), second) == (1, ())

    def test_what_was_given_before_the_process_began_is_learned(self) -> None:
        ledger, _ = seen(Ledger(), [held(A, "r0::0", running=True), held(B, "r1::0", running=False)], 7.0, REGIONS)

        assert ledger.knowledge is Knowledge.KNOWN
        assert ledger.claims == {
            "r0": Claim(A, (User(frozenset({"r0::0"}), 7.0, running=True),)),
            "r1": Claim(B, (User(frozenset({"r1::0"}), 7.0, running=False),)),
        }

    def test_of_two_that_hold_a_region_the_one_that_is_loaded_is_right(self) -> None:
        ledger, conflicts = seen(Ledger(), [held(A, "r0::0"), held(B, "r0::0", fits=True)], 7.0, REGIONS)

        assert ledger.claims["r0"].resource == B
        assert len(conflicts) == 1

    def test_a_claim_takes_a_region_out_of_reserve(self) -> None:
        ledger, _ = seen(reserved(KNOWN, "r0", B), [held(A, "r0::0")], 7.0, REGIONS)

        assert ledger.reserved == {}

    def test_regions_that_were_there_are_judged(self) -> None:
        ledger, _ = seen(Ledger(), [], 7.0, {"r0"})

        assert (ledger.unjudged("r0"), ledger.unjudged("r1")) == (False, True)
        assert not Ledger().unjudged("r0")


class TestRollingBack:
    def test_the_regions_of_a_failed_container_are_free_again(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0", "r1::0"), 0.0)

        ledger = rolled_back(ledger, A, wanted("r0::0", "r1::0"))

        assert ledger.claims == {}
        assert allocated(ledger, B, wanted("r0::0"), 1.0).claims["r0"].resource == B

    def test_other_users_of_a_region_keep_it(self) -> None:
        ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)
        ledger = allocated(ledger, A, wanted("r0::1"), 0.0)

        ledger = rolled_back(ledger, A, wanted("r0::0"))

        assert ledger.claims["r0"].slice_ids == {"r0::1"}

    def test_the_kubelets_list_does_not_claim_it_again(self) -> None:
        ledger = rolled_back(allocated(KNOWN, A, wanted("r0::0"), 0.0), A, wanted("r0::0"))

        ledger, _ = seen(ledger, [held(A, "r0::0")], LATER, REGIONS)

        assert ledger.claims == {}

    def test_it_is_forgotten_with_its_pod(self) -> None:
        ledger = rolled_back(allocated(KNOWN, A, wanted("r0::0"), 0.0), A, wanted("r0::0"))

        ledger, _ = seen(ledger, [], LATER, REGIONS)

        assert ledger.disowned == frozenset()

    def test_a_container_that_tries_again_claims_again(self) -> None:
        ledger = rolled_back(allocated(KNOWN, A, wanted("r0::0"), 0.0), A, wanted("r0::0"))

        ledger = resumed(ledger, A, wanted("r0::0"), 5.0)

        assert ledger.claims["r0"].resource == A
        assert ledger.disowned == frozenset()

    def test_a_container_that_tries_again_finds_the_region_taken(self) -> None:
        ledger = rolled_back(allocated(KNOWN, A, wanted("r0::0"), 0.0), A, wanted("r0::0"))
        ledger = allocated(ledger, B, wanted("r0::0"), 1.0)

        with pytest.raises(RegionHeldError):
            resumed(ledger, A, wanted("r0::0"), 5.0)


class TestReserving:
    def test_a_reserved_region_may_be_claimed_until_programming_begins(self) -> None:
        ledger = allocated(reserved(KNOWN, "r0", B), A, wanted("r0::0"), 0.0)

        assert ledger.reserved == {}
        assert ledger.claims["r0"].resource == A

    def test_one_that_is_being_programmed_may_not(self) -> None:
        ledger = programming(reserved(KNOWN, "r0", B), "r0")

        with pytest.raises(RegionHeldError, match=f"region r0 is being programmed for {B}"):
            allocated(ledger, A, wanted("r0::0"), 0.0)

    def test_afterwards_it_is_free(self) -> None:
        assert released(programming(reserved(KNOWN, "r0", B), "r0"), "r0") == KNOWN


def test_a_container_is_at_work_once_it_started() -> None:
    ledger = allocated(KNOWN, A, wanted("r0::0"), 0.0)
    ledger = allocated(ledger, A, wanted("r0::1"), 0.0)
    ledger = running(ledger, A, wanted("r0::0"))

    assert others_running(ledger, wanted("r0::1")[0])
    assert not others_running(ledger, wanted("r0::0")[0])


def test_what_starts_late_says_nothing_of_another_resources_user() -> None:
    ledger = allocated(KNOWN, B, wanted("r0::0"), 0.0)

    assert running(ledger, A, wanted("r0::0")) == ledger


def test_not_being_told_changes_nothing_once_the_kubelet_has_answered() -> None:
    assert blinded(KNOWN) == KNOWN
    assert blinded(Ledger()).knowledge is Knowledge.BLIND


def test_holders_are_sorted_out_by_region() -> None:
    holders = (
        Holder("ns", "pod", "one", A, ("r0::0", "r1::1")),
        Holder("ns", "pod", "two", A, ("r0::3",)),
        Holder("ns", "pod", "two", "nvidia.com/gpu", ("GPU-0",)),
    )

    found = held_regions(
        holders,
        lambda slice_id: slice_id.partition("::")[0] if slice_id.startswith("r") else None,
        lambda region, _resource: (region == "r0", False),
    )

    assert found == (
        Held("r0", A, frozenset({"r0::0"}), running=True),
        Held("r0", A, frozenset({"r0::3"}), running=True),
        Held("r1", A, frozenset({"r1::1"}), running=False),
    )


@dataclass
class Container:
    """What the kubelet knows of one container, and which image it is at work with."""

    resource: str
    slice_ids: tuple[str, ...]
    image: str = ""


@dataclass
class World:
    """The kubelet's and the hardware's side."""

    regions: dict[str, Region]
    containers: list[Container] = field(default_factory=list)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    now: float = 0.0


RESOURCES = ("fpga.tasuki.dev/resize", "fpga.tasuki.dev/sharpen")
OTHER_RESIZE = "ab" * 16
MEANS = Means(images=frozenset(f"{id_[:4]}.gbs" for id_ in (RESIZE, OTHER_RESIZE, SHARPEN)))


def catalogue(resize: str) -> FpgaOptions:
    return a_catalogue(
        {"resize": an_implementation(resize, channels=3, users=2), "sharpen": an_implementation(SHARPEN)}
    )


class Walk:
    """A kubelet that acts on lists of any age, containers that come, fail and go, a daemon that restarts anywhere."""

    def __init__(self, seed: int) -> None:
        regions = [a_region(0), a_region(1, loaded=RESIZE)]
        self.random = Random(seed)
        self.world = World({region.device.id: region for region in regions})
        self.ledger = Ledger()
        self.resize = RESIZE
        self.refused = 0
        self.steps: dict[Callable[[], None], int] = {
            self.the_kubelet_takes_the_lists_in: 14,
            self.a_pod_comes: 20,
            self.a_container_starts: 12,
            self.a_pod_ends: 6,
            self.the_kubelet_lists_its_holders: 8,
            self.a_kubelet_that_starts_lists_some_of_its_holders: 1,
            self.time_passes: 6,
            self.a_region_is_prewarmed: 2,
            self.the_daemon_restarts: 1,
            self.the_catalogue_gets_another_image: 1,
        }

    def step(self) -> None:
        (chosen,) = self.random.choices(list(self.steps), list(self.steps.values()))
        chosen()

    def plan(self) -> FpgaPlan:
        return plan(some_fpgas(*self.world.regions.values()), catalogue(self.resize), self.ledger, MEANS)

    def the_kubelet_takes_the_lists_in(self) -> None:
        self.world.lists = {r.name: tuple(s.id for s in r.slices) for r in self.plan().resources}

    def a_pod_comes(self) -> None:
        resource = self.random.choice(RESOURCES)
        taken = {s for c in self.world.containers if c.resource == resource for s in c.slice_ids}
        free = [s for s in self.world.lists.get(resource, ()) if s not in taken]
        chosen = tuple(self.random.sample(free, min(len(free), self.random.randint(1, 3))))
        if not chosen:
            return
        try:
            self.ledger = allocated(self.ledger, resource, self.wanted(resource, chosen), self.world.now)
        except RegionHeldError:
            self.refused += 1
            return
        self.world.containers.append(Container(resource, chosen))

    def a_container_starts(self) -> None:
        """As the kind does it: the claim first, then programming unless somebody else is at work, then reading back."""
        if not self.world.containers or self.ledger.knowledge is Knowledge.WAITING:
            return  # nothing is registered with the kubelet
        container = self.random.choice(self.world.containers)
        needed = self.wanted(container.resource, container.slice_ids)
        try:
            self.ledger = resumed(self.ledger, container.resource, needed, self.world.now)
        except RegionHeldError:
            self.refused += 1
            return
        container.image = ""  # one that starts again has ended before
        for each in needed:
            if not self.programmed(container, each):
                return
            self.ledger = running(self.ledger, container.resource, [each])
        container.image = self.image(container.resource)

    def programmed(self, container: Container, each: Wanted) -> bool:
        region = self.world.regions[each.region]
        if region.loaded == self.image(container.resource):
            return True
        if others_running(self.ledger, each):
            return False
        works = self.random.random() < 0.7
        self.world.regions[each.region] = replace(region, loaded=self.image(container.resource) if works else "")
        if not works:
            needed = self.wanted(container.resource, container.slice_ids)
            self.ledger = rolled_back(self.ledger, container.resource, needed)
        return works

    def a_pod_ends(self) -> None:
        if self.world.containers:
            self.world.containers.remove(self.random.choice(self.world.containers))

    def the_kubelet_lists_its_holders(self) -> None:
        self.list(self.world.containers)

    def a_kubelet_that_starts_lists_some_of_its_holders(self) -> None:
        if self.ledger.knowledge is Knowledge.KNOWN:
            self.list([c for c in self.world.containers if self.random.random() < 0.5])
            self.the_kubelet_takes_the_lists_in()
            self.a_pod_comes()
            self.a_container_starts()
            self.list(self.world.containers)

    def list(self, containers: Sequence[Container]) -> None:
        made = self.plan()
        holders = [Holder("ns", f"{n}", "c", c.resource, c.slice_ids) for n, c in enumerate(containers)]

        def state(region: str, resource: str) -> tuple[bool, bool]:
            offering = made.offerings[resource].get(region)
            return may_run(
                made.regions[region], offering, catalogue(self.resize)
            ), offering is not None and not offering.seconds

        found = held_regions(holders, lambda slice_id: slice_id.partition("::")[0], state)
        self.ledger, _ = seen(self.ledger, found, self.world.now, self.world.regions)

    def time_passes(self) -> None:
        self.world.now += self.random.choice([0.5, LISTED_AFTER_SECONDS, 60.0])

    def the_daemon_restarts(self) -> None:
        self.ledger = Ledger()
        self.world.lists = {}

    def the_catalogue_gets_another_image(self) -> None:
        self.resize = OTHER_RESIZE if self.resize == RESIZE else RESIZE

    def image(self, resource: str) -> str:
        return self.resize if resource.endswith("resize") else SHARPEN

    def a_region_is_prewarmed(self) -> None:
        for region in self.world.regions:
            if region not in self.ledger.claims and self.ledger.knowledge is Knowledge.KNOWN:
                self.ledger = programming(reserved(self.ledger, region, "fpga.tasuki.dev/sharpen"), region)
                self.world.regions[region] = replace(self.world.regions[region], loaded=SHARPEN)
                self.ledger = released(self.ledger, region)
                return

    def wanted(self, resource: str, slice_ids: tuple[str, ...]) -> tuple[Wanted, ...]:
        return wanted(*slice_ids, users=2 if resource.endswith("resize") else 1)

    def check(self) -> None:
        for container in self.world.containers:
            for slice_id in container.slice_ids if container.image else ():
                region = self.world.regions[slice_id.partition("::")[0]]
                assert region.loaded == container.image, "what is at work is what is loaded"
        for resource in self.plan().resources:
            for a_slice in resource.slices:
                claim = self.ledger.claims.get(a_slice.device.id)
                assert claim is None or claim.resource == resource.name, "a claimed region is listed once"
        for claim in self.ledger.claims.values():
            ids = [slice_id for user in claim.users for slice_id in user.slice_ids]
            assert len(ids) == len(set(ids)), "no slice has two users"


@pytest.mark.parametrize("seed", range(20))
def test_no_region_ever_serves_two_functions(seed: int) -> None:
    walk = Walk(seed)

    for _ in range(1500):
        walk.step()
        walk.check()

    assert walk.refused
