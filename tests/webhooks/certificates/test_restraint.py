"""How often one replica may overrule another, by seconds since it began."""

import pytest

from webhooks.certificates.restraint import Restraint


def overruled(wanted: list[int]) -> list[int]:
    """When it happens, of the seconds at which it is wanted."""
    restraint = Restraint(first_seconds=60, most_seconds=200, peace_seconds=1000)
    happened = []
    for second in wanted:
        if restraint.allows(second):
            restraint.overruled(second)
            happened.append(second)
    return happened


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param([0], [0], id="the first time at once"),
        pytest.param([0, 59, 60], [0, 60], id="the second time after a pause"),
        pytest.param(list(range(0, 1000, 20)), [0, 60, 180, 380, 580, 780, 980], id="ever more rarely, to a limit"),
        pytest.param([0, 60, 1060, 1120], [0, 60, 1060, 1120], id="as at first after a time of peace"),
    ],
)
def test_overruling_becomes_rare(wanted: list[int], expected: list[int]) -> None:
    assert overruled(wanted) == expected
