"""The one command, as a person types it."""

import pytest

from tasuki.cli import SERVICES, main


def test_without_a_service_the_services_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    status = main([])

    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    assert all(f"  {name}" in said.err for name in SERVICES)


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        pytest.param(["--help"], "0", "services:", id="help"),
        pytest.param(["--version"], "0", "tasuki ", id="version"),
        pytest.param(["sand"], "2", "choose from", id="no such service"),
        pytest.param(["sandbox", "--help"], "0", "usage: tasuki sandbox", id="a service's own help"),
    ],
)
def test_what_is_answered_at_once(capsys: pytest.CaptureFixture[str], argv: list[str], status: str, told: str) -> None:
    with pytest.raises(SystemExit, match=status):
        main(argv)

    said = capsys.readouterr()
    assert told in said.out + said.err
