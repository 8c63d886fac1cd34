"""`tasuki webhooks --try`: what a person sees of a policy before a cluster does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.webhook_builders import Json, assert_valid
from webhooks.__main__ import main

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "examples" / "admission" / "policy.yaml"
EXAMPLES = sorted(path for path in POLICY.parent.glob("*.yaml") if path != POLICY)


@pytest.fixture(autouse=True)
def others_logging() -> Iterator[None]:
    """As it was before: the command sends logs to what pytest captures of standard error, which ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(folder: Path, text: str) -> str:
    file = folder / "pods.yaml"
    file.write_text(text)
    return str(file)


def tried(*arguments: str) -> int:
    return main(["--policy", str(POLICY), "--modules-catalogue", "/none", "--try", *arguments])


def pods(text: str) -> list[Json]:
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_admitted_changed_and_valid(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pods(example.read_text())

    status = tried(str(example))
    after = pods(capsys.readouterr().out)

    assert status == 0
    assert after != before
    for pod in after:
        assert_valid(pod)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        pytest.param("Deployment", ("spec", "template"), id="deployment"),
        pytest.param("CronJob", ("spec", "jobTemplate", "spec", "template"), id="cron job"),
    ],
)
def test_a_template_is_tried_as_the_pod_that_it_makes(
    kind: str, path: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document: Json = {
        "metadata": {"annotations": {"tasuki.dev/gpu-slice": "timeshare"}},
        "spec": {"containers": [{"name": "a", "image": "x"}]},
    }
    for step in reversed(path):
        document = {step: document}
    document |= {"kind": kind, "metadata": {"name": "train", "namespace": "research"}}

    status = tried(written(tmp_path, yaml.safe_dump(document)))
    said = capsys.readouterr()

    [made] = pods(said.out)
    assert status == 0
    assert made["metadata"]["namespace"] == "research"
    assert made["spec"]["tolerations"]
    assert said.err.startswith(f"{kind} train: gpu-slice: timeshare is nvidia.com/gpu.shared\n")


WISH = {"tasuki.dev/gpu-slice": "whole"}
IN_VAIN = (
    "CronJob train: warning: annotation tasuki.dev/gpu-slice does not reach the pods and has no effect; write it in "
    "spec.jobTemplate.spec.template.metadata.annotations"
)


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        pytest.param((WISH, {}, {}), [IN_VAIN], id="on the object"),
        pytest.param(({}, WISH, {}), [IN_VAIN], id="between the object and its pods"),
        pytest.param((WISH, WISH, {}), [IN_VAIN], id="on both"),
        pytest.param((WISH, {}, WISH), [], id="on the pods as well, as tools write them"),
        pytest.param(({"example.com/gpu-slice": "whole"}, {"docs": "a"}, {}), [], id="not ours"),
        pytest.param(({}, {}, {}), [], id="none"),
    ],
)
def test_annotations_that_reach_no_pod_are_told_of(
    annotations: tuple[Json, Json, Json], told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_cron_job, of_job, of_pod = annotations
    pod = {"metadata": {"annotations": of_pod}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    job = {"metadata": {"annotations": of_job}, "spec": {"template": pod}}
    document = {
        "kind": "CronJob",
        "metadata": {"name": "train", "annotations": of_cron_job},
        "spec": {"jobTemplate": job},
    }

    status = tried(written(tmp_path, yaml.safe_dump(document)))
    said = capsys.readouterr().err.splitlines()

    assert status == 0
    assert [line for line in said if "warning" in line] == told


def test_a_refused_pod_is_told_of_and_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "kind: Pod\nmetadata: {name: a, annotations: {tasuki.dev/gpu-slice: hole}}\nspec: {containers: [{name: a}]}\n"
    )

    status = tried(written(tmp_path, text))
    said = capsys.readouterr()

    assert (status, said.out) == (1, "")
    assert "Pod a: refused: " in said.err
    assert "whole" in said.err


def test_a_namespace_that_is_left_alone_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n"

    status = tried(written(tmp_path, text), "--in-namespace", "kube-system")
    said = capsys.readouterr()

    assert status == 0
    assert pods(said.out) == pods(text)
    assert said.err == "Pod a: pods of namespace kube-system are left alone\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("kind: Service", "has no pods", id="nothing that makes pods"),
        pytest.param("- a", "no Kubernetes object", id="no object"),
        pytest.param("a: [", "cannot be read", id="no YAML"),
        pytest.param("kind: Pod\nspec: 7", "spec", id="a spec that is none"),
        pytest.param("kind: Pod\nmetadata: 7", "metadata", id="metadata that are none"),
        pytest.param("kind: Deployment\nspec: [1]", "spec is [1]", id="a template that is none"),
        pytest.param("kind: Job\nmetadata: {annotations: [1]}", "annotations is [1]", id="annotations that are none"),
        pytest.param("kind: List\nitems: 7", "items", id="a list that is none"),
    ],
)
def test_what_cannot_be_tried_is_told(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = tried(written(tmp_path, text))

    assert status in {1, 2}
    assert told in capsys.readouterr().err


def test_a_policy_that_is_bad_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("cach: {}\n")

    status = main(["--policy", str(policy), "--try", str(EXAMPLES[0])])

    assert status == 2
    assert "line 1" in capsys.readouterr().err
