"""No device is promised twice, whatever fails while pods race for it."""

from pathlib import Path

import pytest

from tests.schedext.race import Settings, race


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(Settings(pods=80, upheavals=0, seed=3), id="while requests fail"),
        pytest.param(Settings(pods=80, upheavals=4, seed=5), id="while extenders come and go, too"),
    ],
)
async def test_no_device_is_promised_twice(tmp_path: Path, settings: Settings) -> None:
    result = await race(tmp_path, settings)

    assert result.overbooked == []
    assert result.bound_twice == []
    assert result.wrong == []
    assert result.reserved == []
    assert result.bound >= settings.pods
    assert {"bound", "unknown", "failed", "refused"} <= set(result.words)
