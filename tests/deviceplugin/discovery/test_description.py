from pathlib import Path

import msgspec
import pytest

from deviceplugin.discovery import description
from deviceplugin.discovery.described import machine_of
from deviceplugin.discovery.description import DescriptionError, decode, json_schema, load
from tasuki.devices.topology import GB, LinkKind, NVLink, host_path
from tests.deviceplugin.discovery.conftest import two_gpus, two_gpus_yaml

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        pytest.param("name: two\n", "", "'name' is missing; add it", id="no name"),
        pytest.param("name: two", "nam: two", "unknown key 'nam'; did you mean 'name'?", id="misspelt key"),
        pytest.param(
            "gpuDefaults: {model",
            "gpuDefaults: {modell",
            "gpuDefaults: unknown key 'modell'; did you mean 'model'?",
            id="misspelt key below",
        ),
        pytest.param(
            "    mig: {}\n",
            "    numanode: 3\n",
            "gpus[0]: unknown key 'numanode'; did you mean 'numaNode'?",
            id="misspelt key in a list",
        ),
        pytest.param(
            "    mig: {}\n",
            "    powerLimitWatts: -0.5\n",
            "gpus[0].powerLimitWatts is -0.5: expected `float` > 0.0",
            id="a power limit below nothing, which no quotes would mend",
        ),
        pytest.param(
            "    mig: {}\n",
            "    zzz: 3\n",
            "gpus[0]: unknown key 'zzz'; known are model, memoryMib, computeCapability, numaNode, fabricClique, "
            "powerLimitWatts, pciePath, uuid, minor, migEnabled, mig, fault",
            id="key like no other",
        ),
        pytest.param(
            'cudaVersion: "12.2"',
            "cudaVersion: 12.2",
            "cudaVersion is 12.2: expected `str`, got `float`; write the number in quotes",
            id="version without quotes",
        ),
        pytest.param(
            "memoryMib: 40960",
            "memoryMib: 40Gi",
            "gpuDefaults.memoryMib is '40Gi': expected `int | null`, got `str`",
            id="memory with a unit",
        ),
        pytest.param(
            "pci0000:00/0000:00:01.1/0000:01:00.0",
            "'0000:01:00.0'",
            "gpus[0].pciePath is '0000:01:00.0': expected `str` ma",
            id="address instead of a path",
        ),
        pytest.param("lanes: 4", "lanes: 0", "nvlinks[0].lanes is 0: expected `int` >= 1", id="no lanes"),
        pytest.param(
            "gpus: [0, 1]",
            "gpus: [0, 2]",
            "nvlinks[0].gpus is [0, 2]: name two different positions from 0 to 1",
            id="link to nowhere",
        ),
        pytest.param(
            "model: NVIDIA A100-SXM4-40GB, ",
            "",
            "gpus[0]: 'model' is missing; add it here or under gpuDefaults",
            id="no model",
        ),
        pytest.param("mig: {}", "mig: {1x: 1}", "gpus[0].mig: '1x' is not a MIG profile", id="not a profile"),
        pytest.param(
            "mig: {}",
            "mig: {1g.6gb: 1}",
            "has no profile '1g.6gb'; it has 1g.5gb, 1g.5gb+me, 1g.10gb",
            id="profile of another GPU",
        ),
        pytest.param(
            "mig: {}",
            "mig: {3g.20gb: 3}",
            "takes 9 of 7 compute slices and 12 of 8 memory slices; ask for less",
            id="too many MIG devices",
        ),
        pytest.param(
            "mig: {}",
            "mig: {1g.5gb: 1}\n    migEnabled: false",
            "gpus[0].migEnabled is false, but mig is {'1g.5gb': 1}",
            id="MIG devices with MIG off",
        ),
        pytest.param(
            "NVIDIA A100-SXM4-40GB",
            "Tesla T4\n  , migEnabled: 1",
            "unknown key 'migEnabled'",
            id="no default of that kind",
        ),
        pytest.param(
            "mig: {}", "minor: 1", "gpus[1] has the minor 1 of gpus[0]; give it its own", id="minor taken twice"
        ),
        pytest.param(
            "fault: {}", "fault: {recoveryAction: pray}", "gpus[0].fault.recoveryAction is 'pray'", id="no such action"
        ),
        pytest.param("gpus:\n", "gpus: [\n", "not valid YAML: ", id="not YAML"),
        pytest.param("name: two\n", "name: two\nname: three\n", "the key 'name' is here twice", id="a key twice"),
        pytest.param("name: two\n", f"{'k' * 999}: 1\n", "…; ", id="a long key"),
    ],
)
def test_a_wrong_description_is_answered_with_field_value_and_remedy(good: str, bad: str, told: str) -> None:
    text = two_gpus_yaml()
    assert good in text

    with pytest.raises(DescriptionError) as error:
        machine_of(decode(text.replace(good, bad, 1)))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "the file is empty; it must be a mapping of keys to values", id="empty"),
        pytest.param("- 1", "the file is a list; it must be a mapping", id="a list"),
        pytest.param("[" * 100_000, "nested more than", id="deep"),
        pytest.param("a: &a [b, b]\nb: [" + "*a," * 20_000 + "]", "aliases counted in full", id="aliases"),
    ],
)
def test_a_file_that_is_no_description_is_answered(text: str, told: str) -> None:
    with pytest.raises(DescriptionError) as error:
        decode(text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"secret words " * 1000, "it must be a mapping", id="prose"),
        pytest.param(b"root:x:0:0:root:/root:/bin/sh\n" * 1000, "it must be a mapping", id="another kind of file"),
        pytest.param(b"gpus: " + b"secret " * 1000, "gpus is 'secret", id="prose in a field"),
        pytest.param(b"\xff" * 10, "is not UTF-8: byte 0 is 0xff", id="no text"),
        pytest.param(b"#" * 2_000_000, "is larger than 1048576 bytes", id="too large"),
    ],
)
def test_an_error_shows_little_of_the_file(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)

    with pytest.raises(DescriptionError) as error:
        load(str(file))
    assert told in str(error.value)
    assert len(str(error.value)) < len(str(file)) + 200


def test_a_gpu_without_published_profiles_cannot_be_partitioned() -> None:
    text = two_gpus_yaml(mig0="{1g.5gb: 1}").replace("memoryMib: 40960", "memoryMib: 1024")

    with pytest.raises(DescriptionError, match="no MIG profiles are known of 'NVIDIA A100-SXM4-40GB' with 1024 MiB"):
        machine_of(decode(text))


def test_an_error_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\n")

    with pytest.raises(DescriptionError, match=f"machine description {file}: 'driverVersion' is missing"):
        load(str(file))


def test_uuid_and_minor_can_be_given() -> None:
    text = two_gpus_yaml().replace("mig: {}", "uuid: GPU-mine\n    minor: 7")

    gpu = machine_of(decode(text)).gpus[0]
    assert (gpu.device.id, gpu.minor) == ("GPU-mine", 7)


def test_compute_instances_share_their_gpu_instance() -> None:
    machine = machine_of(two_gpus(mig0="{1c.2g.10gb: 3}"))

    instances = machine.gpus[0].mig
    assert [(i.gi, i.ci) for i in instances] == [(3, 0), (3, 1), (4, 0)]
    assert {(i.attributes.multiprocessors, i.attributes.compute_instance_slices) for i in instances} == {(14, 1)}


@pytest.mark.parametrize(
    ("name", "one", "other", "kind", "nvlink"),
    [
        pytest.param("dgx-a100", 0, 1, LinkKind.PCIE_SWITCHES, NVLink(12, 20.0 * GB), id="DGX A100, a pair"),
        pytest.param("dgx-a100", 1, 2, LinkKind.SOCKETS, NVLink(12, 20.0 * GB), id="DGX A100, two pairs"),
        pytest.param("dgx-h100", 0, 1, LinkKind.NUMA_NODE, NVLink(18, 20.6 * GB), id="DGX H100, one socket"),
        pytest.param("dgx-h100", 3, 4, LinkKind.SOCKETS, NVLink(18, 20.6 * GB), id="DGX H100, two sockets"),
        pytest.param("l40s-4", 0, 1, LinkKind.NUMA_NODE, None, id="L40S, one socket"),
        pytest.param("l40s-4", 1, 2, LinkKind.SOCKETS, None, id="L40S, two sockets"),
        pytest.param("a100-mig", 0, 3, LinkKind.SOCKETS, NVLink(4, 20.0 * GB), id="HGX A100, joined directly"),
    ],
)
def test_shipped_machines_have_their_published_layout(
    name: str, one: int, other: int, kind: LinkKind, nvlink: NVLink | None
) -> None:
    machine = machine_of(load(name))

    first, second = machine.gpus[one].device, machine.gpus[other].device
    assert host_path(first, second) is kind
    assert machine.topology.nvlink(first.id, second.id) == nvlink


@pytest.mark.parametrize(
    ("name", "buses"),
    [
        pytest.param("dgx-a100", "07 0f 47 4e 87 90 b7 bd", id="DGX A100"),
        pytest.param("dgx-h100", "1b 43 52 61 9d c3 d1 df", id="DGX H100"),
    ],
)
def test_shipped_machines_have_their_true_addresses(name: str, buses: str) -> None:
    machine = machine_of(load(name))

    assert [gpu.device.place.pci_address for gpu in machine.gpus] == [f"0000:{bus}:00.0" for bus in buses.split()]


def test_the_published_json_schema_is_current() -> None:
    published = DOCS / "machine-description.schema.json"

    assert published.read_bytes() == json_schema(), f"write description.json_schema() to {published}"


def test_every_key_is_documented() -> None:
    text = (DOCS / "machine-description.md").read_text()
    keys = {field.encode_name for node in description._NODES.values() for field in msgspec.structs.fields(node)}

    assert not {key for key in keys if f"`{key}`" not in text}
