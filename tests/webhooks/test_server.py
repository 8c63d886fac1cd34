"""Reviews over real HTTPS, asked as a live API server asks."""

import asyncio
import base64
import copy
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jsonpatch
import pytest

from tasuki.process.http_server import HttpServer
from tests.webhook_builders import Json, admission_review, assert_valid, container, pod
from tests.webhooks.https import Client, Tls, connect
from webhooks import __main__ as main_module
from webhooks import application as application_module
from webhooks.application import Application
from webhooks.metrics import Metrics
from webhooks.pod import Pod
from webhooks.policy.model import Cache, Policy
from webhooks.scene import Change, Scene
from webhooks.world import World

POLICY = Policy(cache=Cache(url="http://cache.example"), exempt_namespaces=("ops-*",))


class Service:
    """A running server with its parts."""

    def __init__(self, tls: Tls, policy: Policy | None = POLICY) -> None:
        self.world = World("tasuki-system")
        self.metrics = Metrics()
        if policy is not None:
            self.world.use_policy(policy)
        self.server = HttpServer(Application(self.world, self.metrics), ("127.0.0.1", 0), tls.live.context, "reviews")
        self.tls = tls

    def counted(self, webhook: str, outcome: str) -> float:
        labels = {"webhook": webhook, "outcome": outcome}
        return self.metrics.registry.get_sample_value("tasuki_webhooks_reviews_total", labels) or 0.0

    async def client(self) -> Client:
        return await connect(self.server.port, self.tls.client)


@asynccontextmanager
async def running(tls: Tls, policy: Policy | None = POLICY) -> AsyncIterator[Service]:
    service = Service(tls, policy)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.server.run())
        yield service
        service.server.stop()


@pytest.fixture
async def service(tls: Tls) -> AsyncIterator[Service]:
    async with running(tls) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    client = await service.client()
    yield client
    client.close()


def patched(before: Json, response: Json) -> Json:
    assert response["patchType"] == "JSONPatch"
    after: Json = jsonpatch.apply_patch(copy.deepcopy(before), json.loads(base64.b64decode(response["patch"])))
    return after


async def test_a_pod_gets_what_it_asks_for_and_stays_valid(client: Client) -> None:
    asked = pod(container(gpus=1), annotations={"tasuki.dev/cache": "train"})

    response = await client.review(asked)
    after = patched(asked, response)

    assert_valid(after)
    assert response["allowed"] is True
    assert response["uid"] == "9f0d3b1c-0000-4000-8000-000000000001"
    assert {each["key"] for each in after["spec"]["tolerations"]} == {"nvidia.com/gpu"}
    assert any(each["name"] == "TASUKI_CACHE_URL" for each in after["spec"]["containers"][0]["env"])
    assert response["auditAnnotations"]["changed"] == "cache,tolerations"


async def test_an_ordinary_pod_is_left_as_it_is(client: Client) -> None:
    response = await client.review(pod())

    assert response == {"uid": response["uid"], "allowed": True}


async def test_a_generated_name_and_no_namespace_of_its_own(client: Client) -> None:
    asked = pod(container(gpus=1))
    asked["metadata"] = {"generateName": "job-", "creationTimestamp": None}

    response = await client.review(asked, name="")

    assert patched(asked, response)["spec"]["tolerations"]


async def test_null_is_as_good_as_absent(client: Client) -> None:
    asked = pod(
        container(gpus=1, env=None, volumeMounts=None), tolerations=None, nodeSelector=None, initContainers=None
    )
    asked["metadata"] |= {"annotations": None, "labels": None, "ownerReferences": None}

    response = await client.review(asked)

    assert patched(asked, response)["spec"]["tolerations"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"operation": "UPDATE", "oldObject": pod()}, id="update"),
        pytest.param({"operation": "DELETE", "object": None, "oldObject": pod()}, id="deletion"),
        pytest.param({"operation": "CONNECT", "subResource": "exec"}, id="exec"),
        pytest.param({"subResource": "ephemeralcontainers", "operation": "UPDATE"}, id="ephemeral containers"),
    ],
)
async def test_what_is_no_creation_passes_untouched(service: Service, client: Client, changes: Json) -> None:
    asked = pod(container(gpus=1), annotations={"tasuki.dev/cache": "train"})

    response = await client.review(asked, **changes)

    assert response == {"uid": response["uid"], "allowed": True}
    assert service.counted("mutate", "passed") == 1


@pytest.mark.parametrize("namespace", ["kube-system", "kube-node-lease", "tasuki-system", "ops-1"])
async def test_pods_that_keep_a_cluster_alive_are_left_alone(service: Service, client: Client, namespace: str) -> None:
    asked = pod(container(gpus=1), annotations={"tasuki.dev/cache": "NO/SUCH"})

    mutated = await client.review(asked, namespace=namespace)
    validated = await client.review(asked, path="/validate", namespace=namespace)

    assert mutated == validated == {"uid": mutated["uid"], "allowed": True}
    assert service.counted("mutate", "exempt") == service.counted("validate", "exempt") == 1


async def test_mirrors_of_static_pods_are_left_alone(service: Service, client: Client) -> None:
    kubelet = {"username": "system:node:a", "groups": ["system:nodes", "system:authenticated"]}
    asked = pod(container(gpus=1), annotations={"kubernetes.io/config.mirror": "x"})

    mirrored = await client.review(asked, userInfo=kubelet)
    pretended = await client.review(asked)

    assert mirrored == {"uid": mirrored["uid"], "allowed": True}
    assert pretended["patch"]
    assert service.counted("mutate", "exempt") == 1


async def test_a_refusal_says_what_to_write(service: Service, client: Client) -> None:
    response = await client.review(pod(annotations={"tasuki.dev/gpu-slice": "timeshar"}))

    assert response["allowed"] is False
    assert "tasuki.dev/gpu-slice" in response["status"]["message"]
    assert "timeshare" in response["status"]["message"]
    assert service.counted("mutate", "refused") == 1


async def test_a_warning_reaches_the_user(client: Client) -> None:
    response = await client.review(pod(annotations={"tasuki.dev/gpu-slcie": "whole"}))

    assert response["allowed"] is True
    assert any("tasuki.dev/gpu-slice" in warning for warning in response["warnings"])


async def test_a_dry_run_is_answered_alike(client: Client) -> None:
    asked = pod(container(gpus=1))

    assert await client.review(asked, dryRun=True) == await client.review(asked)


async def test_three_mebibytes_are_read(client: Client) -> None:
    asked = pod(container(gpus=1), annotations={"example.com/blob": "x" * 3 * 2**20})

    response = await client.review(asked)

    assert patched(asked, response)["spec"]["tolerations"]


async def test_what_go_writes_with_six_bytes_is_read_too(client: Client) -> None:
    asked = pod(container(gpus=1), annotations={"example.com/blob": "<" * 1_450_000})
    body = json.dumps(admission_review(asked)).replace("<", "\\u003c").encode()

    status, _, answer = await client.ask("/mutate", body)

    assert len(body) > 8_000_000
    assert status == 200
    assert json.loads(answer)["response"]["patch"]


async def test_pieces_of_a_body_are_put_together(client: Client) -> None:
    body = json.dumps(admission_review(pod(container(gpus=1)))).encode()
    client.begin("/mutate", len(body))
    for start in range(0, len(body), 100):
        client.writer.write(body[start : start + 100])
        await client.writer.drain()
        await asyncio.sleep(0)

    status, _, _ = await client.answer()

    assert status == 200


@pytest.mark.parametrize(
    ("request_line", "sent", "status", "told"),
    [
        pytest.param("POST /mutate", ("text/plain", b"{}"), 415, "text/plain", id="another content type"),
        pytest.param("POST /mutate", ("", b"{}"), 415, "application/json", id="no content type"),
        pytest.param("POST /mutate", ("application/json", b"{"), 400, "no AdmissionReview", id="no JSON"),
        pytest.param("POST /mutate", ("application/json", b"{}"), 400, "AdmissionReview", id="another object"),
        pytest.param("GET /mutate", ("application/json", b""), 405, "POST", id="another method"),
        pytest.param("POST /", ("application/json", b"{}"), 404, "/mutate or /validate", id="another path"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    client: Client, request_line: str, sent: tuple[str, bytes], status: int, told: str
) -> None:
    method, path = request_line.split()
    kind, body = sent

    answered, headers, text = await client.ask(path, body, kind, method)

    assert answered == status
    assert told in text.decode()
    assert headers["connection"] == "close"


async def test_a_charset_is_no_other_content_type(client: Client) -> None:
    body = json.dumps(admission_review(pod())).encode()

    status, _, _ = await client.ask("/mutate", body, "application/json; charset=utf-8")

    assert status == 200


@pytest.mark.parametrize("told", [True, False], ids=["said beforehand", "found out"])
async def test_what_is_too_large_is_not_read_to_the_end(service: Service, client: Client, *, told: bool) -> None:
    size = 21 * 2**20
    if told:
        client.begin("/mutate", size)
    else:
        head = (
            "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.writer.write(head.encode())
        client.writer.write(b"%x\r\n" % size + b"x" * size)

    status, _, text = await client.answer()

    assert status == 413
    assert b"20971520" in text
    assert service.counted("mutate", "too-large") == 1


async def test_a_truncated_body_harms_nobody(service: Service) -> None:
    body = json.dumps(admission_review(pod())).encode()
    leaving = await service.client()
    leaving.begin("/mutate", len(body))
    leaving.writer.write(body[:100])
    await leaving.writer.drain()
    leaving.close()

    staying = await service.client()
    response = await staying.review(pod())

    assert response["allowed"] is True
    staying.close()


async def test_many_reviews_share_a_connection(service: Service, client: Client) -> None:
    for _ in range(50):
        await client.review(pod())

    assert service.counted("mutate", "untouched") == 50


async def test_without_a_policy_the_failure_policy_decides(tls: Tls) -> None:
    async with running(tls, policy=None) as service:
        client = await service.client()

        status, _, text = await client.ask("/mutate", json.dumps(admission_review(pod())).encode())

        assert status == 503
        assert b"policy" in text
        client.close()


async def test_a_defect_of_ours_is_counted_and_left_to_the_failure_policy(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Pod, __: Scene) -> Change:
        raise KeyError("a secret")

    monkeypatch.setitem(application_module.PATHS, "/mutate", ("mutate", (("broken", broken),)))

    status, _, text = await client.ask("/mutate", json.dumps(admission_review(pod())).encode())

    assert status == 500
    assert b"a secret" not in text
    assert service.counted("mutate", "error") == 1


async def test_pods_of_one_template_are_decided_once_until_something_changes(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[str] = []

    def counting(asked: Pod, where: Scene) -> Change:
        decided.append(where.namespace)
        return Change(warnings=("seen",))

    monkeypatch.setitem(application_module.PATHS, "/mutate", ("mutate", (("counting", counting),)))
    for namespace in ("research", "research", "elsewhere"):
        response = await client.review(pod(), namespace=namespace)
        assert response["warnings"] == ["seen"]
    await client.review(pod(container(gpus=1)))
    service.world.use_policy(Policy())
    await client.review(pod())

    assert decided == ["research", "elsewhere", "research", "research"]


async def test_each_answer_has_the_uid_of_its_question(client: Client) -> None:
    first, second = [await client.review(pod(), uid=uid) for uid in ("one", "two")]

    assert (first["uid"], second["uid"]) == ("one", "two")


async def test_bodies_that_wait_for_their_end_are_bounded_together(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application_module, "_MOST_HELD_BYTES", 150_000)
    async with running(tls) as service:
        waiting = [await service.client() for _ in range(3)]
        for client in waiting:
            client.begin("/mutate", 1_000_000)
            client.writer.write(b"x" * 60_000)
            await client.writer.drain()
            await asyncio.sleep(0.05)

        waiting[2].writer.write(b"x" * 60_000)
        status, _, _ = await waiting[2].answer()
        for client in waiting:
            client.close()
        await asyncio.sleep(0.05)
        staying = await service.client()
        response = await staying.review(pod())

        assert status == 503
        assert response["allowed"] is True
        staying.close()


async def test_a_path_cannot_forge_a_line_of_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await client.ask("/x%0A2026-01-01T00:00:00.000Z%20ERROR%20forged", b"")

    assert "request refused" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


async def test_as_deep_as_go_reads_so_do_we(client: Client) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(main_module._MOST_LEVELS)
    fields = '{"f":' * 9_900 + "1" + "}" * 9_900
    text = json.dumps(admission_review(pod(container(gpus=1), labels={"x": "fields"}))).replace('"fields"', '""')
    text = text.replace('"metadata": {', '"metadata": {"managedFields": [{"fieldsV1": ' + fields + "}], ", 1)

    status, _, answer = await client.ask("/mutate", text.encode())
    sys.setrecursionlimit(limit)

    assert status == 200
    assert json.loads(answer)["response"]["patch"]


async def test_what_is_too_deep_for_anybody_is_a_bad_request(service: Service, client: Client) -> None:
    body = b'{"a":' * 30_000 + b"1" + b"}" * 30_000

    status, _, _ = await client.ask("/mutate", body)

    assert status == 400
    assert service.counted("mutate", "bad-request") == 1
