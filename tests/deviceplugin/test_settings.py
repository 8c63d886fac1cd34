"""The command line and the environment."""

from pathlib import Path

import pytest

from deviceplugin.config.model import MigStrategy
from deviceplugin.config.precedence import Overrides
from deviceplugin.settings import Settings, read


def refusal(argv: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """What standard error says, if the process ends as argparse ends it."""
    with pytest.raises(SystemExit) as end:
        read(argv, environ)

    assert end.value.code == 2
    return capsys.readouterr().err


def test_nothing_said_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Node-A")

    settings = read([], {})

    assert settings == Settings(node_name="node-a")
    assert settings.kubelet_socket == Path("/var/lib/kubelet/device-plugins/kubelet.sock")
    assert settings.pod_resources_socket == Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    assert settings.cdi_root == Path("/var/run/cdi")
    assert settings.metrics_address == ("0.0.0.0", 9422)
    assert settings.overrides == Overrides()


@pytest.mark.parametrize(
    ("flag", "variable", "text", "field", "expected"),
    [
        ("simulate", "TASUKI_SIMULATE", "dgx-a100", "simulate", "dgx-a100"),
        ("kubelet-socket", "KUBELET_SOCKET", "/run/k.sock", "kubelet_socket", Path("/run/k.sock")),
        ("pod-resources-socket", "TASUKI_POD_RESOURCES_SOCKET", "/p.sock", "pod_resources_socket", Path("/p.sock")),
        ("cdi-root", "TASUKI_CDI_ROOT", "/etc/cdi", "cdi_root", Path("/etc/cdi")),
        ("sysfs-root", "TASUKI_SYSFS_ROOT", "/host/sys", "sysfs_root", Path("/host/sys")),
        ("bitstreams", "TASUKI_BITSTREAMS", "/images", "bitstreams", Path("/images")),
        ("node-name", "NODE_NAME", "node-1.example.com", "node_name", "node-1.example.com"),
        ("kube-api", "TASUKI_KUBE_API", "off", "kube_api", "off"),
        ("follow-bindings", "TASUKI_FOLLOW_BINDINGS", "off", "follow_bindings", "off"),
        ("metrics-address", "TASUKI_METRICS_ADDRESS", "127.0.0.1:1", "metrics_address", ("127.0.0.1", 1)),
        ("metrics-address", "TASUKI_METRICS_ADDRESS", "[::1]:9422", "metrics_address", ("::1", 9422)),
        ("metrics-address", "TASUKI_METRICS_ADDRESS", ":9422", "metrics_address", ("0.0.0.0", 9422)),
        ("log-level", "TASUKI_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("log-format", "TASUKI_LOG_FORMAT", "json", "log_format", "json"),
        ("config-file", "CONFIG_FILE", "/c.yaml", "config_file", Path("/c.yaml")),
        ("config-dir", "CONFIG_FILE_SRCDIR", "/configs", "config_dir", Path("/configs")),
        ("default-config", "DEFAULT_CONFIG", "config0", "default_config", "config0"),
        ("fallback-strategies", "FALLBACK_STRATEGIES", "single, empty", "fallbacks", ("single", "empty")),
        ("cdi-feature-flags", "CDI_FEATURE_FLAGS", "a,b", "cdi_feature_flags", ("a", "b")),
        ("cdi-disable-hooks", "CDI_DISABLE_HOOKS", "all", "cdi_disabled_hooks", ("all",)),
    ],
)
def test_each_setting_by_flag_and_by_variable(
    flag: str, variable: str, text: str, field: str, expected: object
) -> None:
    assert getattr(read([f"--{flag}={text}"], {}), field) == expected
    assert getattr(read([f"--{flag}", text], {variable: "other:1"}), field) == expected
    assert getattr(read([], {variable: text}), field) == expected


@pytest.mark.parametrize(
    ("flag", "variable", "field"),
    [
        ("kubelet-socket", "KUBELET_SOCKET", "kubelet_socket"),
        ("metrics-address", "TASUKI_METRICS_ADDRESS", "metrics_address"),
    ],
)
def test_an_empty_address_means_none(flag: str, variable: str, field: str) -> None:
    assert getattr(read([], {variable: ""}), field) is None
    assert getattr(read([f"--{flag}="], {variable: "/x:1"}), field) is None


def test_other_empty_variables_say_nothing() -> None:
    environ = dict.fromkeys(["TASUKI_SIMULATE", "TASUKI_LOG_LEVEL", "NODE_NAME", "CONFIG_FILE", "DEFAULT_CONFIG"], "")

    assert read([], environ) == read([], {})


def test_lists_of_xids_are_kept_as_they_stand() -> None:
    settings = read([], {"DP_DISABLE_HEALTHCHECKS": "xids", "DP_ENABLE_HEALTHCHECKS": "48, 79"})

    assert (settings.disabled_xids, settings.enabled_xids) == ("xids", "48, 79")


@pytest.mark.parametrize(
    ("argv", "environ", "sentence"),
    [
        pytest.param(["--mig-strategy=both"], {}, "--mig-strategy is 'both'; it must be none, single or mixed",
                     id="flag of the file"),
        pytest.param([], {"MIG_STRATEGY": "both"}, "MIG_STRATEGY is 'both'; it must be", id="variable of the file"),
        pytest.param([], {"MIG_STRATEGY": ""}, "MIG_STRATEGY is ''; it must be", id="empty variable"),
        pytest.param([], {"FAIL_ON_INIT_ERROR": "yes"}, "FAIL_ON_INIT_ERROR is 'yes'; it must be true or false",
                     id="boolean"),
        pytest.param([], {"DEVICE_LIST_STRATEGY": "envvar,x"}, "DEVICE_LIST_STRATEGY[1] is 'x'; it must be",
                     id="list"),
        pytest.param([], {"DEVICE_LIST_STRATEGY": ""}, "DEVICE_LIST_STRATEGY[0] is ''", id="empty list"),
        pytest.param([], {"IMEX_CHANNEL_IDS": "a"}, "IMEX_CHANNEL_IDS is 'a'; it must be whole numbers", id="numbers"),
        pytest.param([], {"IMEX_CHANNEL_IDS": "0,1"}, "IMEX_CHANNEL_IDS is [0, 1]; it must be [] or [0]",
                     id="channels"),
        pytest.param(["--device-discovery-strategy=tegra"], {}, "Tegra devices are not supported", id="Tegra"),
        pytest.param(["--nvidia-driver-root=x"], {}, "it must be an absolute path", id="relative path"),
        pytest.param(["--sleep-interval=1"], {}, "--sleep-interval is '1'; it must be a duration", id="duration"),
        pytest.param([], {"TASUKI_METRICS_ADDRESS": "9422"}, "it must be host:port", id="address without a host"),
        pytest.param([], {"TASUKI_METRICS_ADDRESS": "a:99999"}, "it must be host:port", id="port out of range"),
        pytest.param([], {"TASUKI_LOG_LEVEL": "loud"}, "it must be debug, info, warning or error", id="log level"),
        pytest.param([], {"TASUKI_LOG_FORMAT": "xml"}, "it must be text or json", id="log format"),
        pytest.param([], {"TASUKI_KUBE_API": "on"}, "it must be auto or off", id="API"),
        pytest.param([], {"NODE_NAME": "Node_1"}, "NODE_NAME is 'Node_1'; it must be a Node's name", id="node name"),
        pytest.param([], {"FALLBACK_STRATEGIES": "named,x"}, "it must be named, single or empty", id="fallbacks"),
        pytest.param([], {"KUBELET_SOCKET": f"/{'s' * 107}"}, "at most 107 bytes for a socket, not 108",
                     id="long socket path"),
        pytest.param([], {"KUBELET_SOCKET": f"/{'é' * 54}"}, "not 109", id="bytes, not characters"),
        pytest.param(["--pod-resources-socket", "/" + "s" * 108], {}, "at most 107 bytes", id="other socket path"),
        pytest.param(["--sysfs-root=sys"], {}, "it must be an absolute path", id="relative root"),
        pytest.param([], {"CONFIG_FILE": "/a", "CONFIG_FILE_SRCDIR": "/b"}, "are both set", id="file and folder"),
        pytest.param(["--mig-stratgy=mixed"], {}, "unknown argument --mig-stratgy=mixed; did you mean --mig-strategy?",
                     id="misspelled flag"),
        pytest.param(["--mig"], {}, "unknown argument --mig", id="half a flag"),
        pytest.param(["--mig-strategy"], {}, "expected one argument", id="flag without a value"),
        pytest.param(["server"], {}, "unknown argument server", id="a word"),
        pytest.param([], {"TASUKI_SIMULATED": "x"},
                     "TASUKI_SIMULATED is not a known environment variable; the nearest is TASUKI_SIMULATE",
                     id="misspelled variable"),
        pytest.param([], {"TASUKI_METRICS_PORT": "9422"}, "the nearest is TASUKI_METRICS_ADDRESS",
                     id="a slip that looks like a Service link"),
        pytest.param([], {"TASUKI_": ""}, "TASUKI_ is not a known environment variable", id="nothing but the prefix"),
    ],
)  # fmt: skip
def test_refuses(argv: list[str], environ: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(argv, environ, capsys)


def test_service_links_are_not_taken_for_settings() -> None:
    links = {
        "TASUKI_SERVICE_HOST": "10.0.0.1",
        "TASUKI_SERVICE_PORT": "80",
        "TASUKI_PORT": "tcp://10.0.0.1:80",
        "TASUKI_METRICS_SERVICE_HOST": "10.0.0.1",
        "TASUKI_METRICS_SERVICE_PORT_HTTP": "9422",
        "TASUKI_METRICS_PORT": "tcp://10.0.0.1:9422",
        "TASUKI_METRICS_PORT_9422_TCP": "tcp://10.0.0.1:9422",
        "TASUKI_METRICS_PORT_9422_TCP_PROTO": "tcp",
        "TASUKI_METRICS_PORT_9422_TCP_PORT": "9422",
        "TASUKI_METRICS_PORT_9422_TCP_ADDR": "10.0.0.1",
    }

    assert read([], links) == read([], {})


@pytest.mark.parametrize("name", ["TASUKI_GPU_MEMORY_BYTES", "TASUKI_FPGA_REGION", "TASUKI_FPGA_RESIZE_CHANNEL"])
def test_a_variable_handed_to_containers_is_no_setting(name: str) -> None:
    assert read([], {name: "1"}) == read([], {})


def test_the_variables_of_nvidias_helm_chart_are_accepted_and_explained() -> None:
    settings = read([], {
        "ONESHOT": "false",
        "KUBECONFIG": "",
        "NODE_NAME": "node-1",
        "NODE_LABEL": "nvidia.com/device-plugin.config",
        "CONFIG_FILE_SRCDIR": "/available-configs",
        "CONFIG_FILE_DST": "/config/config.yaml",
        "DEFAULT_CONFIG": "",
        "FALLBACK_STRATEGIES": "named,single",
        "SEND_SIGNAL": "true",
        "SIGNAL": "1",
        "PROCESS_TO_SIGNAL": "nvidia-device-plugin",
        "MPS_ROOT": "/run/nvidia/mps",
        "MIG_STRATEGY": "mixed",
        "NVIDIA_MIG_MONITOR_DEVICES": "all",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    })  # fmt: skip

    assert settings.config_dir == Path("/available-configs")
    assert settings.overrides == Overrides(mps_root="/run/nvidia/mps", mig_strategy=MigStrategy.MIXED)
    assert [notice.split()[0] for notice in settings.notices] == [
        "CONFIG_FILE_DST",
        "SEND_SIGNAL",
        "SIGNAL",
        "PROCESS_TO_SIGNAL",
        "ONESHOT",
    ]


def test_feature_flags_of_another_library_are_explained() -> None:
    assert read(["--cdi-feature-flags=a"], {}).notices == (
        "CDI_FEATURE_FLAGS=a has no effect: they are for the library that NVIDIA's plugin uses",
    )


def test_another_label_is_explained() -> None:
    assert read([], {"NODE_LABEL": "example.com/config"}).notices == (
        "NODE_LABEL=example.com/config has no effect: the label is always nvidia.com/device-plugin.config",
    )


def test_help_is_grouped_and_names_each_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read(["--help"], {})

    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "as NVIDIA's device plugin, in place of the configuration file: --mig-strategy" in text
    assert "Tasuki's own: --simulate" in text
    assert "--nvidia-dev-root VALUE, --dev-root VALUE" in text
    assert "(envvar) [DEVICE_LIST_STRATEGY]" in text
    assert "(0.0.0.0:9422) [TASUKI_METRICS_ADDRESS]" in text
