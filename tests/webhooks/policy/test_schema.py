"""The policy file's published schema, its documentation and its examples."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are another package
import msgspec
import pytest

from tasuki.process import document
from tasuki.process.document import ConfigError
from webhooks.policy.model import Policy
from webhooks.policy.reading import read_policy
from webhooks.policy.schema import policy_schema

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/admission-policy.md"
EXAMPLE = ROOT / "examples/admission/policy.yaml"
MANIFEST = ROOT / "manifests/webhooks/base/policy.yaml"
VALIDATOR = jsonschema.Draft202012Validator(policy_schema())


def whole_example() -> str:
    """The page's first block of YAML."""
    return PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]


def parsed(text: str) -> Any:
    return document.plain(document.read(text.encode()))


def written_keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in written_keys(each)}
    if isinstance(value, list):
        return {key for each in value for key in written_keys(each)}
    return set()


def test_the_published_schema_is_current() -> None:
    published = ROOT / "docs/admission-policy.schema.json"

    assert json.loads(published.read_text()) == policy_schema(), (
        f"write `python -m json.tool` of policy_schema() to {published}"
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(policy_schema())


def test_every_key_of_the_schema_says_what_it_is_for() -> None:
    silent = [
        f"{name}.{key}"
        for name, section in policy_schema()["$defs"].items()
        for key, told in section["properties"].items()
        if len(told.get("description", "")) < 10
    ]

    assert not silent


def test_every_key_is_shown_in_use() -> None:
    keys = {key for section in policy_schema()["$defs"].values() for key in section["properties"]}
    # A toleration's keys are a pod's.
    keys -= {"value", "tolerationSeconds"}

    assert not keys - written_keys(parsed(EXAMPLE.read_text()))


def test_the_page_shows_the_example() -> None:
    assert whole_example() == EXAMPLE.read_text()


def test_every_key_has_a_row_on_the_page() -> None:
    rows = "".join(line for line in PAGE.read_text().splitlines() if line.startswith("| `"))
    keys = {key for section in policy_schema()["$defs"].values() for key in section["properties"]}

    assert not {key for key in keys if not re.search(rf"\b{key}\b", rows)}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{}", id="nothing"),
        pytest.param(msgspec.json.encode({"accelerators": Policy().accelerators}).decode(), id="default accelerators"),
        pytest.param(msgspec.json.encode({"gpuSlices": Policy().gpu_slices}).decode(), id="default slices"),
        pytest.param(msgspec.json.encode({"protection": Policy().protection}).decode(), id="default protection"),
        pytest.param(EXAMPLE.read_text(), id="the example"),
        pytest.param(MANIFEST.read_text(), id="the manifests' policy"),
    ],
)
def test_what_is_published_is_valid_for_schema_and_reader(text: str) -> None:
    VALIDATOR.validate(parsed(text))
    read_policy(text.encode())


def test_the_example_shows_the_defaults() -> None:
    shown = read_policy(EXAMPLE.read_bytes())

    assert list(_differences(shown, "")) == ["exempt_namespaces", "teams", "modules.lmod"]


def _differences(section: Any, path: str) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        here = f"{path}.{field.name}".lstrip(".")
        if isinstance(value, msgspec.Struct):
            yield from _differences(value, here)
        factory, default = field.default_factory, field.default
        expected = default if factory is msgspec.NODEFAULT else factory()
        # Without a default, or a section that is absent by default.
        if expected not in (msgspec.NODEFAULT, None) and value != expected:
            yield here


SCHEMA_REFUSES = [
    pytest.param({"cpuonly": {}}, id="unknown key"),
    pytest.param({"cpuOnly": None}, id="null for a section"),
    pytest.param({"teams": None}, id="null for a list"),
    pytest.param({"teams": {}}, id="a mapping for a list"),
    pytest.param({"teams": [{"namespaces": [""]}]}, id="an empty glob"),
    pytest.param({"kind": "Policy"}, id="another kind"),
    pytest.param({"cache": {}}, id="a missing key"),
    pytest.param({"cache": {"url": "ftp://a"}}, id="another scheme"),
    pytest.param({"cache": {"url": "http://a\n"}}, id="a line's end"),
    pytest.param({"cache": {"url": "http://a", "expirationSeconds": 60}}, id="a short token"),
    pytest.param({"sharedNodes": {"maximumGpus": 65}}, id="too many GPUs"),
    pytest.param({"sharedNodes": {"maximumGpus": "8"}}, id="a number in quotes"),
    pytest.param({"sharedNodes": {"nodeSelector": {}}}, id="every node shared"),
    pytest.param({"sharedNodes": {"nodeSelector": {"a b": "c"}}}, id="no label key"),
    pytest.param({"sharedNodes": {"nodeSelector": {"a": "x" * 64}}}, id="a long label value"),
    pytest.param({"sharedNodes": {"requests": {"memory": "1m"}}}, id="milli-bytes"),
    pytest.param({"sharedNodes": {"tolerations": [{"operator": "In"}]}}, id="no such operator"),
    pytest.param({"gpuSlices": {"mig": [{"resource": "gpu"}]}}, id="a resource without domain"),
    pytest.param({"protection": [{"privileged": "no"}]}, id="no such verdict"),
    pytest.param({"cpuOnly": {"priorityClass": "x" * 254}}, id="a long name"),
    pytest.param({"modules": {"volumes": [], "modulePath": []}}, id="an empty list"),
    *(
        pytest.param({"modules": {"modulePath": ["/a"], "volumes": [volume]}}, id=name)
        for name, volume in {
            "no source": {"name": "a", "mountPath": "/a", "source": {}},
            "two sources": {"name": "a", "mountPath": "/a", "source": {"nfs": {}, "csi": {}}},
            "another source": {"name": "a", "mountPath": "/a", "source": {"secret": {}}},
            "half a source": {"name": "a", "mountPath": "/a", "source": {"nfs": {"server": "a"}}},
            "null in a source": {
                "name": "a",
                "mountPath": "/a",
                "source": {"hostPath": {"path": "/a", "type": None}},
            },
            "unknown in a source": {"name": "a", "mountPath": "/a", "source": {"image": {"reference": "a", "x": 1}}},
            "a volume's name": {"name": "A", "mountPath": "/a", "source": {"image": {"reference": "a"}}},
        }.items()
    ),
    pytest.param({"vaccel": {"sidecar": {"image": "a", "resources": {"limit": {}}}}}, id="no such requirement"),
    pytest.param({"vaccel": {"sidecar": {"image": "a", "resources": {"limits": {"a": "b"}}}}}, id="no quantity"),
]


@pytest.mark.parametrize("policy", SCHEMA_REFUSES)
def test_what_the_schema_refuses_the_reader_refuses(policy: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(policy)
    with pytest.raises(ConfigError):
        read_policy(json.dumps(policy).encode())
