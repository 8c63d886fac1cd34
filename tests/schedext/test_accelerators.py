"""The nodes of these tests are such as a cluster takes."""

from pathlib import Path
from typing import Final

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

from tests.schedext.accelerators import Json, gpu_status, holder, status_json
from tests.schedext.test_layouts import mig, region

CRD: Final = Path(__file__).parents[2] / "manifests/crd/acceleratornodes.yaml"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(gpu_status(), id="GPUs"),
        pytest.param(gpu_status(holder("p", "n-0::1", "n-1"), gpus=2, sick=[1]), id="held, and one unhealthy"),
        pytest.param(gpu_status(trouble="the driver is away"), id="trouble"),
        pytest.param(status_json([mig(1, "n-0")]), id="a MIG device"),
        pytest.param(status_json([region(0)]), id="a region of an FPGA"),
    ],
)
def test_what_these_tests_publish_fits_the_crd(status: Json) -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    node = {"apiVersion": "v", "kind": "AcceleratorNode", "metadata": {"name": "n"}, "status": status}

    jsonschema.Draft202012Validator(schema).validate(node)
    for each in status["resources"]:
        assert each["slices"] == each["held"] + each["unhealthy"] + each["free"]
