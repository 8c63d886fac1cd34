"""The command line and the environment of the scheduler extender."""

from pathlib import Path

import pytest

from schedext.binding import DEFAULT_BIND_TIMES
from schedext.costs import DEFAULT_COSTS
from schedext.settings import Settings, read


def test_the_defaults_need_nothing_and_let_nobody_else_bind() -> None:
    settings = read([], {})

    assert settings == Settings()
    assert settings.listen == ("127.0.0.1", 9445)
    assert settings.costs() == DEFAULT_COSTS
    assert settings.reserve_seconds == DEFAULT_BIND_TIMES.reserve_seconds


def test_every_setting_has_a_flag_and_a_variable() -> None:
    settings = read(
        [
            "--listen=:8443", "--explain-listen=", "--tls-dir=/tls", "--client-ca=/ca.pem", "--lease=off",
            "--policy=spread", "--zone-bandwidth=25G", "--other-zone-bandwidth=1G", "--run-hours=0.5",
        ],
        {
            "TASUKI_METRICS_ADDRESS": "", "TASUKI_LOCAL_DISK_BANDWIDTH": "500M", "TASUKI_ORIGIN_BANDWIDTH": "1Gi",
            "TASUKI_RESERVE_SECONDS": "90", "TASUKI_DRAIN_SECONDS": "0", "TASUKI_LOG_LEVEL": "debug",
            "TASUKI_LOG_FORMAT": "json", "TASUKI_ALLOW_ANYONE": "True",
        },
    )  # fmt: skip

    assert settings == Settings(
        listen=(settings.listen[0], 8443), explain_listen=None, metrics_address=None, tls_dir=Path("/tls"),
        client_ca=Path("/ca.pem"), allow_anyone="true", lease="off", policy="spread", zone_bandwidth=25e9,
        other_zone_bandwidth=1e9, local_disk_bandwidth=5e8, origin_bandwidth=2.0**30, run_hours=0.5,
        reserve_seconds=90.0, drain_seconds=0.0, log_level="debug", log_format="json",
    )  # fmt: skip


def test_settings_change_what_seconds_are_made_of() -> None:
    costs = read(["--origin-bandwidth=250M", "--policy=spread", "--run-hours=8"], {}).costs()

    assert costs.origin.bytes_per_second == 250e6
    assert costs.origin.latency_seconds == DEFAULT_COSTS.origin.latency_seconds
    assert (costs.policy, costs.run_hours) == ("spread", 8.0)
    assert costs.zone == DEFAULT_COSTS.zone


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.1.2.3"])
def test_loopback_needs_no_certificates(host: str) -> None:
    assert read(["--listen", f"{host}:9445"], {}).client_ca is None


@pytest.mark.parametrize("listen", [":9445", "0.0.0.0:9445", "[::]:9445", "10.0.0.7:9445", "extender.example:9445"])
def test_beyond_loopback_it_takes_certificates_or_a_word(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(["--listen", listen], {})
    said = capsys.readouterr().err

    assert "may bind any pod to any node" in said
    assert "--client-ca" in said
    assert "--allow-anyone true" in said
    assert read(["--listen", listen], {"TASUKI_ALLOW_ANYONE": "true"}).allow_anyone == "true"
    assert read(["--listen", listen, "--tls-dir=/tls", "--client-ca=/ca.pem"], {}).client_ca == Path("/ca.pem")


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        pytest.param(["--lisen", "x"], {}, "did you mean --listen?", id="a slip in a flag"),
        pytest.param([], {"TASUKI_LISEN": "x"}, "the nearest is TASUKI_LISTEN", id="a slip in a variable"),
        pytest.param(["--listen", "9445"], {}, "--listen is '9445'; it must be host:port", id="no port"),
        pytest.param(["--client-ca", "/ca.pem"], {}, "give --tls-dir too", id="certificates without TLS"),
        pytest.param(["--policy", "binpack"], {}, "it must be pack or spread", id="another's policy"),
        pytest.param(["--zone-bandwidth", "fast"], {}, "such as 12G", id="no quantity"),
        pytest.param(["--zone-bandwidth", "100"], {}, "such as 12G", id="gigabits, most likely"),
        pytest.param(["--run-hours", "0"], {}, "a number of hours from 0.01 to 10000", id="no time at all"),
        pytest.param(["--reserve-seconds", "1"], {}, "a number of seconds from 60 to 600", id="too short"),
        pytest.param(["--drain-seconds", "nan"], {}, "a number of seconds from 0 to 300", id="no number"),
        pytest.param(["--allow-anyone", "yes"], {}, "it must be true or false", id="another word"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(
    arguments: list[str], variables: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(arguments, variables)

    assert expected in capsys.readouterr().err


def test_links_to_our_own_service_are_no_settings() -> None:
    linked = read([], {"TASUKI_SCHEDEXT_SERVICE_HOST": "10.0.0.1", "TASUKI_SCHEDEXT_PORT": "tcp://10.0.0.1:9446"})

    assert linked == Settings()


def test_help_says_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read(["--help"], {})
    said = " ".join(capsys.readouterr().out.split())

    assert "bytes per second between nodes of a zone (12G) [TASUKI_ZONE_BANDWIDTH]" in said
    assert "(127.0.0.1:9445) [TASUKI_LISTEN]" in said
