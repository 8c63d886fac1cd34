"""CacheNode's structs and its CRD say the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import kubernetes_validate
import msgspec
import pytest
import yaml

from tasuki.kube import names
from tasuki.kube.cache_node import BucketResidency, CacheNode, CacheNodeStatus
from tasuki.kube.objects import ObjectMeta
from tests.tasuki.kube.test_accelerator_node import bare, schema_of

STATUS = CacheNodeStatus(
    zone="tokyo-a",
    serving=True,
    capacity_bytes=4 * 10**12,
    used_bytes=10**9,
    buckets=(BucketResidency(name="imagenet", bytes=10**9, objects=8_000),),
    observed_time="2026-01-31T12:00:00Z",
)


@pytest.fixture
def crd(repository: Path) -> Any:
    return yaml.safe_load((repository / "manifests/crd/cachenodes.yaml").read_text())


@pytest.fixture
def version(crd: Any) -> Any:
    [only] = crd["spec"]["versions"]
    return only


def test_the_schema_has_exactly_the_structs_fields(version: Any) -> None:
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]

    assert bare(status) == bare(schema_of(msgspec.inspect.type_info(CacheNodeStatus)))


def test_the_crd_is_what_kubernetes_accepts(crd: Any) -> None:
    kubernetes_validate.validate(crd, "1.33", strict=True)


def test_the_crd_is_named_as_the_code_names_it(crd: Any, version: Any) -> None:
    assert crd["metadata"]["name"] == f"{names.CACHE_NODE_PLURAL}.{names.API_GROUP}"
    assert crd["spec"]["names"]["kind"] == names.CACHE_NODE_KIND
    assert version["name"] == names.API_VERSION
    assert crd["spec"]["scope"] == "Cluster"
    assert version["subresources"] == {"status": {}}


def test_no_other_kind_of_ours_has_its_names(repository: Path) -> None:
    crds = [yaml.safe_load(file.read_text()) for file in (repository / "manifests/crd").glob("*nodes.yaml")]
    spellings = [each["spec"]["names"] for each in crds]
    words = [word for each in spellings for word in (each["plural"], each["singular"], *each["shortNames"])]

    assert len(words) == len(set(words)) == 6


def test_columns_show_what_is_there(version: Any) -> None:
    paths = [column["jsonPath"].removeprefix(".").split(".") for column in version["additionalPrinterColumns"]]
    of_status = {path[1] for path in paths if path[0] == "status"}

    assert of_status
    assert of_status <= msgspec.to_builtins(STATUS).keys()


def test_a_published_object_is_valid_for_the_crd(version: Any) -> None:
    written = msgspec.json.encode(CacheNode(metadata=ObjectMeta(name="n"), status=STATUS))

    jsonschema.validate(msgspec.json.decode(written), version["schema"]["openAPIV3Schema"])


def test_every_top_level_field_is_always_written() -> None:
    """A merge patch leaves alone what it does not mention."""
    fields = msgspec.structs.fields(CacheNodeStatus)

    assert all(field.required for field in fields)
    assert not CacheNodeStatus.__struct_config__.omit_defaults


def test_the_kinds_are_applied_together(build: Callable[[Path], list[dict[str, Any]]], repository: Path) -> None:
    applied = {each["metadata"]["name"] for each in build(repository / "manifests/crd")}

    assert {"acceleratornodes.tasuki.dev", "cachenodes.tasuki.dev"} <= applied
