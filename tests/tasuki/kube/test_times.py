"""Times of the API server's objects."""

from datetime import UTC, datetime

import pytest

from tasuki.kube.times import read_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T13:00:00.5+01:00", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("", None),
        ("soon", None),
    ],
)
def test_times_are_read_with_their_zone(text: str, expected: datetime | None) -> None:
    assert read_time(text) == expected
