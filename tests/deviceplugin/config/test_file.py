"""The configuration file: what is accepted and what it means, what is refused and how."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.config import file
from deviceplugin.config.model import (
    AllocationPolicy,
    Config,
    DeviceIdStrategy,
    DeviceListStrategy,
    DeviceNodes,
    GfdFlags,
    HealthOptions,
    Imex,
    MigStrategy,
    PluginFlags,
    ResourcePattern,
    SharedResource,
    SharingStrategy,
    TasukiOptions,
)
from deviceplugin.config.precedence import Overrides, load
from tasuki.process.document import ConfigError
from tasuki.process.keys import Table

EXAMPLES = sorted((Path(__file__).parents[3] / "examples/config").glob("*.yaml"))

UUID = "b1028956-cfa2-0990-bf4a-5da9abb51763"

# Every key that NVIDIA's plugin knows, and all of ours.
EVERYTHING = f"""
version: v1
flags:
  migStrategy: mixed
  failOnInitError: false
  mpsRoot: /run/nvidia/mps
  nvidiaDriverRoot: /run/nvidia/driver
  nvidiaDevRoot: /run/nvidia/dev
  gdrcopyEnabled: true
  gdsEnabled: true
  mofedEnabled: true
  useNodeFeatureAPI: true
  deviceDiscoveryStrategy: nvml
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [volume-mounts, cdi-cri]
    deviceIDStrategy: index
    cdiAnnotationPrefix: nvidia.cdi.k8s.io/
    nvidiaCTKPath: /usr/local/bin/nvidia-ctk
    containerDriverRoot: /host
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: true
    noTimestamp: true
    sleepInterval: 1m30s
    outputFile: /out
    machineTypeFile: /machine
resources:
  gpus:
  - pattern: "*A100*"
    name: a100
  - {{pattern: "*", name: gpu}}
  mig:
  - pattern: 1g.5gb
    name: example.com/small
sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources:
    - name: nvidia.com/a100
      devices: [0, "1", "2:1", GPU-{UUID}, MIG-{UUID}, MIG-GPU-{UUID}/3/0]
      replicas: 10
    - name: gpu
      rename: gpu-lots
      devices: 2
      replicas: 4
imex:
  channelIDs: [0]
  required: true
tasuki:
  memoryCaps: false
  rescanSeconds: 5
  deviceNodes:
    enabled: true
    libraryHostPath: /opt/nvidia
    libraryContainerPath: /usr/lib/nvidia
  health:
    recoverySeconds: 300
    probeSeconds: 2.5
"""


def loaded(text: str) -> Config:
    return load(text.encode(), Overrides())


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        loaded(text)
    return error.value.problems


def test_every_key_arrives() -> None:
    config = loaded(EVERYTHING)

    flags = config.flags
    assert (flags.mig_strategy, flags.fail_on_init_error) == (MigStrategy.MIXED, False)
    assert (flags.mps_root, flags.nvidia_driver_root) == ("/run/nvidia/mps", "/run/nvidia/driver")
    assert flags.nvidia_dev_root == "/run/nvidia/dev"
    assert flags.gdrcopy_enabled
    assert flags.gds_enabled
    assert flags.mofed_enabled
    assert flags.use_node_feature_api
    assert flags.device_discovery_strategy == "nvml"
    assert flags.plugin == PluginFlags(
        pass_device_specs=True,
        device_list_strategy=(DeviceListStrategy.VOLUME_MOUNTS, DeviceListStrategy.CDI_CRI),
        device_id_strategy=DeviceIdStrategy.INDEX,
        cdi_annotation_prefix="nvidia.cdi.k8s.io/",
        nvidia_ctk_path="/usr/local/bin/nvidia-ctk",
        container_driver_root="/host",
        shared_devices_allocation_policy=AllocationPolicy.PACKED,
    )
    assert flags.gfd == GfdFlags(
        oneshot=True, no_timestamp=True, sleep_seconds=90, output_file="/out", machine_type_file="/machine"
    )
    assert config.resources.gpus == (
        ResourcePattern("*A100*", "nvidia.com/a100"),
        ResourcePattern("*", "nvidia.com/gpu"),
    )
    assert config.resources.mig == (ResourcePattern("1g.5gb", "example.com/small"),)
    assert config.sharing.strategy is SharingStrategy.TIME_SLICING
    assert config.sharing.fail_requests_greater_than_one
    assert config.sharing.resources == (
        SharedResource(
            name="nvidia.com/a100",
            rename="nvidia.com/a100.shared",
            devices=("0", "1", "2:1", f"GPU-{UUID}", f"MIG-{UUID}", f"MIG-GPU-{UUID}/3/0"),
            replicas=10,
        ),
        SharedResource(name="nvidia.com/gpu", rename="nvidia.com/gpu-lots", devices=2, replicas=4),
    )
    assert config.imex == Imex(channel_ids=(0,), required=True)
    assert config.tasuki == TasukiOptions(
        memory_caps=False,
        rescan_seconds=5.0,
        device_nodes=DeviceNodes(
            enabled=True, library_host_path="/opt/nvidia", library_container_path="/usr/lib/nvidia"
        ),
        health=HealthOptions(recovery_seconds=300.0, probe_seconds=2.5),
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("version: v1", id="only a version"),
        pytest.param("version: ''", id="an empty version"),
        pytest.param("{}", id="an empty mapping"),
        pytest.param("flags:\nsharing:\nresources:\nimex:\ntasuki:", id="empty blocks"),
        pytest.param("flags: {plugin: null, gfd: ~, migStrategy: }", id="empty values"),
        pytest.param("sharing: {mps: }", id="an empty MPS block"),
        pytest.param("resources: {gpus: [], mig: []}", id="empty lists of patterns"),
        pytest.param("imex: {channelIDs: []}", id="no channels"),
    ],
)
def test_a_file_that_says_nothing_gives_the_defaults(text: str) -> None:
    assert loaded(text) == Config()


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.swapcase])
def test_the_case_of_keys_matters_only_where_it_does_for_nvidia(spelling: Any) -> None:
    folded = {"flags", "plugin", "migStrategy", "deviceListStrategy", "sharing", "timeSlicing", "imex", "channelIDs"}
    text = """
flags: {migStrategy: mixed, plugin: {deviceListStrategy: cdi-cri}}
sharing: {timeSlicing: {resources: [{name: gpu, replicas: 2}]}}
imex: {channelIDs: [0]}
"""
    expected = loaded(text)
    for key in folded:
        text = text.replace(f"{key}:", f"{spelling(key)}:")

    assert loaded(text) == expected


def test_json_is_accepted() -> None:
    text = '{"version":"v1","sharing":{"timeSlicing":{"resources":[{"name":"nvidia.com/gpu","replicas":4}]}}}'

    assert loaded(text).sharing.resources == (
        SharedResource(name="nvidia.com/gpu", rename="nvidia.com/gpu", replicas=4),
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param("timeSlicing: {", False, id="time slicing allows them"),
        pytest.param("timeSlicing: {failRequestsGreaterThanOne: true, ", True, id="time slicing told to refuse"),
        pytest.param("timeSlicing: {failRequestsGreaterThanOne: , ", False, id="time slicing told nothing"),
        pytest.param("mps: {", True, id="MPS refuses them"),
        pytest.param("mps: {failRequestsGreaterThanOne: false, ", False, id="MPS told to allow"),
        pytest.param("mps: {failRequestsGreaterThanOne: null, ", True, id="MPS told nothing"),
    ],
)
def test_requests_greater_than_one(block: str, expected: bool) -> None:
    config = loaded(f"flags: {{mpsRoot: /mps}}\nsharing: {{{block}resources: [{{name: gpu, replicas: 2}}]}}}}")

    assert config.sharing.fail_requests_greater_than_one is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("envvar", ["envvar"], id="one as a string"),
        pytest.param("[cdi-cri, envvar]", ["cdi-cri", "envvar"], id="a list"),
        pytest.param("[envvar, envvar]", ["envvar"], id="one twice"),
    ],
)
def test_device_list_strategy(value: str, expected: list[str]) -> None:
    config = loaded(f"flags: {{plugin: {{deviceListStrategy: {value}}}}}")

    assert list(config.flags.plugin.device_list_strategy) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("60s", 60.0),
        ("1h2m3.5s", 3723.5),
        ("100ms", 0.1),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("+2m", 120.0),
        (".5s", 0.5),
        ("60000000000", 60.0),
        ("6e10", 60.0),
        ("infinite", float("inf")),
    ],
)
def test_sleep_interval(value: str, seconds: float) -> None:
    assert loaded(f"flags: {{gfd: {{sleepInterval: {value}}}}}").flags.gfd.sleep_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param("all", "all", id="all"),
        pytest.param("3", 3, id="a number"),
        pytest.param("3.0", 3, id="a whole number with a dot"),
        pytest.param("[0, 1]", ("0", "1"), id="indices"),
        pytest.param("['00']", ("0",), id="an index with zeros in front"),
        pytest.param("[0:0, 0:1]", ("0:0", "0:1"), id="MIG indices without quotes"),
    ],
)
def test_devices(devices: str, expected: object) -> None:
    text = f"sharing: {{timeSlicing: {{resources: [{{name: gpu, replicas: 2, devices: {devices}}}]}}}}"

    assert loaded(text).sharing.resources[0].devices == expected


def test_an_empty_dev_root_is_the_driver_root() -> None:
    config = loaded("flags: {nvidiaDriverRoot: /run/nvidia/driver, nvidiaDevRoot: ''}")

    assert config.flags.nvidia_dev_root == "/run/nvidia/driver"


def test_entries_of_one_resource_may_share_different_devices() -> None:
    config = loaded("""
sharing:
  timeSlicing:
    resources:
    - {name: gpu, replicas: 2, devices: [0, 1]}
    - {name: gpu, replicas: 8, devices: [2], rename: gpu.crowded}
""")

    assert [r.rename for r in config.sharing.resources] == ["nvidia.com/gpu", "nvidia.com/gpu.crowded"]


def entry(text: str) -> str:
    return f"sharing: {{timeSlicing: {{resources: [{{{text}}}]}}}}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("- a", "line 1: the file is a list; it must be a mapping", id="a list for a file"),
        pytest.param("version: v2", "version is 'v2'; the only version is v1", id="another version"),
        pytest.param("flags: 5", "flags is 5; it must be a mapping", id="a number for a block"),
        pytest.param("flags: {migStrategy: both}", "flags.migStrategy is 'both'; it must be none, single or mixed",
                     id="MIG strategy"),
        pytest.param("flags: {migStrategy: [none]}", "flags.migStrategy is a list", id="a list for a choice"),
        pytest.param("flags: {failOnInitError: 'true'}", "must be true or false, without quotes", id="quoted boolean"),
        pytest.param("flags: {failOnInitError: 1}", "flags.failOnInitError is 1; it must be true or false",
                     id="number for a boolean"),
        pytest.param("flags: {mpsRoot: 5}", "flags.mpsRoot is 5; it must be a string; put it in quotes",
                     id="number for a string"),
        pytest.param("flags: {mpsRoot: run/mps}", "flags.mpsRoot is 'run/mps'; it must be an absolute path",
                     id="relative path"),
        pytest.param("flags: {plugin: {nvidiaCTKPath: ''}}", "must be an absolute path", id="empty hook path"),
        pytest.param("flags: {deviceDiscoveryStrategy: tegra}", "Tegra devices are not supported here", id="Tegra"),
        pytest.param("flags: {deviceDiscoveryStrategy: x}", "it must be auto or nvml", id="discovery strategy"),
        pytest.param("flags: {plugin: {deviceListStrategy: 'envvar,cdi-cri'}}",
                     "it must be envvar, volume-mounts, cdi-annotations or cdi-cri", id="strategies with a comma"),
        pytest.param("flags: {plugin: {deviceListStrategy: [envvar, x]}}",
                     "flags.plugin.deviceListStrategy[1] is 'x'", id="one bad strategy of a list"),
        pytest.param("flags: {plugin: {deviceListStrategy: []}}", "is an empty list", id="no strategy"),
        pytest.param("flags: {plugin: {deviceIDStrategy: name}}", "it must be uuid or index", id="id strategy"),
        pytest.param("flags: {plugin: {sharedDevicesAllocationPolicy: x}}", "it must be distributed or packed",
                     id="allocation policy"),
        pytest.param("flags: {plugin: {deviceListStrategy: cdi-annotations, cdiAnnotationPrefix: x}}",
                     "the CDI annotation prefix is 'x'; it must be a domain and a slash", id="annotation prefix"),
        pytest.param("flags: {gfd: {sleepInterval: 5 minutes}}", "it must be a duration such as '60s'", id="duration"),
        pytest.param("flags: {gfd: {sleepInterval: true}}", "it must be a duration", id="boolean duration"),
        pytest.param("flags: {gfd: {sleepInterval: 0}}", "it must be longer than nothing", id="no duration"),
        pytest.param("flags: {gfd: {sleepInterval: -5s}}", "it must be a duration", id="negative duration"),
        pytest.param("flags: {migStrategy: none, migstrategy: single}",
                     "flags.migstrategy is here twice, also as 'migStrategy'", id="one key in two cases"),
        pytest.param("sharing: {timeSlicing: {resources: [{name: gpu, replicas: 2}]},"
                     " mps: {resources: [{name: gpu, replicas: 2}]}}",
                     "sharing has both timeSlicing and mps", id="both ways of sharing"),
        pytest.param("sharing: {timeSlicing: }", "sharing.timeSlicing is empty", id="an empty block"),
        pytest.param("sharing: {timeSlicing: {}}", "sharing.timeSlicing.resources is missing", id="no resources"),
        pytest.param("sharing: {timeSlicing: {resources: []}}", "is an empty list; name at least one resource",
                     id="empty resources"),
        pytest.param("sharing: {timeSlicing: {resources: }}", "sharing.timeSlicing.resources is empty",
                     id="null resources"),
        pytest.param("sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}", "give the folder of the MPS control",
                     id="MPS without its root"),
        pytest.param("flags: {migStrategy: mixed, mpsRoot: /mps}\n"
                     "sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}", "MPS cannot share MIG devices",
                     id="MPS with mixed MIG"),
        pytest.param(entry("replicas: 2"), "resources[0].name is missing", id="no name"),
        pytest.param(entry("name: gpu"), "resources[0].replicas is missing", id="no replicas"),
        pytest.param(entry("name: gpu, replicas: 1"), "resources[0].replicas is 1; it must be from 2", id="1 replica"),
        pytest.param(entry("name: gpu, replicas: -4"), "is -4; it must be from 2", id="negative replicas"),
        pytest.param(entry("name: gpu, replicas: 1000000"), "it must be from 2 to 65536", id="a million replicas"),
        pytest.param(entry("name: gpu, replicas: 2.5"), "is 2.5; it must be a whole number", id="half a replica"),
        pytest.param(entry("name: gpu, replicas: '4'"), "is '4'; it must be a whole number", id="quoted replicas"),
        pytest.param(entry("name: gpu, replicas: true"), "is true; it must be a whole number", id="true replicas"),
        pytest.param(entry("name: gpu, replicas: "), "replicas is empty", id="null replicas"),
        pytest.param(entry("name: gpu, Replicas: 4"), "did you mean 'replicas'?", id="case matters in an entry"),
        pytest.param(entry("name: $gpu, replicas: 2"), "is 'nvidia.com/$gpu'; after the slash", id="bad character"),
        pytest.param(entry("name: GPU, replicas: 2"), "lower-case letters", id="capitals"),
        pytest.param(entry("name: -gpu, replicas: 2"), "begin and end with a letter or digit", id="leading dash"),
        pytest.param(entry("name: a/b/c, replicas: 2"), "after the slash", id="two slashes"),
        pytest.param(entry("name: /gpu, replicas: 2"), "before the slash", id="no domain"),
        pytest.param(entry("name: A.com/gpu, replicas: 2"), "before the slash", id="a domain in capitals"),
        pytest.param(entry("name: '', replicas: 2"), "after the slash", id="an empty name"),
        pytest.param(entry("name: gpu, rename: kubernetes.io/gpu, replicas: 2"), "Kubernetes keeps that domain",
                     id="Kubernetes' domain"),
        pytest.param(entry("name: gpu, rename: x.kubernetes.io/gpu, replicas: 2"), "Kubernetes keeps that domain",
                     id="below Kubernetes' domain"),
        pytest.param(entry("name: gpu, rename: requests.x/gpu, replicas: 2"), "Kubernetes keeps that domain",
                     id="quota's prefix"),
        pytest.param(entry(f"name: {'g' * 53}, replicas: 2"), "64 characters; at most 63, domain included", id="long"),
        pytest.param(
            f"sharing: {{timeSlicing: {{renameByDefault: true, resources: [{{name: {'g' * 50}, replicas: 2}}]}}}}",
            "resources[0].rename is 'nvidia.com/gg", id="long once renamed"),
        pytest.param(entry("name: gpu, replicas: 2, rename: "), "rename is empty", id="null rename"),
        pytest.param(entry("name: gpu, replicas: 2, devices: some"), "it must be 'all', a number of devices",
                     id="another word for devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: "), "devices is empty", id="null devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: 0"), "must be at least 1", id="no devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: -2"), "must be at least 1", id="negative devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: 1.5"), "must be a whole number", id="half a device"),
        pytest.param(entry("name: gpu, replicas: 2, devices: true"), "is true", id="boolean devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: {}"), "is a mapping", id="mapping of devices"),
        pytest.param(entry("name: gpu, replicas: 2, devices: []"), "leave it out to share all", id="empty list"),
        pytest.param(entry("name: gpu, replicas: 2, devices: [-1]"), "devices[0] is -1", id="negative index"),
        pytest.param(entry("name: gpu, replicas: 2, devices: [0, true]"), "devices[1] is true", id="boolean index"),
        pytest.param(entry("name: gpu, replicas: 2, devices: [GPU-1]"), "devices[0] is 'GPU-1'", id="no UUID"),
        pytest.param(entry(f"name: gpu, replicas: 2, devices: [MIG-GPU-{UUID}]"), "devices[0]", id="half a MIG UUID"),
        pytest.param(entry("name: gpu, replicas: 2, devices: [0, '0']"), "has '0' twice", id="a device twice"),
        pytest.param(entry("name: gpu, replicas: 2}, {name: gpu, replicas: 3"),
                     "resources[1] shares nvidia.com/gpu again", id="all of a resource twice"),
        pytest.param(entry("name: gpu, replicas: 2, devices: 1}, {name: gpu, replicas: 3, devices: 2"),
                     "resources[1] shares nvidia.com/gpu again", id="two numbers of one resource"),
        pytest.param(entry("name: gpu, replicas: 2, devices: [0, 1]}, {name: gpu, replicas: 3, devices: [1]"),
                     "resources[1].devices has '1', which an entry above shares already", id="a device in two entries"),
        pytest.param("resources: {gpus: [{name: gpu}]}", "resources.gpus[0].pattern is missing", id="no pattern"),
        pytest.param("resources: {gpus: [{pattern: x}]}", "resources.gpus[0].name is missing", id="no pattern's name"),
        pytest.param("resources: {gpus: [{pattern: '', name: x}]}", "is empty; '*' matches", id="empty pattern"),
        pytest.param("resources: {gpus: {pattern: x, name: y}}", "resources.gpus is a mapping; it must be a list",
                     id="a mapping for a list"),
        pytest.param("resources: {gpus: [{pattern: '*', name: gpu}, {pattern: A100, name: a}]}",
                     "resources.gpus[1].pattern is 'A100', but '*' above it", id="a pattern that is never reached"),
        pytest.param("resources: {mig: [{pattern: 1g.5gb, name: a}, {pattern: 1g.5gb, name: b}]}",
                     "'1g.5gb' above it already takes all of these", id="a pattern twice"),
        pytest.param("imex: {channelIDs: [1]}", "imex.channelIDs is [1]; it must be [] or [0]", id="IMEX channel"),
        pytest.param("imex: {channelIDs: 0}", "it must be the list [] or [0]", id="IMEX channel without a list"),
        pytest.param("tasuki: {rescanSeconds: 0}", "it must be a number from 1 to 3600", id="rescan at once"),
        pytest.param("tasuki: {rescanSeconds: .nan}", "it must be a number", id="not a number"),
        pytest.param("tasuki: {rescanSeconds: true}", "it must be a number", id="boolean seconds"),
        pytest.param("tasuki: {health: {recoverySeconds: 0.5}}", "it must be 0 or a number from 1",
                     id="too short a recovery"),
        pytest.param("tasuki: {deviceNodes: {libraryHostPath: ''}}", "it must be an absolute path", id="library path"),
        pytest.param("tasuki: {memorycaps: true}", "tasuki.memorycaps is not a known key; did you mean 'memoryCaps'?",
                     id="our keys have one case"),
    ],
)  # fmt: skip
def test_refuses(text: str, problem: str) -> None:
    assert problem in "\n".join(problems(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("flags:\n  renameByDefault: true", "line 2: flags.renameByDefault is not a known key; it belongs "
                     "at sharing.timeSlicing.renameByDefault or sharing.mps.renameByDefault", id="in another block"),
        pytest.param("migStrategy: mixed", "line 1: migStrategy is not a known key; it belongs at flags.migStrategy",
                     id="a level too high"),
        pytest.param("flags:\n  plugin:\n    passDeviceSpec: true",
                     "line 3: flags.plugin.passDeviceSpec is not a known key; did you mean 'passDeviceSpecs'?",
                     id="a letter missing"),
        pytest.param("sharing: {timeslice: {}}", "did you mean 'timeSlicing'?", id="another word"),
        pytest.param("flags: {failRequestsGreaterThenOne: true}",
                     "did you mean sharing.timeSlicing.failRequestsGreaterThanOne?",
                     id="misspelled in another block"),
        pytest.param("imex: {zzzz: 1}", "the nearest is '", id="like nothing"),
        pytest.param("flags: {'a b': 1}", "flags.'a b' is not a known key", id="a key with odd characters"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_what_was_meant(text: str, problem: str) -> None:
    assert problem in "\n".join(problems(text))


def test_all_problems_are_told_at_once() -> None:
    found = problems("""
flags:
  migStrategy: both
  plugins: {}
sharing:
  timeSlicing:
    resources:
    - {name: gpu, replicas: 0}
    - {name: GPU, replicas: 0}
""")

    assert [problem.partition(" is ")[0] for problem in found] == [
        "line 3: flags.migStrategy",
        "line 4: flags.plugins",
        "line 8: sharing.timeSlicing.resources[0].replicas",
        "line 9: sharing.timeSlicing.resources[1].name",
        "line 9: sharing.timeSlicing.resources[1].replicas",
    ]


def mappings(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every mapping in a tree, with its path."""
    match value:
        case dict():
            below = [found for k, v in value.items() for found in mappings(v, f"{path}.{k}" if path else k)]
            return [(path, value), *below]
        case list():
            return [found for i, item in enumerate(value) for found in mappings(item, f"{path}[{i}]")]
    return []


def known_keys(table: Table) -> set[str]:
    return set(table.keys).union(*(known_keys(key.table) for key in table.keys.values() if key.table))


KNOWN = {key.lower() for key in known_keys(file.FILE)}


@settings(deadline=None)
@given(
    key=st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,30}", fullmatch=True).filter(lambda key: key.lower() not in KNOWN),
    place=st.integers(min_value=0, max_value=len(mappings(yaml.safe_load(EVERYTHING))) - 1),
    value=st.sampled_from([None, 5, "text", [1], {"a": 1}]),
)
def test_any_unknown_key_anywhere_is_reported_with_its_path(key: str, place: int, value: Any) -> None:
    tree = yaml.safe_load(EVERYTHING)
    path, mapping = mappings(tree)[place]
    mapping[key] = value

    found = problems(yaml.safe_dump(tree, sort_keys=False))

    assert len(found) == 1
    assert f": {path}.{key} is not a known key; " in found[0] or (not path and f": {key} is not" in found[0])


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_configuration_or_an_error(text: bytes) -> None:
    try:
        load(text, Overrides())
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_good(path: Path) -> None:
    assert load(path.read_bytes(), Overrides()) != Config()


def test_there_are_examples() -> None:
    assert EXAMPLES
