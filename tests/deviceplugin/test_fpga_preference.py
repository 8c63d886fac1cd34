"""Which channels a container should get."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.fpga_preference import Standing, preferred
from tasuki.devices.model import Slice, slices_of
from tasuki.devices.preference import PreferenceError
from tests.fpga_builders import a_region


def channels(card: int, count: int = 1, *, number: int = 0, root: str | None = None) -> list[Slice]:
    return list(slices_of(a_region(card, number, root=root).device, count))


def ids(slices: list[Slice]) -> list[str]:
    return [s.id for s in slices]


def chosen(
    available: list[Slice],
    size: int,
    standings: dict[str, Standing] | None = None,
    *,
    near: str = "",
    required: list[Slice] | None = None,
) -> list[str]:
    return ids(preferred(available, required or [], size, standings or {}, near))


def test_a_loaded_region_comes_before_one_that_must_be_programmed() -> None:
    standings = {"fpga0-port0": Standing(seconds=8.0), "fpga1-port0": Standing()}

    assert chosen(channels(0) + channels(1), 1, standings) == ["fpga1-port0::0"]


def test_of_those_that_must_be_programmed_the_quickest() -> None:
    standings = {"fpga0-port0": Standing(seconds=8.0), "fpga1-port0": Standing(seconds=2.0)}

    assert chosen(channels(0) + channels(1), 1, standings) == ["fpga1-port0::0"]


def test_of_equals_the_one_near_what_the_pod_has_already() -> None:
    assert chosen(channels(0) + channels(1), 1, near="pci0000:02") == ["fpga1-port0::0"]


def test_what_is_loaded_counts_more_than_what_is_near() -> None:
    standings = {"fpga1-port0": Standing(seconds=8.0)}

    assert chosen(channels(0) + channels(1), 1, standings, near="pci0000:02") == ["fpga0-port0::0"]


def test_a_region_that_is_in_use_is_filled_before_another_is_taken() -> None:
    standings = {"fpga1-port0": Standing(claimed=True)}

    assert chosen(channels(0, 4) + channels(1, 4)[1:], 2, standings) == ["fpga1-port0::1", "fpga1-port0::2"]


def test_an_empty_region_is_programmed_before_one_that_holds_something_else() -> None:
    standings = {"fpga0-port0": Standing(seconds=8.0, overwrites=True), "fpga1-port0": Standing(seconds=8.0)}

    assert chosen(channels(0) + channels(1), 1, standings) == ["fpga1-port0::0"]


def test_a_region_that_would_be_refused_comes_last() -> None:
    standings = {"fpga0-port0": Standing(refused=True), "fpga1-port0": Standing(seconds=20.0)}

    assert chosen(channels(0) + channels(1), 1, standings) == ["fpga1-port0::0"]
    assert len(chosen(channels(0) + channels(1), 2, standings)) == 2


def test_the_slices_of_one_request_stay_below_one_pcie_root() -> None:
    available = channels(0, root="pci0000:3a") + channels(1, root="pci0000:5d") + channels(2, root="pci0000:5d")
    standings = {"fpga1-port0": Standing(seconds=8.0), "fpga2-port0": Standing(seconds=8.0)}

    assert chosen(available, 2, standings) == ["fpga1-port0::0", "fpga2-port0::0"]


def test_as_few_regions_as_will_do() -> None:
    available = channels(0, root="a") + channels(1, root="a") + channels(2, 2, root="a")

    assert chosen(available, 2) == ["fpga2-port0::0", "fpga2-port0::1"]


def test_one_long_programming_may_be_better_than_two_short_ones() -> None:
    available = channels(0, root="a") + channels(1, root="a") + channels(2, 2, root="a")
    standings = {
        "fpga0-port0": Standing(seconds=6.0),
        "fpga1-port0": Standing(seconds=6.0),
        "fpga2-port0": Standing(seconds=8.0),
    }

    assert chosen(available, 2, standings) == ["fpga2-port0::0", "fpga2-port0::1"]


def test_what_must_be_included_is() -> None:
    required = channels(1)

    assert chosen(channels(0, 2) + required, 2, required=required) == ["fpga0-port0::0", "fpga1-port0::0"]


def test_a_region_that_must_be_included_is_used_even_if_it_would_be_refused() -> None:
    required = channels(1)
    standings = {"fpga1-port0": Standing(refused=True)}

    assert "fpga1-port0::0" in chosen(channels(0, 2) + required, 2, standings, required=required)


def test_without_known_roots_each_card_is_one() -> None:
    available = channels(0, root="") + channels(1, number=0, root="") + channels(1, number=1, root="")

    assert chosen(available, 2) == ["fpga1-port0::0", "fpga1-port1::0"]


def test_sixteen_cards_with_many_channels_are_answered() -> None:
    available = [s for card in range(16) for s in channels(card, 64)]

    assert len(set(chosen(available, 500))) == 500


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(PreferenceError, match="2 slices were asked for, but only 1 are available"):
        preferred(channels(0), [], 2, {}, "")


@st.composite
def requests(draw: st.DrawFn, most_cards: int = 5) -> tuple[list[Slice], list[Slice], int, dict[str, Standing], str]:
    """Regions of a few cards below a few roots, each in any standing."""
    available: list[Slice] = []
    standings: dict[str, Standing] = {}
    for card in range(draw(st.integers(1, most_cards))):
        root = draw(st.sampled_from(["pci0000:3a", "pci0000:5d", "pci0000:85", ""]))
        slices = channels(card, draw(st.integers(1, 3)), root=root)
        available += slices
        seconds = draw(st.sampled_from([0.0, 2.0, 8.0]))
        standings[slices[0].device.id] = Standing(
            draw(st.booleans()), seconds, overwrites=seconds > 0 and draw(st.booleans()), claimed=draw(st.booleans())
        )
    required = draw(st.lists(st.sampled_from(available), unique=True, max_size=3))
    size = draw(st.integers(max(1, len(required)), len(available)))
    return available, required, size, standings, draw(st.sampled_from(["", "pci0000:5d"]))


@given(asked=requests(), data=st.data())
def test_the_kubelets_rules_are_kept(
    asked: tuple[list[Slice], list[Slice], int, dict[str, Standing], str], data: st.DataObject
) -> None:
    available, required, size, standings, near = asked

    found = ids(preferred(available, required, size, standings, near))

    assert len(found) == len(set(found)) == size
    assert set(found) <= set(ids(available))
    assert set(ids(required)) <= set(found)
    shuffled = data.draw(st.permutations(available))
    assert ids(preferred(shuffled, required, size, standings, near)) == found


@given(asked=requests(4))
def test_no_other_choice_is_better(asked: tuple[list[Slice], list[Slice], int, dict[str, Standing], str]) -> None:
    """Against every choice there is: refusals first, then roots, seconds, what is lost, distance, regions."""
    available, required, size, standings, near = asked

    def cost(slices: tuple[Slice, ...] | list[Slice]) -> tuple[float, ...]:
        regions = {s.device.id: s.device for s in slices}
        roots = {d.place.pcie_root or d.physical for d in regions.values()}
        must = {s.device.id for s in required}
        avoidable = [s for s in slices if standings[s.device.id].refused and s.device.id not in must]
        return (
            len(avoidable) > 0,
            len(roots),
            sum(standings[s.device.id].refused for s in slices),
            sum(standings[id_].seconds for id_ in regions),
            sum(standings[id_].overwrites for id_ in regions),
            sum(1 for s in slices if near and s.device.place.pcie_root != near),
            sum(1 for id_ in regions if not standings[id_].claimed),
            len(regions),
        )

    found = preferred(available, required, size, standings, near)

    needed = set(ids(required))
    best = min(cost(c) for c in combinations(available, size) if needed <= {s.id for s in c})
    assert cost(found) == best
