"""Our few calls, over real HTTP."""

from pathlib import Path
from typing import Any

import pytest

from tasuki.kube import client
from tasuki.kube.accelerator_node import AcceleratorNodeStatus, ObservedConfiguration
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeConfigError,
    KubeError,
    NotFoundError,
    UnavailableError,
)
from tasuki.kube.objects import NodeFeature, NodeFeatureSpec, ObjectMeta
from tests.tasuki.kube.api_server import ACCELERATOR_NODES, EVENTS, NODE_FEATURES, NODES, ApiServer, Refusal

STATUS = AcceleratorNodeStatus(
    summary="nothing",
    gpus=0,
    machine="",
    driver_version="",
    cuda_version="",
    configuration=ObservedConfiguration(origin="", digest=""),
    devices=(),
    links=(),
    resources=(),
    problems=("no driver",),
    conditions=(),
)


@pytest.mark.parametrize(
    ("mode", "environment"),
    [
        pytest.param("auto", {}, id="nothing is configured"),
        pytest.param("auto", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, id="a pod without a service account"),
        pytest.param("off", {"KUBECONFIG": "/etc/kubeconfig"}, id="switched off"),
    ],
)
async def test_no_connection(
    mode: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "SERVICE_ACCOUNT", tmp_path)

    assert await connect(mode, 1.0, environment) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "no such file", id="absent"),
        pytest.param("{", "cannot be used", id="no YAML"),
        pytest.param("kind: Config", "cannot be used", id="empty"),
    ],
)
async def test_a_bad_kubeconfig_is_an_error(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)

    with pytest.raises(KubeConfigError, match=says):
        await connect("auto", 1.0, {"KUBECONFIG": str(path)})


async def test_a_broken_service_account_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "SERVICE_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("t")
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}

    with pytest.raises(KubeConfigError, match="service account"):
        await connect("auto", 1.0, environment)


async def test_the_namespace_is_the_kubeconfigs(kube: Kube) -> None:
    assert kube.namespace == "gpus"


async def test_a_node_is_read_without_its_status(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n", metadata={"labels": {"a": "b"}}, status={"images": ["many"]})

    node = await kube.node("n")

    assert (node.metadata.uid, node.metadata.labels) == ("uid-of-n", {"a": "b"})


async def test_labels_are_set_and_removed_and_others_left_alone(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n", metadata={"labels": {"stale": "1", "other": "2"}})

    node = await kube.label_node("n", {"stale": None, "new": "3"})

    assert node.metadata.labels == {"other": "2", "new": "3"}
    assert api.requests[-1] == "PATCH /api/v1/nodes/n?fieldManager=tasuki-deviceplugin"


async def test_the_accelerator_node_belongs_to_its_node(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n")

    await kube.create_accelerator_node(await kube.node("n"))
    await kube.set_accelerator_node_status("n", STATUS)

    stored = api.objects(ACCELERATOR_NODES)["n"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "uid-of-n"}
    assert stored["metadata"]["ownerReferences"] == [owner]
    assert (await kube.accelerator_node("n")).status == STATUS


async def test_a_status_replaces_the_whole_one_before(api: ApiServer, kube: Kube) -> None:
    await api.put(ACCELERATOR_NODES, "n", status={"devices": [{"id": "GPU-0"}], "problems": ["old"]})

    await kube.set_accelerator_node_status("n", STATUS)

    assert (await kube.accelerator_node("n")).status == STATUS


async def test_a_status_of_another_version_is_as_none(api: ApiServer, kube: Kube) -> None:
    await api.put(ACCELERATOR_NODES, "n", status={"shape": "unknown"})

    assert not (await kube.accelerator_node("n")).status


async def test_a_cluster_without_our_kind_is_told_what_to_apply(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n")
    del api.kinds[ACCELERATOR_NODES]

    with pytest.raises(NotFoundError, match="apply manifests/crd"):
        await kube.create_accelerator_node(await kube.node("n"))


async def test_a_node_feature_is_created_then_replaced_where_it_differs(api: ApiServer, kube: Kube) -> None:
    def feature(value: str) -> NodeFeature:
        return NodeFeature(metadata=ObjectMeta(name="f"), spec=NodeFeatureSpec(labels={"x": value}))

    wrote = [await kube.set_node_feature(feature(value)) for value in ("1", "1", "2")]

    assert wrote == [True, False, True]
    assert api.objects(NODE_FEATURES)["f"]["spec"] == {
        "labels": {"x": "2"},
        "features": {"flags": {}, "attributes": {}, "instances": {}},
    }


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InvalidError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (422, InvalidError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_refusals_are_told_apart(code: int, error: type[KubeError], api: ApiServer, kube: Kube) -> None:
    api.refusals.append(Refusal(code, reason="Because", retry_after=7))

    with pytest.raises(error, match=f"GET /api/v1/nodes/n: {code} Because: on demand") as raised:
        await kube.node("n")

    assert type(raised.value) is error
    assert (raised.value.status, raised.value.reason, raised.value.retry_after_seconds) == (code, "Because", 7.0)


async def test_a_server_that_is_away_is_unavailable(api: ApiServer, kube: Kube) -> None:
    await api.stop()

    with pytest.raises(UnavailableError, match=r"no answer from http://127\.0\.0\.1"):
        await kube.node("n")


async def test_a_server_that_hangs_is_given_up(api: ApiServer, tmp_path: Path) -> None:
    hasty = await connect("auto", 0.1, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert hasty is not None
    api.answering.clear()

    with pytest.raises(UnavailableError, match="Timeout"):
        await hasty.node("n")

    api.answering.set()
    await hasty.close()


async def test_an_answer_that_is_not_kubernetes_is_unavailable(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n", metadata={"labels": ["no", "map"]})

    with pytest.raises(UnavailableError, match="not what the Kubernetes API sends"):
        await kube.node("n")


async def test_an_event_is_created_in_the_default_namespace(api: ApiServer, kube: Kube) -> None:
    api.kinds[EVENTS].check = lambda _: None

    await kube.create_event("default", {"metadata": {"name": "e"}})
    await kube.set_event_series("default", "e", 3, "2026-01-02T03:04:05.000000Z")

    assert api.objects(EVENTS)["e"]["series"] == {"count": 3, "lastObservedTime": "2026-01-02T03:04:05.000000Z"}
