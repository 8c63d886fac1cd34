"""No device is promised twice, whatever fails while pods race for it."""

import os
from pathlib import Path

import pytest

from tests.schedext.race import Settings, race

# The large race takes minutes; the small ones find what it finds, if less surely.
LARGE = "TASUKI_RACE_PODS"


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(Settings(pods=80, upheavals=0, seed=3), id="while requests fail"),
        pytest.param(Settings(pods=80, upheavals=4, seed=5), id="while extenders come and go, too"),
    ],
)
async def test_no_device_is_promised_twice(tmp_path: Path, settings: Settings) -> None:
    await hold(tmp_path, settings)


@pytest.mark.timeout(0)
@pytest.mark.skipif(LARGE not in os.environ, reason=f"takes minutes: {LARGE}=10000 runs it with as many pods")
async def test_no_device_is_promised_twice_in_a_large_race(tmp_path: Path) -> None:
    pods = int(os.environ[LARGE])
    await hold(
        tmp_path,
        Settings(pods=pods, nodes=20, gpus=8, schedulers=64, upheavals=pods // 250, seed=7, longest_seconds=3600.0),
    )


async def hold(folder: Path, settings: Settings) -> None:
    result = await race(folder, settings)
    print(f"bound={result.bound} words={dict(result.words)}")

    assert result.overbooked == []
    assert result.bound_twice == []
    assert result.wrong == []
    assert result.reserved == []
    assert result.bound >= settings.pods
    assert {"bound", "unknown", "failed", "refused"} <= set(result.words)
