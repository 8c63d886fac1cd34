"""The command line and the environment of the webhooks."""

from pathlib import Path

import pytest

from webhooks.settings import Settings, read


def test_the_defaults_need_nothing() -> None:
    assert read([], {}) == Settings()


def test_a_flag_goes_before_its_variable() -> None:
    settings = read(["--policy", "here.yaml"], {"TASUKI_POLICY": "there.yaml", "TASUKI_LISTEN": "[::1]:8443"})

    assert settings.policy == Path("here.yaml")
    assert settings.listen == ("::1", 8443)


def test_every_setting_has_a_flag_and_a_variable() -> None:
    settings = read(
        [
            "--tls-dir=/tls", "--tls-secret=s", "--webhook-configuration=w", "--server-names=a.example,127.0.0.1",
            "--server-names=b.example", "--namespace=n", "--client-ca=/ca.pem", "--drain-seconds=0.5",
            "--try=pods.yaml", "--in-namespace=team",
        ],
        {
            "TASUKI_METRICS_ADDRESS": "", "TASUKI_MODULES_CATALOGUE": "/m.txt", "TASUKI_KUBE_API": "OFF",
            "TASUKI_LOG_LEVEL": "debug", "TASUKI_LOG_FORMAT": "json",
        },
    )  # fmt: skip

    assert settings == Settings(
        tls_dir=Path("/tls"), tls_secret="s", webhook_configuration="w",
        server_names=("a.example", "127.0.0.1", "b.example"), namespace="n", client_ca=Path("/ca.pem"),
        drain_seconds=0.5, trial=Path("pods.yaml"), trial_namespace="team", metrics_address=None,
        modules_catalogue=Path("/m.txt"), kube_api="off", log_level="debug", log_format="json",
    )  # fmt: skip


def test_the_certificate_is_for_the_service_of_our_namespace() -> None:
    names = Settings().names("tasuki-system")

    assert names == ("tasuki-webhooks.tasuki-system.svc", "tasuki-webhooks.tasuki-system.svc.cluster.local")


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        pytest.param(["--polcy", "x"], {}, "did you mean --policy?", id="a slip in a flag"),
        pytest.param([], {"TASUKI_POLCY": "x"}, "the nearest is TASUKI_POLICY", id="a slip in a variable"),
        pytest.param([], {"TASUKI_POD_NAME": "a"}, "TASUKI_POD_NAME", id="a variable of another daemon"),
        pytest.param(["--listen", "9443"], {}, "--listen is '9443'; it must be host:port", id="no port"),
        pytest.param(["--drain-seconds", "soon"], {}, "a number of seconds from 0 to 300", id="no number"),
        pytest.param(["--drain-seconds", "301"], {}, "a number of seconds from 0 to 300", id="too long"),
        pytest.param([], {"TASUKI_KUBE_API": "maybe"}, "TASUKI_KUBE_API is 'maybe'; it must be auto or off", id="word"),
        pytest.param(["--tls-secret", "../x"], {}, "a Kubernetes name", id="a path for a name"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(
    arguments: list[str], variables: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(arguments, variables)

    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_links_to_our_own_service_are_no_settings() -> None:
    linked = read([], {"TASUKI_WEBHOOKS_SERVICE_HOST": "10.0.0.1", "TASUKI_WEBHOOKS_PORT": "tcp://10.0.0.1:443"})

    assert linked == Settings()
