"""AcceleratorNode's structs and its CRD say the same."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import msgspec.inspect
import pytest
import yaml

from tasuki.kube import names
from tasuki.kube.accelerator_node import AcceleratorNode, AcceleratorNodeStatus
from tasuki.kube.objects import Node, ObjectMeta

FILE = Path(__file__).parents[3] / "manifests/crd/acceleratornodes.yaml"


@pytest.fixture
def crd() -> Any:
    return yaml.safe_load(FILE.read_text())


def schema_of(kind: msgspec.inspect.Type) -> dict[str, Any]:
    """What a CRD must say of a type, without descriptions and list types."""
    match kind:
        case msgspec.inspect.StructType(fields=fields):
            return {
                "type": "object",
                "required": [f.encode_name for f in fields if f.required],
                "properties": {f.encode_name: schema_of(f.type) for f in fields},
            }
        case msgspec.inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": schema_of(item)}
        case msgspec.inspect.EnumType(cls=cls):
            return {"type": "string", "enum": [member.value for member in cls]}
        case msgspec.inspect.LiteralType(values=values):
            return {"type": "string", "enum": list(values)}
        case msgspec.inspect.UnionType(types=types):
            (inner,) = [t for t in types if not isinstance(t, msgspec.inspect.NoneType)]
            return schema_of(inner)
        case msgspec.inspect.IntType():
            return {"type": "integer", "format": "int64"}
        case msgspec.inspect.FloatType():
            return {"type": "number"}
        case msgspec.inspect.BoolType():
            return {"type": "boolean"}
        case _:
            return {"type": "string"}


def bare(schema: Any) -> Any:
    """A CRD's schema without what structs do not say; Literal's values in no order."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: schema[key] for key in ("type", "required", "format", "enum") if key in schema}
    if kept.get("format") == "date-time":
        del kept["format"]
    if "enum" in kept:
        kept["enum"] = sorted(kept["enum"])
    if "items" in schema:
        kept["items"] = bare(schema["items"])
    if "properties" in schema:
        kept["properties"] = {key: bare(value) for key, value in schema["properties"].items()}
    return kept


def test_the_schema_has_exactly_the_structs_fields(crd: Any) -> None:
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]

    assert bare(status) == bare(schema_of(msgspec.inspect.type_info(AcceleratorNodeStatus)))


def test_the_crd_is_what_kubernetes_accepts(crd: Any) -> None:
    kubernetes_validate.validate(crd, "1.33", strict=True)


def test_the_crd_is_named_as_the_code_names_it(crd: Any) -> None:
    assert crd["metadata"]["name"] == f"{names.ACCELERATOR_NODE_PLURAL}.{names.API_GROUP}"
    assert crd["spec"]["names"]["kind"] == names.ACCELERATOR_NODE_KIND
    assert [v["name"] for v in crd["spec"]["versions"]] == [names.API_VERSION]
    assert crd["spec"]["scope"] == "Cluster"
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_every_top_level_field_is_always_written() -> None:
    """A merge patch leaves alone what it does not mention."""
    fields = msgspec.structs.fields(AcceleratorNodeStatus)

    assert all(field.required for field in fields)
    assert not AcceleratorNodeStatus.__struct_config__.omit_defaults


def test_an_object_without_status_is_created_without_one() -> None:
    assert msgspec.to_builtins(AcceleratorNode(metadata=ObjectMeta(name="n"))) == {
        "apiVersion": "tasuki.dev/v1alpha1",
        "kind": "AcceleratorNode",
        "metadata": {"name": "n"},
    }


def test_a_node_is_read_from_all_that_the_api_server_sends() -> None:
    sent = b'{"kind":"Node","metadata":{"name":"n","uid":"u","labels":{"a":"b"},"annotations":{}},"status":{"x":1}}'

    node = msgspec.json.decode(sent, type=Node)

    assert (node.metadata.name, node.metadata.uid, node.metadata.labels) == ("n", "u", {"a": "b"})
