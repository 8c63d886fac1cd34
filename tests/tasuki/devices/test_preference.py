"""Which free slices are preferred."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasuki.devices.cost import distances
from tasuki.devices.model import Device, DeviceKind, Place, Slice, slices_of
from tasuki.devices.nearest import nearest_devices
from tasuki.devices.preference import POLICIES, Policy, PreferenceError, nearest, pack, spread
from tasuki.devices.topology import NVLink, Topology
from tests.builders import a_device


def slices(text: str, *, replicas: int = 4) -> list[Slice]:
    """`0/1` is replica 1 of device 0, of which there are four."""
    pairs = [tuple(map(int, word.split("/"))) for word in text.split()]
    return [slices_of(a_device(device), replicas)[replica] for device, replica in pairs]


def ids(chosen: list[Slice]) -> str:
    return " ".join(f"{s.device.index}/{s.replica}" for s in chosen)


@pytest.mark.parametrize(
    ("available", "size", "expected"),
    [
        pytest.param("0/0 0/1 1/0 1/1", 2, "0/0 1/0", id="alternates between equally used devices"),
        pytest.param("0/3 1/0 1/1 1/2 1/3", 2, "1/0 1/1", id="counts what others already use"),
        pytest.param("1/3 0/2 1/1 0/0", 4, "0/0 1/1 0/2 1/3", id="takes low replicas first"),
        pytest.param("0/0 1/0", 0, "", id="nothing asked"),
    ],
)
def test_spread(available: str, size: int, expected: str) -> None:
    assert ids(spread(slices(available), [], size)) == expected


@pytest.mark.parametrize(
    ("available", "size", "expected"),
    [
        pytest.param("0/0 0/1 1/0 1/1", 2, "0/0 0/1", id="fills one device"),
        pytest.param("0/0 0/1 0/2 0/3 1/3", 2, "1/3 0/0", id="fills the fuller device first"),
    ],
)
def test_pack(available: str, size: int, expected: str) -> None:
    assert ids(pack(slices(available), [], size)) == expected


def test_spread_counts_the_required_ones() -> None:
    chosen = spread(slices("0/0 0/1 1/0 1/1"), slices("0/1"), 2)

    assert ids(chosen) == "0/1 1/0"


@pytest.mark.parametrize(
    ("available", "required", "size", "message"),
    [
        pytest.param("0/0", "", 2, "only 1 are available", id="more than there is"),
        pytest.param("0/0", "0/1", 1, "not all available", id="required one is not free"),
        pytest.param("0/0 0/1", "0/0 0/1", 1, "2 slices must be included", id="more required than asked"),
    ],
)
@pytest.mark.parametrize("policy", [spread, pack, nearest({})], ids=["spread", "pack", "nearest"])
def test_impossible_requests_are_refused(
    policy: Policy, available: str, required: str, size: int, message: str
) -> None:
    with pytest.raises(PreferenceError, match=message):
        policy(slices(available), slices(required), size)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Slice], list[Slice], int]:
    replicas = draw(st.integers(1, 5))
    every = [s for d in range(draw(st.integers(1, 6))) for s in slices_of(a_device(d), replicas)]
    available = draw(st.lists(st.sampled_from(every), unique_by=lambda s: s.id))
    size = draw(st.integers(0, len(available)))
    required = draw(st.lists(st.sampled_from(available), unique_by=lambda s: s.id, max_size=size)) if size else []
    return available, required, size


@pytest.mark.parametrize("name", POLICIES)
@given(request_=requests(), data=st.data())
def test_every_policy_keeps_the_kubelets_rules(
    name: str, request_: tuple[list[Slice], list[Slice], int], data: st.DataObject
) -> None:
    available, required, size = request_

    chosen = [s.id for s in POLICIES[name](available, required, size)]

    assert len(chosen) == len(set(chosen)) == size
    assert set(chosen) <= {s.id for s in available}
    assert {s.id for s in required} <= set(chosen)
    shuffled = data.draw(st.permutations(available))
    assert [s.id for s in POLICIES[name](shuffled, required, size)] == chosen


@given(request_=requests())
def test_spread_leaves_devices_evenly_used(request_: tuple[list[Slice], list[Slice], int]) -> None:
    available, _, size = request_

    chosen = spread(available, [], size)

    def used(device: str) -> int:
        free = sum(1 for s in available if s.device.id == device)
        return available[0].replicas - free + sum(1 for s in chosen if s.device.id == device)

    left = {s.device.id for s in available} - {s.device.id for s in chosen}
    taken = {s.device.id for s in chosen}
    assert all(used(untouched) >= used(device) - 1 for untouched in left for device in taken)


Pairs = dict[tuple[str, str], tuple[float, float]]


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[str], list[str], int, Pairs]:
    names = [f"gpu{i}" for i in range(draw(st.integers(1, 8)))]
    seconds = st.sampled_from([0.1, 0.2, 0.4])
    pairs: Pairs = {}
    for one, other in combinations(names, 2):
        pairs[one, other] = pairs[other, one] = (draw(seconds), draw(seconds))
    size = draw(st.integers(0, len(names)))
    required = draw(st.lists(st.sampled_from(names), unique=True, max_size=size)) if size else []
    return names, required, size, pairs


@given(machines())
def test_nearest_is_exact_for_eight_devices(asked: tuple[list[str], list[str], int, Pairs]) -> None:
    names, required, size, pairs = asked

    chosen = nearest_devices(names, required, size, pairs)

    def cost(members: tuple[str, ...]) -> tuple[int, int]:
        every = [pairs[a, b] for a, b in combinations(members, 2)]
        return round(sum(10 * a for a, _ in every)), round(sum(10 * b for _, b in every))

    best = min(cost(m) for m in combinations(names, size) if set(required) <= set(m))
    assert set(required) <= set(chosen)
    assert len(chosen) == len(set(chosen)) == size
    assert cost(tuple(chosen)) == best


def dgx(nvlinked: bool) -> tuple[list[Device], Topology]:
    """Eight GPUs, pairs of them under one PCIe switch each, two switches a socket."""
    devices = [
        Device(
            id=f"GPU-{i}",
            kind=DeviceKind.GPU,
            index=str(i),
            model="A100",
            memory_bytes=1,
            place=Place(
                numa_node=i // 4,
                pcie_path=(
                    f"pci0000:{i // 2}0",
                    f"0000:{i // 2}0:01.1",
                    f"0000:{i // 2}1:00.0",
                    f"bridge{i}",
                    f"gpu{i}",
                ),
            ),
        )
        for i in range(8)
    ]
    links = {(a.id, b.id): NVLink(12, 20e9) for a, b in combinations(devices, 2)} if nvlinked else {}
    return devices, Topology(links)


@pytest.mark.parametrize("nvlinked", [False, True], ids=["PCIe only", "all on NVSwitch"])
@pytest.mark.parametrize(
    ("free", "size", "expected"),
    [
        pytest.param("01234567", 2, "01", id="a pair under one switch"),
        pytest.param("01234567", 4, "0123", id="one socket"),
        pytest.param("1234567", 2, "23", id="a whole pair, not a split one"),
        pytest.param("1234567", 1, "1", id="one alone comes from the split pair"),
        pytest.param("0124567", 3, "012", id="the split pair with its socket"),
        pytest.param("01234567", 8, "01234567", id="all"),
    ],
)
def test_nearest_on_a_dgx(nvlinked: bool, free: str, size: int, expected: str) -> None:
    devices, topology = dgx(nvlinked)
    policy = nearest(distances(topology, devices))
    available = [s for i in free for s in slices_of(devices[int(i)], None)]

    chosen = policy(available, [], size)

    assert "".join(s.device.index for s in chosen) == expected


def test_nearest_follows_nvlink_across_sockets() -> None:
    devices, _ = dgx(nvlinked=False)
    policy = nearest(distances(Topology({("GPU-0", "GPU-4"): NVLink(6, 20e9)}), devices))

    chosen = policy([s for d in devices for s in slices_of(d, None)], [], 2)

    assert [s.device.index for s in chosen] == ["0", "4"]


def test_nearest_stops_within_its_steps_on_sixteen_unlike_devices() -> None:
    names = [f"gpu{i}" for i in range(16)]
    pairs: Pairs = {}
    for i, j in combinations(range(16), 2):
        seconds = ((i * 7919 + j * 104729) % 97 + 1) / 100
        pairs[names[i], names[j]] = pairs[names[j], names[i]] = (seconds, seconds)

    first = nearest_devices(names, [], 8, pairs)

    assert len(set(first)) == 8
    assert nearest_devices(names, [], 8, pairs) == first
