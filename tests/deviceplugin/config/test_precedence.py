"""Flag before environment variable before file, for every flag that NVIDIA's plugin has."""

from typing import Any

import pytest

from deviceplugin.config.flags import FLAGS, Flag
from deviceplugin.config.model import Config, DeviceListStrategy, MigStrategy
from deviceplugin.config.precedence import Overrides, apply, load, notices
from deviceplugin.settings import read
from tasuki.process.document import ConfigError

# For each setting: what the file, the variable and the flag say, and how to read the outcome.
VALUES: dict[str, tuple[str, str, str]] = {
    "flags.migStrategy": ("none", "single", "mixed"),
    "flags.failOnInitError": ("true", "false", "true"),
    "flags.nvidiaDriverRoot": ("/file", "/variable", "/flag"),
    "flags.nvidiaDevRoot": ("/file", "/variable", "/flag"),
    "flags.plugin.passDeviceSpecs": ("true", "false", "true"),
    "flags.plugin.deviceListStrategy": ("envvar", "volume-mounts,cdi-cri", "cdi-annotations"),
    "flags.plugin.deviceIDStrategy": ("uuid", "index", "uuid"),
    "flags.gdrcopyEnabled": ("true", "false", "true"),
    "flags.gdsEnabled": ("true", "false", "true"),
    "flags.mofedEnabled": ("true", "false", "true"),
    "flags.plugin.cdiAnnotationPrefix": ("file.io/", "variable.io/", "flag.io/"),
    "flags.plugin.nvidiaCTKPath": ("/file", "/variable", "/flag"),
    "flags.plugin.containerDriverRoot": ("/file", "/variable", "/flag"),
    "flags.mpsRoot": ("/file", "/variable", "/flag"),
    "flags.plugin.sharedDevicesAllocationPolicy": ("distributed", "packed", "distributed"),
    "flags.deviceDiscoveryStrategy": ("auto", "nvml", "auto"),
    "imex.channelIDs": ("[]", "0", "0"),
    "imex.required": ("true", "false", "true"),
    "flags.useNodeFeatureAPI": ("true", "false", "true"),
    "flags.gfd.oneshot": ("true", "false", "true"),
    "flags.gfd.noTimestamp": ("true", "false", "true"),
    "flags.gfd.sleepInterval": ("10s", "20s", "30s"),
    "flags.gfd.outputFile": ("/file", "/variable", "/flag"),
    "flags.gfd.machineTypeFile": ("/file", "/variable", "/flag"),
}

EVERY_FLAG = pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.key)


def file_saying(flag: Flag, value: str) -> bytes:
    *blocks, key = flag.key.split(".")
    text = f"{key}: {value}"
    for block in reversed(blocks):
        text = f"{block}: {{{text}}}"
    return text.encode()


def outcome(flag: Flag, file: bytes, environ: dict[str, str], argv: list[str]) -> Any:
    """The one setting, from a file, variables and arguments."""
    value: Any = load(file, read(argv, environ).overrides)
    *blocks, _ = flag.key.split(".")
    for block in blocks:
        value = getattr(value, block)
    return getattr(value, flag.field.removeprefix("imex_"))


def parsed(flag: Flag, text: str) -> Any:
    return () if text == "[]" else flag.parse(text, "the test's value")


def test_every_flag_has_its_field_and_a_row_in_this_table() -> None:
    assert {flag.field for flag in FLAGS} == set(Overrides.__struct_fields__)
    assert [flag.key for flag in FLAGS] == list(VALUES)


@EVERY_FLAG
def test_the_file_counts_where_nothing_else_is_said(flag: Flag) -> None:
    in_file, _, _ = VALUES[flag.key]

    assert outcome(flag, file_saying(flag, in_file), {}, []) == parsed(flag, in_file)


@EVERY_FLAG
def test_each_variable_goes_before_the_file(flag: Flag) -> None:
    in_file, in_variable, _ = VALUES[flag.key]

    for variable in flag.variables:
        found = outcome(flag, file_saying(flag, in_file), {variable: in_variable}, [])
        assert found == parsed(flag, in_variable)


@EVERY_FLAG
def test_each_spelling_of_the_flag_goes_before_the_variable(flag: Flag) -> None:
    in_file, in_variable, on_line = VALUES[flag.key]

    for name in flag.names:
        for argument in (f"--{name}={on_line}", f"-{name}={on_line}"):
            found = outcome(flag, file_saying(flag, in_file), {flag.variables[0]: in_variable}, [argument])
            assert found == parsed(flag, on_line)


@pytest.mark.parametrize("flag", [f for f in FLAGS if len(f.variables) > 1], ids=lambda flag: flag.key)
def test_the_first_of_several_variables_counts(flag: Flag) -> None:
    _, in_variable, other = VALUES[flag.key]
    environ = {flag.variables[1]: other, flag.variables[0]: in_variable}

    assert outcome(flag, b"", environ, []) == parsed(flag, in_variable)


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.is_boolean], ids=lambda flag: flag.key)
def test_a_boolean_flag_alone_means_true_and_an_empty_variable_false(flag: Flag) -> None:
    assert outcome(flag, file_saying(flag, "false"), {}, [f"--{flag.names[0]}"]) is True
    assert outcome(flag, file_saying(flag, "true"), {flag.variables[0]: ""}, []) is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [*((text, True) for text in ("1", "t", "T", "TRUE", "true", "True")),
     *((text, False) for text in ("0", "f", "F", "FALSE", "false", "False"))],
)  # fmt: skip
def test_booleans_are_spelled_as_in_go(text: str, expected: bool) -> None:
    assert read([], {"GDS_ENABLED": text}).overrides.gds_enabled is expected
    assert read(["--gds-enabled", text], {}).overrides.gds_enabled is expected


def test_a_list_is_repeated_or_has_commas() -> None:
    by_commas = read(["--device-list-strategy=envvar, cdi-cri"], {}).overrides
    repeated = read(["--device-list-strategy", "envvar", "--device-list-strategy", "cdi-cri"], {}).overrides

    assert by_commas == repeated
    assert by_commas.device_list_strategy == (DeviceListStrategy.ENVVAR, DeviceListStrategy.CDI_CRI)


def test_an_empty_list_of_channels_in_the_environment_says_nothing() -> None:
    assert read([], {"IMEX_CHANNEL_IDS": ""}).overrides == Overrides()


def test_an_empty_path_in_the_environment_empties_the_files() -> None:
    config = load(b"flags: {nvidiaDevRoot: /file}", read([], {"NVIDIA_DEV_ROOT": ""}).overrides)

    assert config.flags.nvidia_dev_root == "/"


def test_the_dev_root_follows_the_driver_root_of_the_command_line() -> None:
    config = load(b"flags: {nvidiaDriverRoot: /file}", Overrides(nvidia_driver_root="/run/nvidia/driver"))

    assert config.flags.nvidia_dev_root == "/run/nvidia/driver"


def test_what_needs_several_settings_is_checked_after_all_are_known() -> None:
    shared_by_mps = b"sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}"

    assert load(shared_by_mps, Overrides(mps_root="/run/nvidia/mps")).flags.mps_root == "/run/nvidia/mps"
    with pytest.raises(ConfigError, match="MPS cannot share MIG devices"):
        load(shared_by_mps, Overrides(mps_root="/run/nvidia/mps", mig_strategy=MigStrategy.MIXED))


def test_applying_nothing_changes_nothing() -> None:
    assert apply(Config(), Overrides()) == Config()


def test_sharing_by_mps_tells_that_it_needs_a_daemon() -> None:
    by_mps = b"sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}"

    assert notices(Config()) == ()
    assert notices(load(by_mps, Overrides(mps_root="/run/mps"))) == (
        "sharing.mps needs NVIDIA's MPS control daemon on this node, with its files under /run/mps; Tasuki starts none",
    )
