"""Which resources regions become, and which of them are programmed beforehand."""

from dataclasses import replace

import pytest

from deviceplugin.config.model import FpgaOptions, FpgaPrewarm, PeerNames
from deviceplugin.fpga import Family, Fpgas, Region
from deviceplugin.fpga_claims import Claim, Knowledge, Ledger, User
from deviceplugin.fpga_plan import FpgaPlan, Means, may_run, offered_as, plan, to_prewarm
from tasuki.devices.model import unhealthy
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN, a_catalogue, a_region, an_implementation, some_fpgas

RESIZE_NAME = "fpga.tasuki.dev/resize"
SHARPEN_NAME = "fpga.tasuki.dev/sharpen"
AF_RESIZE = "fpga.intel.com/af-695.d84.aVKNtusxV3qMNmj5-qCB9thCTcSko8QT-J5DNoP5BAs"
INTEL_REGION = f"fpga.intel.com/region-{INTERFACE}"
OTHER = "ab" * 16

MEANS = Means(images=frozenset({f"{RESIZE[:4]}.gbs", f"{SHARPEN[:4]}.gbs"}))
NO_FOLDER = Means(images=None)
JUDGED = frozenset(f"fpga{card}-port{port}" for card in range(4) for port in range(4))
KNOWN = Ledger(knowledge=Knowledge.KNOWN, judged=JUDGED)
FOUR_CHANNELS = a_catalogue({"resize": an_implementation(channels=4, users=2), "sharpen": an_implementation(SHARPEN)})


def claimed(resource: str, *users: set[str], region: str = "fpga0-port0", running: bool = False) -> Ledger:
    held = tuple(User(frozenset(ids), 0.0, running) for ids in users)
    return replace(KNOWN, claims={region: Claim(resource, held)})


def offered(made: FpgaPlan) -> dict[str, list[str]]:
    return {resource.name: [s.id for s in resource.slices] for resource in made.resources}


def planned(*regions: Region, options: FpgaOptions | None = None, ledger: Ledger = KNOWN) -> dict[str, list[str]]:
    return offered(plan(some_fpgas(*regions), options or a_catalogue(), ledger, MEANS))


def test_an_empty_region_is_offered_for_each_function_that_it_could_hold() -> None:
    assert planned(a_region()) == {RESIZE_NAME: ["fpga0-port0::0"], SHARPEN_NAME: ["fpga0-port0::0"]}


def test_each_channel_is_a_slice() -> None:
    found = planned(a_region(0), a_region(1), options=FOUR_CHANNELS)

    assert found[RESIZE_NAME] == [f"fpga{card}-port0::{channel}" for card in (0, 1) for channel in range(4)]
    assert found[SHARPEN_NAME] == ["fpga0-port0::0", "fpga1-port0::0"]


def test_a_claimed_region_leaves_the_lists_of_all_other_functions() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"})

    assert planned(a_region(0), a_region(1), ledger=ledger) == {
        RESIZE_NAME: ["fpga0-port0::0", "fpga1-port0::0"],
        SHARPEN_NAME: ["fpga1-port0::0"],
    }


def test_a_resource_whose_regions_are_all_held_by_others_stays_with_an_empty_list() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"})

    assert planned(a_region(), ledger=ledger)[SHARPEN_NAME] == []


def test_a_region_with_as_many_users_as_may_offers_what_is_held_alone() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"}, {"fpga0-port0::2"})

    assert planned(a_region(), options=FOUR_CHANNELS, ledger=ledger)[RESIZE_NAME] == [
        "fpga0-port0::0",
        "fpga0-port0::2",
    ]


def test_a_region_with_room_for_a_user_offers_its_free_channels() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"})

    assert len(planned(a_region(), options=FOUR_CHANNELS, ledger=ledger)[RESIZE_NAME]) == 4


def test_a_region_that_runs_an_image_of_before_takes_no_new_users() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"}, running=True)

    found = planned(a_region(loaded=OTHER), options=FOUR_CHANNELS, ledger=ledger)

    assert found[RESIZE_NAME] == ["fpga0-port0::0"]


def test_a_region_under_peers_names_is_one_pool() -> None:
    options = a_catalogue(peers=PeerNames.INTEL)

    free = planned(a_region(loaded=RESIZE), options=options)
    held = planned(a_region(loaded=RESIZE), options=options, ledger=claimed(AF_RESIZE, {"fpga0-port0::0"}))

    assert set(free) == {RESIZE_NAME, SHARPEN_NAME, AF_RESIZE, INTEL_REGION}
    assert {name: len(slices) for name, slices in free.items()} == dict.fromkeys(free, 1)
    assert held == {RESIZE_NAME: [], SHARPEN_NAME: [], AF_RESIZE: ["fpga0-port0::0"], INTEL_REGION: []}


@pytest.mark.parametrize(
    ("peers", "amds", "intels"),
    [
        pytest.param(PeerNames.NONE, False, False, id="none"),
        pytest.param(PeerNames.INTEL, False, True, id="Intel's"),
        pytest.param(PeerNames.AMD, True, False, id="AMD's"),
        pytest.param(PeerNames.ALL, True, True, id="all"),
    ],
)
def test_peers_names_are_given_on_request(peers: PeerNames, amds: bool, intels: bool) -> None:
    regions = (
        a_region(0, loaded=RESIZE),
        a_region(1, family=Family.XRT, interface=OTHER, shell="xilinx_u280_xdma_201920_3-1579649056"),
    )

    found = planned(*regions, options=a_catalogue(peers=peers))

    assert ("amd.com/xilinx_u280_xdma_201920_3-1579649056" in found) is amds
    assert (AF_RESIZE in found) is intels


@pytest.mark.parametrize("interface", ["", "f" * 32], ids=["empty", "ones"])
def test_no_name_ever_ends_in_a_dash(interface: str) -> None:
    found = planned(a_region(interface=interface), options=a_catalogue(peers=PeerNames.ALL))

    assert found == {}


def test_an_unhealthy_region_is_listed_as_such() -> None:
    made = plan(some_fpgas(a_region(health=unhealthy("too hot"))), a_catalogue(), KNOWN, MEANS)

    assert [s.device.health.reason for r in made.resources for s in r.slices] == ["too hot", "too hot"]


def test_what_is_loaded_costs_nothing_and_all_else_its_programming() -> None:
    found = offered_as(a_region(loaded=SHARPEN.upper()), a_catalogue(), MEANS)

    assert {name: offering.seconds for name, offering in found.items()} == {RESIZE_NAME: 8.0, SHARPEN_NAME: 0.0}


NO_FUNCTION = "no function of the catalogue, and"
MISSING = "is not in the folder of bitstreams"
LEFT_OUT = f"{NO_FUNCTION} d842.gbs {MISSING}; f7df.gbs {MISSING}"


def test_a_function_without_image_is_offered_where_it_is_loaded_alone() -> None:
    made = plan(some_fpgas(a_region(0, loaded=RESIZE), a_region(1)), a_catalogue(), KNOWN, Means())

    assert offered(made) == {RESIZE_NAME: ["fpga0-port0::0"]}
    assert made.problems == (
        "d842.gbs, for resize in fpga1-port0, is not in the folder of bitstreams",
        "f7df.gbs, for sharpen in fpga0-port0, fpga1-port0, is not in the folder of bitstreams",
        f"region fpga1-port0 is left out: it holds nothing, {LEFT_OUT}",
    )


def test_without_a_folder_of_images_what_is_loaded_is_offered_and_nothing_is_wrong() -> None:
    made = plan(some_fpgas(a_region(0, loaded=RESIZE), a_region(1, loaded=SHARPEN)), a_catalogue(), KNOWN, NO_FOLDER)

    assert offered(made) == {RESIZE_NAME: ["fpga0-port0::0"], SHARPEN_NAME: ["fpga1-port0::0"]}
    assert made.problems == ()


def test_without_a_folder_of_images_a_region_with_something_else_is_left_out() -> None:
    made = plan(some_fpgas(a_region(loaded=OTHER)), a_catalogue(), KNOWN, NO_FOLDER)

    assert made.problems == (
        f"region fpga0-port0 is left out: it holds {OTHER}, {NO_FUNCTION} there is no folder of bitstreams",
    )


def test_a_function_for_cards_that_nothing_programs_is_not_offered() -> None:
    options = a_catalogue({"resize": an_implementation(family=Family.XRT, interface=OTHER)})
    region = a_region(family=Family.XRT, interface=OTHER)

    made = plan(some_fpgas(region), options, KNOWN, Means(frozenset({Family.DFL}), MEANS.images))

    assert made.resources == ()
    assert "set tasuki.fpga.programmer.command" in made.problems[0]


def test_a_function_that_takes_longer_than_the_kubelet_waits_is_offered_where_it_is_loaded() -> None:
    options = a_catalogue({"resize": an_implementation(seconds=40)}, prewarm=(FpgaPrewarm(function="resize"),))

    assert planned(a_region(0), a_region(1, loaded=RESIZE), options=options) == {RESIZE_NAME: ["fpga1-port0::0"]}


@pytest.mark.parametrize(
    ("interface", "shell", "expected"),
    [
        pytest.param(OTHER, "", True, id="by interface"),
        pytest.param("AB" * 16, "", True, id="in capitals"),
        pytest.param("xilinx_u280_xdma_201920_3", "", False, id="by another interface"),
        pytest.param("cd" * 16, f"{OTHER}-0", True, id="by the shell's name"),
    ],
)
def test_an_implementation_is_for_its_interface(interface: str, shell: str, expected: bool) -> None:
    options = a_catalogue({"resize": an_implementation(family=Family.XRT, interface=OTHER)})

    found = offered_as(a_region(family=Family.XRT, interface=interface, shell=shell), options, MEANS)

    assert bool(found) is expected


def test_an_implementation_without_interface_is_for_regions_that_say_none() -> None:
    options = a_catalogue({"resize": an_implementation(family=Family.FPGA_REGION, interface="")})

    assert offered_as(a_region(family=Family.FPGA_REGION, interface=""), options, MEANS)
    assert not offered_as(a_region(family=Family.FPGA_REGION, interface=OTHER), options, MEANS)


def test_a_region_says_what_is_in_it_and_what_could_be() -> None:
    ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"})

    made = plan(some_fpgas(a_region(0, loaded=RESIZE), a_region(1)), a_catalogue(), ledger, MEANS)

    held, free = made.loaded["fpga0-port0"], made.loaded["fpga1-port0"]
    assert (held.function, held.claimed, held.interface) == ("resize", True, INTERFACE)
    assert (free.function, free.claimed) == ("", False)
    assert free.seconds == {"resize": 8.0, "sharpen": 8.0}


def test_what_could_not_be_read_is_told() -> None:
    made = plan(Fpgas(unreadable=("card 3 is left out: EIO",)), a_catalogue(), KNOWN, MEANS)

    assert made.problems == ("card 3 is left out: EIO",)


class TestWithoutKnowingWhoHoldsWhat:
    """After a start, and where the kubelet does not tell."""

    def test_nothing_is_offered_until_the_kubelet_was_asked(self) -> None:
        assert planned(a_region(loaded=RESIZE), a_region(1), ledger=Ledger()) == {}

    def test_a_region_keeps_what_it_holds_where_the_kubelet_does_not_tell(self) -> None:
        blind = Ledger(knowledge=Knowledge.BLIND)

        assert planned(a_region(loaded=RESIZE), ledger=blind) == {RESIZE_NAME: ["fpga0-port0::0"], SHARPEN_NAME: []}

    def test_an_empty_region_is_nobodys(self) -> None:
        blind = Ledger(knowledge=Knowledge.BLIND)

        assert planned(a_region(), ledger=blind) == {RESIZE_NAME: ["fpga0-port0::0"], SHARPEN_NAME: ["fpga0-port0::0"]}

    def test_a_region_with_a_foreign_image_may_be_anybodys(self) -> None:
        blind = Ledger(knowledge=Knowledge.BLIND)

        assert planned(a_region(loaded=OTHER), ledger=blind) == {RESIZE_NAME: [], SHARPEN_NAME: []}

    @pytest.mark.parametrize("loaded", ["", RESIZE], ids=["empty", "loaded"])
    def test_a_region_with_two_names_may_be_held_under_either(self, loaded: str) -> None:
        blind = Ledger(knowledge=Knowledge.BLIND)

        found = planned(a_region(loaded=loaded), options=a_catalogue(peers=PeerNames.INTEL), ledger=blind)

        assert not any(found.values())

    def test_the_operator_is_told(self) -> None:
        made = plan(some_fpgas(a_region()), a_catalogue(), Ledger(knowledge=Knowledge.BLIND), MEANS)

        assert "pod-resources" in made.problems[0]


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        pytest.param(a_region(loaded=RESIZE), True, id="its function is loaded"),
        pytest.param(a_region(loaded=SHARPEN), False, id="another function is loaded"),
        pytest.param(a_region(), False, id="nothing is loaded"),
        pytest.param(a_region(loaded=OTHER), True, id="what is loaded is unknown"),
    ],
)
def test_whether_a_container_may_be_at_work(region: Region, expected: bool) -> None:
    offering = offered_as(region, a_catalogue(), MEANS)[RESIZE_NAME]

    assert may_run(region, offering, a_catalogue()) is expected


def test_in_a_device_trees_region_a_container_may_always_be_at_work() -> None:
    options = a_catalogue({"resize": an_implementation(family=Family.FPGA_REGION, interface="")})
    region = a_region(family=Family.FPGA_REGION, interface="")

    assert may_run(region, offered_as(region, options, MEANS)[RESIZE_NAME], options)


def prewarm(*entries: FpgaPrewarm) -> FpgaOptions:
    return a_catalogue(
        {"resize": an_implementation(seconds=40), "sharpen": an_implementation(SHARPEN)}, prewarm=entries
    )


def warmed(
    *regions: Region,
    options: FpgaOptions,
    ledger: Ledger = KNOWN,
    means: Means = MEANS,
    excluded: tuple[tuple[str, str], ...] = (),
) -> list[tuple[str, str]]:
    made = plan(some_fpgas(*regions), options, ledger, means)
    chosen = to_prewarm(made, options, ledger, means, excluded=excluded)
    return [(offering.region.device.id, offering.function) for offering in chosen]


ALL_RESIZE = prewarm(FpgaPrewarm(function="resize"))
ONE_RESIZE = prewarm(FpgaPrewarm(function="resize", regions=1))


class TestPrewarming:
    def test_every_region_that_lacks_the_function(self) -> None:
        found = warmed(a_region(0), a_region(1, loaded=RESIZE), a_region(2, loaded=SHARPEN), options=ALL_RESIZE)

        assert found == [("fpga0-port0", "resize"), ("fpga2-port0", "resize")]

    def test_no_more_than_asked_for(self) -> None:
        assert warmed(a_region(0), a_region(1, loaded=RESIZE), options=ONE_RESIZE) == []
        assert warmed(a_region(0), a_region(1), options=ONE_RESIZE) == [("fpga0-port0", "resize")]

    def test_an_empty_region_before_one_that_holds_something(self) -> None:
        assert warmed(a_region(0, loaded=SHARPEN), a_region(1), options=ONE_RESIZE) == [("fpga1-port0", "resize")]

    def test_never_a_claimed_region(self) -> None:
        assert warmed(a_region(), options=ALL_RESIZE, ledger=claimed(SHARPEN_NAME, {"fpga0-port0::0"})) == []

    def test_a_claimed_region_that_holds_it_counts(self) -> None:
        ledger = claimed(RESIZE_NAME, {"fpga0-port0::0"})

        assert warmed(a_region(0, loaded=RESIZE), a_region(1), options=ONE_RESIZE, ledger=ledger) == []

    def test_never_one_that_is_reserved_already(self) -> None:
        ledger = replace(KNOWN, reserved={"fpga0-port0": RESIZE_NAME})

        assert warmed(a_region(0), a_region(1), options=ONE_RESIZE, ledger=ledger) == []

    def test_never_an_unhealthy_one(self) -> None:
        assert warmed(a_region(health=unhealthy("too hot")), options=ALL_RESIZE) == []

    def test_not_what_failed_lately(self) -> None:
        found = warmed(a_region(0), a_region(1), options=ONE_RESIZE, excluded=(("fpga0-port0", "resize"),))

        assert found == [("fpga1-port0", "resize")]

    def test_not_without_an_image(self) -> None:
        assert warmed(a_region(), options=ALL_RESIZE, means=Means()) == []

    def test_not_before_the_kubelet_was_asked(self) -> None:
        assert warmed(a_region(loaded=SHARPEN), options=ALL_RESIZE, ledger=Ledger()) == []

    def test_two_functions_never_take_turns_on_one_region(self) -> None:
        options = prewarm(FpgaPrewarm(function="resize"), FpgaPrewarm(function="sharpen", regions=1))

        assert warmed(a_region(0, loaded=RESIZE), a_region(1, loaded=SHARPEN), options=options) == []
