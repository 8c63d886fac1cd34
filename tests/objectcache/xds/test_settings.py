from pathlib import Path

import pytest

from objectcache.xds.__main__ import main
from objectcache.xds.settings import Settings, read
from objectcache.xds.snapshot import Options


def test_the_defaults_need_nothing() -> None:
    assert read([], {}) == Settings()
    assert read([], {}).options() == Options()


def test_every_setting_has_a_flag_and_a_variable() -> None:
    settings = read(
        [
            "--listen=127.0.0.1:1", "--metrics-address=", "--endpoints=/e.yaml", "--namespace=caches",
            "--selector=app=cache", "--cache-port=80", "--weights=label", "--envoy-listen=127.0.0.1:2",
        ],
        {
            "TASUKI_ACCESS_LOG": "errors", "TASUKI_IDLE_SECONDS": "60", "TASUKI_TABLE_SIZE": "655373",
            "TASUKI_TLS_DIR": "/tls", "TASUKI_CLIENT_CA": "/ca.crt", "TASUKI_LOG_LEVEL": "debug",
            "TASUKI_LOG_FORMAT": "json",
        },
    )  # fmt: skip

    assert settings == Settings(
        listen=("127.0.0.1", 1), metrics_address=None, endpoints=Path("/e.yaml"), namespace="caches",
        selector="app=cache", cache_port=80, weights="label", envoy_listen=("127.0.0.1", 2), access_log="errors",
        idle_seconds=60.0, table_size=655_373, tls_dir=Path("/tls"), client_ca=Path("/ca.crt"), log_level="debug",
        log_format="json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        pytest.param("--table-size=65536", "must be a prime", id="a table of a size that is no prime"),
        pytest.param("--cache-port=0", "a port from 1", id="port 0"),
        pytest.param("--namespace=Caches", "a namespace", id="a namespace in capitals"),
        pytest.param("--idle-seconds=0", "seconds from 1", id="no time"),
        pytest.param("--client-ca=/ca.crt", "give --tls-dir too", id="authorities without TLS"),
        pytest.param("--weights=some", "equal or label", id="unknown weights"),
        pytest.param("--endpoint=/e.yaml", "did you mean --endpoints", id="a slip"),
    ],
)
def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], argument: str, problem: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        read([argument], {})

    assert exit_.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["bootstrap", "--help"]], ids=" ".join)
def test_help_is_given(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)

    assert exit_.value.code == 0
    assert "usage: tasuki xds" in capsys.readouterr().out
