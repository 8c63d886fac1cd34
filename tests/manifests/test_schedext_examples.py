"""The examples for the scheduler extender: pods that the API server accepts, and that say what their comments say."""

from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import msgspec
import pytest
import yaml

from schedext.demand import ChainName, Demand, Edge, Objective, demand
from schedext.pod import Pod
from tasuki.kube.names import CACHE, DOMAIN, POD_ANNOTATIONS

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "scheduling"


def pods(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def demands(name: str) -> list[Demand]:
    return [demand(msgspec.convert(each, Pod)) for each in pods(EXAMPLES / f"{name}.yaml")]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_of_pods_that_choose_the_scheduler(path: Path) -> None:
    for each in pods(path):
        metadata = each["metadata"]
        written = {*metadata.get("annotations", {}), *metadata.get("labels", {})}

        assert kubernetes_validate.validate(each, "1.36", strict=True) == "1.36"
        assert each["spec"]["schedulerName"] == "tasuki-scheduler"
        assert written
        assert written <= {name for name in POD_ANNOTATIONS if name.startswith(f"{DOMAIN}/")} - {CACHE}


def test_spread_is_of_slices_on_distinct_devices() -> None:
    [found] = demands("spread")

    assert found.shape.spread
    assert found.shape.counts == (("nvidia.com/gpu.shared", 2),)


def test_pack_is_of_slices_on_one_device_with_memory_left() -> None:
    [found] = demands("pack-memory")

    assert found.shape.pack
    assert found.shape.memory_bytes == 10 * 2**30
    assert found.shape.counts == (("nvidia.com/gpu.shared", 2),)


def test_a_chain_is_of_two_functions_of_which_one_names_the_edge() -> None:
    first, second = (found.chain for found in demands("chain"))

    assert first is not None
    assert second is not None
    assert first.name == second.name == ChainName("", "cameras")
    assert first.edges == (Edge(second.function, 1920 * 1080 * 3, 30.0),)
    assert second.edges is None


def test_data_is_near_its_buckets_and_saves_energy() -> None:
    [found] = demands("data")

    assert found.buckets == ("checkpoints", "imagenet")
    assert found.objective is Objective.EFFICIENCY
