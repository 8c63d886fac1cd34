"""Golden vectors are of a live Envoy 1.40.0, whose owners were compared request by request."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tasuki.routing.maglev import Host, Maglev, MaglevError, combined_hash

ABC = ("node-a", "node-b", "node-c")
names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)


@pytest.mark.parametrize(
    ("hosts", "first", "entries"),
    [
        pytest.param([Host(name) for name in ABC], "cabbbcbabbbc", [21846, 21846, 21845], id="of equal weight"),
        pytest.param(
            [Host(name, weight) for weight, name in enumerate(ABC, 1)], "ccbbbcbabbbc", [10923, 21846, 32768],
            id="of weights 1, 2 and 3",
        ),
    ],
)  # fmt: skip
def test_the_table_is_envoys(hosts: list[Host], first: str, entries: list[int]) -> None:
    table = Maglev(hosts)

    assert "".join(table.keys[host][-1] for host in table.slots[:12]) == first
    assert [int((table.slots == host).sum()) for host in range(3)] == entries


@pytest.mark.parametrize(
    ("key", "request_hash", "slot", "owner"),
    [
        ("b/o", 0xAA46C96F3DE6591E, 14945, "node-c"),
        ("imagenet/train/000.jpg", 0xB36E546689D6BA88, 53675, "node-c"),
        ("bk/s3://h/bucket/key", 0x22FC0CDEBDBA6419, 36930, "node-b"),
        ("models/llama.bin", 0xA2DA960BBE8EB0FD, 58785, "node-c"),
    ],
)
def test_owners_are_envoys(key: str, request_hash: int, slot: int, owner: str) -> None:
    table = Maglev(ABC)

    assert xxhash.xxh64_intdigest(key.encode()) == request_hash
    assert request_hash % table.table_size == slot
    assert table.owner(key) == table.owner(key.encode()) == table.owner_of_hash(request_hash) == owner


def test_many_owners_are_each_ones() -> None:
    table = Maglev(ABC)
    keys = [f"bucket/object-{number}" for number in range(1000)]

    assert [table.keys[host] for host in table.owners(keys)] == [table.owner(key) for key in keys]


@given(names)
def test_the_order_of_hosts_makes_no_difference(hosts: list[str]) -> None:
    shuffled = sorted(hosts, key=lambda name: xxhash.xxh64_intdigest(name.encode(), 7))

    assert list(Maglev(hosts, 1009).slots) == list(Maglev(shuffled, 1009).slots)


@given(names)
def test_hosts_of_equal_weight_own_as_much_as_each_other(hosts: list[str]) -> None:
    counts = [round(share * 1009) for share in Maglev(hosts, 1009).shares().values()]

    assert sum(counts) == 1009
    assert max(counts) - min(counts) <= 1


def test_a_host_that_leaves_moves_few_keys_but_its_own() -> None:
    hosts = [f"node-{number}" for number in range(10)]
    before, after = Maglev(hosts), Maglev(hosts[:-1])
    keys = [f"b/{number}" for number in range(20_000)]

    moved = sum(1 for key in keys if before.owner(key) != after.owner(key) and before.owner(key) != hosts[-1])

    assert moved / len(keys) < 0.01


def test_a_table_of_one_host_is_its_own() -> None:
    assert Maglev(["only"]).shares() == {"only": 1.0}


def test_localities_without_weight_are_left_out() -> None:
    hosts = [Host("a", locality="x"), Host("b", locality="y"), Host("c", locality="z")]

    shares = Maglev(hosts, locality_weights={"x": 1, "y": 2, "z": 0}).shares()

    assert shares.keys() == {"a", "b"}
    assert shares["b"] == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("hosts", "size", "said"),
    [
        pytest.param(["a", "a"], 1009, "has been there before", id="a key twice"),
        pytest.param([""], 1009, "is empty", id="no key"),
        pytest.param([Host("a", 0)], 1009, "at least 1", id="no weight"),
        pytest.param(["a"], 1000, "must be a prime", id="no prime"),
        pytest.param(["a"], 5_000_077, "at most 5000011", id="too large"),
    ],
)
def test_what_makes_no_table_is_told(hosts: list[Host | str], size: int, said: str) -> None:
    with pytest.raises(MaglevError, match=said):
        Maglev(hosts, size)


def test_without_hosts_nobody_owns_anything() -> None:
    with pytest.raises(MaglevError, match="no hosts"):
        Maglev([]).owner("b/o")


@pytest.mark.parametrize(
    ("hashes", "combined"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([5], 5, id="one is itself"),
        pytest.param([2**63 | 1, 1], 2, id="the first is rotated"),
    ],
)
def test_hashes_of_several_policies_are_combined(hashes: list[int], combined: int) -> None:
    assert combined_hash(hashes) == combined
