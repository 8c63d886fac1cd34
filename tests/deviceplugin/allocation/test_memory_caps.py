"""The share of memory that frameworks are told of."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.memory_caps import caps
from tasuki.devices.model import Slice, slices_of
from tests.builders import A100_BYTES, a_device


def some(count: int, replicas: int | None, device: int = 0) -> Sequence[Slice]:
    return slices_of(a_device(device), replicas)[:count]


@pytest.mark.parametrize(
    ("held", "fraction"),
    [
        pytest.param(some(1, 4), "0.25", id="one of four"),
        pytest.param(some(3, 4), "0.75", id="three of four"),
        pytest.param(some(1, 3), "0.3333", id="rounded down"),
        pytest.param(some(1, 48), "0.0208", id="one of 48"),
        pytest.param(some(1, 10_000), "0.0001", id="the smallest"),
        pytest.param([*some(2, 4), *some(1, 8, device=1)], "0.125", id="smallest of two devices"),
        pytest.param([*some(1, None), *some(1, 2, device=1)], "0.5", id="a whole device and a shared one"),
    ],
)
def test_the_fraction_is_the_smallest_share(held: Sequence[Slice], fraction: str) -> None:
    found = caps(held)

    assert found["XLA_PYTHON_CLIENT_MEM_FRACTION"] == fraction
    assert found["PYTORCH_ALLOC_CONF"] == f"per_process_memory_fraction:{fraction}"
    assert found["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_bytes_are_the_share_of_the_device() -> None:
    assert caps(some(1, 3))["TASUKI_GPU_MEMORY_BYTES"] == str(A100_BYTES // 3)


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(some(1, None), id="a whole device"),
        pytest.param(some(4, 4), id="all slices of a device"),
        pytest.param([*some(2, 2), *some(1, None, device=1)], id="two devices, both whole"),
    ],
)
def test_who_has_devices_for_itself_is_not_capped(held: Sequence[Slice]) -> None:
    assert caps(held) == {}


def test_a_share_too_small_for_a_fraction_is_only_told_in_bytes() -> None:
    assert caps(some(1, 16_384)) == {
        "TASUKI_GPU_MEMORY_BYTES": str(A100_BYTES // 16_384),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


@given(st.integers(2, 20_000), st.data())
def test_all_caps_of_a_device_fit_into_it(replicas: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, replicas - 1))
    slices = slices_of(a_device(), replicas)

    each = [caps(held) for held in (slices[:first], slices[first:])]

    fractions = [float(c["XLA_PYTHON_CLIENT_MEM_FRACTION"]) for c in each if "XLA_PYTHON_CLIENT_MEM_FRACTION" in c]
    assert all(0 < fraction < 1 for fraction in fractions)
    assert sum(round(fraction * 10_000) for fraction in fractions) <= 10_000
    assert sum(int(c["TASUKI_GPU_MEMORY_BYTES"]) for c in each) <= A100_BYTES
    alone = caps(slices[:1])
    assert float(alone.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0")) * replicas <= 1 + 1e-9
    assert int(alone["TASUKI_GPU_MEMORY_BYTES"]) * replicas <= A100_BYTES
