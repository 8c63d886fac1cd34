"""Feature discovery's labels: names and values as NVIDIA's gpu-feature-discovery documents and tests them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from deviceplugin.config.model import (
    Config,
    Flags,
    GfdFlags,
    MigStrategy,
    ResourcePattern,
    ResourcePatterns,
    SharedResource,
    Sharing,
    SharingStrategy,
)
from deviceplugin.labels import is_ours, label_changes, labels
from deviceplugin.machine import Gpu, Machine
from deviceplugin.resources import plan
from tests.builders import a_gpu, a_machine, a_mig_instance

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
A100 = "NVIDIA-A100-SXM4-40GB"


def shared(
    name: str = "nvidia.com/gpu",
    *,
    replicas: int = 2,
    rename: str = "",
    devices: int | tuple[str, ...] | None = None,
    strategy: SharingStrategy = SharingStrategy.TIME_SLICING,
) -> Sharing:
    entry = SharedResource(name=name, rename=rename or name, replicas=replicas, devices=devices or "all")
    return Sharing(strategy=strategy, resources=(entry,))


def config(mig: MigStrategy = MigStrategy.NONE, sharing: Sharing | None = None) -> Config:
    return Config(flags=Flags(mig_strategy=mig), sharing=sharing or Sharing())


def published(machine: Machine, settings: Config, pci_classes: Mapping[str, int] | None = None) -> dict[str, str]:
    return labels(machine, plan(machine, settings), settings, None, pci_classes)


def of(found: Mapping[str, str], prefix: str = "gpu") -> dict[str, str]:
    """The labels of one resource, without the ones that say nothing of sharing."""
    keys = ("product", "count", "replicas", "sharing-strategy", "memory")
    return {key: found[f"nvidia.com/{prefix}.{key}"] for key in keys if f"nvidia.com/{prefix}.{key}" in found}


def renamed(gpu: Gpu, model: str) -> Gpu:
    return replace(gpu, device=replace(gpu.device, model=model))


def test_a_whole_node_of_gpus() -> None:
    found = labels(a_machine(count=8), plan(a_machine(count=8), config()), config(), NOW, {})

    assert found == {
        "nvidia.com/cuda.driver-version.full": "580.95.05",
        "nvidia.com/cuda.driver-version.major": "580",
        "nvidia.com/cuda.driver-version.minor": "95",
        "nvidia.com/cuda.driver-version.revision": "05",
        "nvidia.com/cuda.driver.major": "580",
        "nvidia.com/cuda.driver.minor": "95",
        "nvidia.com/cuda.driver.rev": "05",
        "nvidia.com/cuda.runtime-version.full": "13.0",
        "nvidia.com/cuda.runtime-version.major": "13",
        "nvidia.com/cuda.runtime-version.minor": "0",
        "nvidia.com/cuda.runtime.major": "13",
        "nvidia.com/cuda.runtime.minor": "0",
        "nvidia.com/gfd.timestamp": "1767323045",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
        "nvidia.com/gpu.count": "8",
        "nvidia.com/gpu.family": "ampere",
        "nvidia.com/gpu.machine": "DGXA100",
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/gpu.mode": "unknown",
        "nvidia.com/gpu.product": A100,
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mps.capable": "false",
        "nvidia.com/vgpu.present": "false",
    }
    assert list(found) == sorted(found)


def test_a_node_without_gpus_says_so_little_that_no_selector_matches() -> None:
    assert labels(Machine(), plan(Machine(), config()), config(), None) == {"nvidia.com/vgpu.present": "false"}


def test_no_timestamp_when_the_configuration_forbids_it() -> None:
    settings = Config(flags=Flags(gfd=GfdFlags(no_timestamp=True)))

    found = labels(a_machine(count=1), plan(a_machine(count=1), settings), settings, NOW)

    assert "nvidia.com/gfd.timestamp" not in found


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        pytest.param(None, f"{A100} 2 1 none", id="not shared"),
        pytest.param(shared("nvidia.com/other"), f"{A100} 2 1 none", id="another resource is shared"),
        pytest.param(shared(), f"{A100}-SHARED 2 2 time-slicing", id="shared: suffix, and replicas per GPU"),
        pytest.param(
            shared(rename="nvidia.com/gpu.shared"), f"{A100} 2 2 time-slicing", id="renamed: replicas without suffix"
        ),
        pytest.param(shared(strategy=SharingStrategy.MPS), f"{A100}-SHARED 2 2 mps", id="MPS"),
        pytest.param(shared(devices=1), f"{A100}-SHARED 2 2 time-slicing", id="one of two shared under one name"),
        pytest.param(
            shared(devices=("1",), rename="nvidia.com/gpu.shared"),
            f"{A100} 2 2 time-slicing",
            id="one of two shared under another name",
        ),
    ],
)
def test_sharing_of_whole_gpus(sharing: Sharing | None, expected: str) -> None:
    found = of(published(a_machine(count=2), config(sharing=sharing)))

    assert " ".join(found[k] for k in ("product", "count", "replicas", "sharing-strategy")) == expected


def test_devices_shared_differently_publish_the_largest_number_of_replicas() -> None:
    entries = tuple(
        SharedResource(name="nvidia.com/gpu", rename="nvidia.com/gpu", replicas=replicas, devices=(index,))
        for index, replicas in (("0", 3), ("1", 7))
    )
    sharing = Sharing(strategy=SharingStrategy.TIME_SLICING, resources=entries)

    assert of(published(a_machine(count=2), config(sharing=sharing)))["replicas"] == "7"


def test_gpus_that_the_configuration_leaves_out_have_no_replicas() -> None:
    settings = Config(resources=ResourcePatterns(gpus=(ResourcePattern("Tesla*", "nvidia.com/gpu"),)))

    found = of(published(a_machine(count=2), settings))

    assert (found["count"], found["replicas"], found["sharing-strategy"]) == ("2", "0", "none")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        pytest.param(a_machine(a_gpu(0, mig=())), f"{A100} 1 0 none", id="in MIG mode, nothing is shared"),
        pytest.param(
            a_machine(a_gpu(0, mig=()), a_gpu(1)), f"{A100}-SHARED 2 2 time-slicing", id="one in MIG mode, one not"
        ),
    ],
)
def test_mig_mode_under_strategy_none(machine: Machine, expected: str) -> None:
    found = of(published(machine, config(sharing=shared())))

    assert " ".join(found[k] for k in ("product", "count", "replicas", "sharing-strategy")) == expected


def test_single_strategy_replaces_the_whole_gpus_labels() -> None:
    machine = a_machine(*(a_gpu(i, mig=tuple(a_mig_instance(i, n) for n in range(7))) for i in range(2)))

    found = published(machine, config(MigStrategy.SINGLE))

    assert of(found) == {
        "product": f"{A100}-MIG-1g.5gb",
        "count": "14",
        "replicas": "1",
        "sharing-strategy": "none",
        "memory": "5120",
    }
    assert {k: v for k, v in found.items() if ".slices." in k or ".engines." in k or "multiproc" in k} == {
        "nvidia.com/gpu.multiprocessors": "14",
        "nvidia.com/gpu.slices.gi": "1",
        "nvidia.com/gpu.slices.ci": "1",
        "nvidia.com/gpu.engines.copy": "1",
        "nvidia.com/gpu.engines.decoder": "0",
        "nvidia.com/gpu.engines.encoder": "0",
        "nvidia.com/gpu.engines.jpeg": "0",
        "nvidia.com/gpu.engines.ofa": "0",
    }
    assert found["nvidia.com/mig.strategy"] == "single"
    assert found["nvidia.com/gpu.family"] == "ampere"


def test_single_strategy_with_sharing() -> None:
    machine = a_machine(a_gpu(0, mig=(a_mig_instance(0, 0),)))

    found = of(published(machine, config(MigStrategy.SINGLE, shared(replicas=3))))

    assert found["product"] == f"{A100}-MIG-1g.5gb-SHARED"
    assert (found["count"], found["replicas"], found["sharing-strategy"]) == ("1", "3", "time-slicing")


def test_single_strategy_without_any_gpu_in_mig_mode_is_as_none() -> None:
    found = published(a_machine(count=2), config(MigStrategy.SINGLE))

    assert of(found)["product"] == A100
    assert found["nvidia.com/mig.strategy"] == "single"


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(a_machine(a_gpu(0, mig=())), id="MIG mode without MIG devices"),
        pytest.param(a_machine(a_gpu(0, mig=(a_mig_instance(0, 0),)), a_gpu(1)), id="MIG mode on some GPUs only"),
        pytest.param(
            a_machine(a_gpu(0, mig=(a_mig_instance(0, 0), a_mig_instance(0, 1, "2g.10gb")))), id="two profiles"
        ),
    ],
)
def test_single_strategy_that_cannot_be_kept_is_published_as_invalid(machine: Machine) -> None:
    found = published(machine, config(MigStrategy.SINGLE, shared()))

    assert of(found) == {
        "product": f"{A100}-MIG-INVALID",
        "count": "0",
        "replicas": "0",
        "sharing-strategy": "",
        "memory": "0",
    }


def test_mixed_strategy_has_a_family_of_labels_for_each_profile() -> None:
    mig = (
        a_mig_instance(0, 0),
        a_mig_instance(0, 1),
        a_mig_instance(0, 2, "1g.5gb+me"),
        a_mig_instance(0, 3, "3g.20gb"),
    )
    machine = a_machine(a_gpu(0, mig=mig), a_gpu(1))

    found = published(machine, config(MigStrategy.MIXED, shared("nvidia.com/mig-3g.20gb", replicas=4)))

    assert of(found)["count"] == "2"
    assert of(found, "mig-1g.5gb")["product"] == f"{A100}-MIG-1g.5gb"
    assert of(found, "mig-1g.5gb")["count"] == "2"
    assert of(found, "mig-1g.5gb.me")["product"] == f"{A100}-MIG-1g.5gb.me"
    assert of(found, "mig-3g.20gb") == {
        "product": f"{A100}-MIG-3g.20gb-SHARED",
        "count": "1",
        "replicas": "4",
        "sharing-strategy": "time-slicing",
        "memory": "15360",
    }
    assert found["nvidia.com/mig-3g.20gb.slices.gi"] == "3"


def test_a_profile_without_a_resource_name_has_no_replicas() -> None:
    machine = a_machine(a_gpu(0, mig=(a_mig_instance(0, 0, "1c.2g.10gb"),)))

    found = of(published(machine, config(MigStrategy.MIXED)), "mig-1c.2g.10gb")

    assert (found["count"], found["replicas"]) == ("1", "0")


@pytest.mark.parametrize(
    ("model", "product"),
    [
        pytest.param("a space separated string", "a-space-separated-string", id="blanks become dashes"),
        pytest.param("some(thing)else", "somethingelse", id="strange characters go"),
        pytest.param("some ( thing )else", "some-thing-else", id="blanks left over are one dash"),
        pytest.param("NVIDIA-TITAN-X-(Pascal)", "NVIDIA-TITAN-X-Pascal", id="brackets"),
        pytest.param(" input  with multiple   spaces   ", "input-with-multiple-spaces", id="many blanks"),
        pytest.param("some [ / thing / ]else", "some-thing-else", id="slashes"),
        pytest.param("some-thing.else_new", "some-thing.else_new", id="what may stay"),
    ],
)
def test_a_product_is_spelled_as_a_label_may_be(model: str, product: str) -> None:
    assert of(published(a_machine(renamed(a_gpu(0), model)), config()))["product"] == product


def test_a_product_that_is_too_long_keeps_what_says_that_it_is_shared() -> None:
    model = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition Special"

    product = of(published(a_machine(renamed(a_gpu(0), model)), config(sharing=shared())))["product"]

    assert len(product) <= 63
    assert product.endswith("-SHARED")


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        ((6, 1), "pascal"),
        ((7, 0), "volta"),
        ((7, 5), "turing"),
        ((8, 6), "ampere"),
        ((8, 9), "ada-lovelace"),
        ((9, 0), "hopper"),
        ((10, 0), "blackwell"),
        ((12, 0), "blackwell"),
        ((13, 0), "rubin"),
        ((99, 0), "undefined"),
    ],
)
def test_family(capability: tuple[int, int], family: str) -> None:
    machine = a_machine(replace(a_gpu(0), compute_capability=capability))

    assert published(machine, config())["nvidia.com/gpu.family"] == family


@pytest.mark.parametrize(
    ("classes", "mode"),
    [
        pytest.param({"GPU-0": 0x030200, "GPU-1": 0x030200}, "compute", id="3D controllers"),
        pytest.param({"GPU-0": 0x030000, "GPU-1": 0x030000}, "graphics", id="VGA controllers"),
        pytest.param({"GPU-0": 0x030000, "GPU-1": 0x030200}, "unknown", id="both"),
        pytest.param({"GPU-0": 0x030200}, "unknown", id="one is not known"),
    ],
)
def test_mode(classes: dict[str, int], mode: str) -> None:
    assert published(a_machine(count=2), config(), classes)["nvidia.com/gpu.mode"] == mode


@pytest.mark.parametrize(
    ("cliques", "expected"),
    [
        pytest.param(("c.1", "c.1"), "c.1", id="all in one"),
        pytest.param(("c.1", ""), "c.1", id="one is not in a fabric"),
        pytest.param(("c.1", "c.2"), None, id="two cliques"),
        pytest.param(("", ""), None, id="no fabric"),
    ],
)
def test_clique(cliques: tuple[str, str], expected: str | None) -> None:
    machine = a_machine(*(replace(a_gpu(i), fabric_clique=clique) for i, clique in enumerate(cliques)))

    assert published(machine, config()).get("nvidia.com/gpu.clique") == expected


def test_of_several_models_the_most_frequent_is_named() -> None:
    machine = a_machine(renamed(a_gpu(0), "Tesla T4"), a_gpu(1), a_gpu(2))

    found = of(published(machine, config()))

    assert (found["product"], found["count"]) == (A100, "2")


@pytest.mark.parametrize(
    ("gpus", "capable"),
    [
        pytest.param((a_gpu(0),), "true", id="whole GPUs"),
        pytest.param((a_gpu(0, mig=()),), "false", id="MIG mode"),
    ],
)
def test_mps_capable(gpus: tuple[Gpu, ...], capable: str) -> None:
    settings = config(sharing=shared(strategy=SharingStrategy.MPS))

    assert published(a_machine(*gpus), settings)["nvidia.com/mps.capable"] == capable


def test_a_driver_version_of_two_parts_has_an_empty_revision() -> None:
    found = published(replace(a_machine(count=1), driver_version="580.95"), config())

    assert found["nvidia.com/cuda.driver.rev"] == ""
    assert found["nvidia.com/cuda.driver-version.full"] == "580.95"


@pytest.mark.parametrize(
    "key",
    [
        "nvidia.com/device-plugin.config",
        "nvidia.com/gpu.present",
        "nvidia.com/gpu.deploy.device-plugin",
        "nvidia.com/mig.config",
        "nvidia.com/mig.config.state",
        "nvidia.com/mig-manager.count",
        "nvidia.com/mig-1g.5gb.chosen-by-hand",
        "kubernetes.io/hostname",
        "example.com/gpu.count",
    ],
)
def test_labels_of_others_are_not_ours(key: str) -> None:
    assert not is_ours(key)


def test_every_label_that_we_write_is_ours_to_remove() -> None:
    mixed = (a_mig_instance(0, 0, "1g.5gb+me"), a_mig_instance(0, 1, "1c.2g.10gb"))
    machine = a_machine(replace(a_gpu(0, mig=mixed), fabric_clique="c.1"), a_gpu(1))
    settings = msgspec.structs.replace(config(MigStrategy.MIXED), sharing=shared())

    found = labels(machine, plan(machine, settings), settings, NOW)

    assert [key for key in found if not is_ours(key)] == []


def test_changes_set_what_differs_and_remove_what_is_stale() -> None:
    wanted = {"nvidia.com/gpu.count": "8", "nvidia.com/gpu.memory": "40960"}
    found = {
        "kubernetes.io/hostname": "a",
        "nvidia.com/device-plugin.config": "shared",
        "nvidia.com/gpu.count": "7",
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/mig-1g.5gb.count": "7",
    }

    assert label_changes(wanted, found) == {"nvidia.com/gpu.count": "8", "nvidia.com/mig-1g.5gb.count": None}
