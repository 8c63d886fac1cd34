"""The scheduler's questions over real HTTP, asked as kube-scheduler asks them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schedext import application as application_module
from schedext import explain_page as explain_module
from schedext.application import Application, Service
from schedext.explain_page import ExplainPage
from schedext.explanation import Explanation, NodeExplanation
from schedext.metrics import Metrics
from schedext.pod import Metadata, Pod
from schedext.wire import FilterResult, Victims
from tasuki.kube.errors import KubeError, NotFoundError, UnavailableError
from tasuki.process.http_server import HttpServer
from tests.tasuki.process.http_client import Client, connect

Json = dict[str, Any]

POD: Json = {"metadata": {"name": "train-0", "namespace": "research", "uid": "u-1", "labels": None}, "spec": {}}
BINDING: Json = {"PodName": "train-0", "PodNamespace": "research", "PodUID": "u-1", "Node": "gpu-1"}
VICTIMS: Json = {"gpu-1": {"Pods": [{"UID": "v-1"}], "NumPDBViolations": 0}}


class Fake:
    """Decides as names say: `gpu-…` fits, `busy-…` does not fit now, every other never does.

    Attributes:
        reason: Why it is not ready.
        defect: Raised by every decision.
        bound: What was bound; with `bind_error` nothing is.
        waiting: Pods that were refused for want of room.
        lookup: Raised in place of a pod.
        may_bind: Binding waits for it.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.defect: Exception | None = None
        self.bind_error = ""
        self.bound: list[tuple[str, str, str, str]] = []
        self.waiting: set[str] = set()
        self.lookup: KubeError | None = None
        self.may_bind = asyncio.Event()
        self.may_bind.set()

    def filter(self, pod: Pod, names: Sequence[str]) -> FilterResult:
        self._fail()
        result = FilterResult(names=[name for name in names if name.startswith("gpu-")])
        result.failed = {name: "no room" for name in names if name.startswith("busy-")}
        result.unresolvable = {name: "no GPU" for name in names if not name.startswith(("gpu-", "busy-"))}
        return result

    def prioritize(self, pod: Pod, names: Sequence[str]) -> list[bytes]:
        self._fail()
        return [b'{"Host":"%b","Score":%d}' % (name.encode(), score % 11) for score, name in enumerate(names)]

    def preempt(self, pod: Pod, victims: Mapping[str, Victims]) -> Mapping[str, Victims]:
        self._fail()
        return {node: each for node, each in victims.items() if node.startswith("gpu-")}

    async def bind(self, namespace: str, name: str, uid: str, node: str) -> str:
        self._fail()
        await self.may_bind.wait()
        if not self.bind_error:
            self.bound.append((namespace, name, uid, node))
        return self.bind_error

    def refused(self, uid: str) -> None:
        self.waiting.add(uid)

    def fitted(self, uid: str) -> None:
        self.waiting.discard(uid)

    def gone(self, uid: str) -> None:
        self.waiting.discard(uid)

    async def explain(self, pod: Pod, rest: Callable[[], Awaitable[None]]) -> Explanation:
        await rest()
        self._fail()
        nodes = tuple(NodeExplanation(f"gpu-{each}", score=each, seconds={"cache": 1.0}) for each in range(3))
        return Explanation(f"{pod.metadata.namespace}/{pod.metadata.name}", "performance", nodes=nodes)

    async def find(self, namespace: str, name: str) -> Pod:
        if self.lookup is not None:
            raise self.lookup
        return Pod(metadata=Metadata(name=name, namespace=namespace))

    def ready(self) -> str:
        return self.reason

    def _fail(self) -> None:
        if self.defect is not None:
            raise self.defect


class Extender:
    """A running server with its parts."""

    def __init__(self) -> None:
        self.fake = Fake()
        self.metrics = Metrics()
        page = ExplainPage(self.fake, self.fake.find, self.fake.ready, self.metrics)
        service = Service(self.fake, self.fake, self.fake, self.fake.ready)
        self.server = HttpServer(Application(service, page, self.metrics), ("127.0.0.1", 0), None, "the scheduler")

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tasuki_schedext_{name}", labels) or 0.0


@asynccontextmanager
async def serving() -> AsyncIterator[Extender]:
    extender = Extender()
    async with asyncio.TaskGroup() as group:
        group.create_task(extender.server.run())
        yield extender
        extender.server.stop()


@pytest.fixture
async def extender() -> AsyncIterator[Extender]:
    async with serving() as extender:
        yield extender


@pytest.fixture
async def client(extender: Extender) -> AsyncIterator[Client]:
    client = await connect(extender.server.port)
    yield client
    client.close()


def args(names: Sequence[str] | None, **more: Any) -> bytes:
    return json.dumps({"Pod": POD, "Nodes": None, "NodeNames": names, **more}).encode()


QUESTIONS: dict[str, bytes] = {
    "/filter": args(["gpu-1", "busy-1"]),
    "/prioritize": args(["gpu-1", "busy-1"]),
    "/bind": json.dumps(BINDING).encode(),
    "/preempt": json.dumps({"Pod": POD, "NodeNameToVictims": None, "NodeNameToMetaVictims": VICTIMS}).encode(),
}


def told(path: str, answer: bytes) -> str:
    """The Error of an answer that has one; for the others, that it changes nothing or leaves nothing."""
    document = json.loads(answer)
    if path in {"/filter", "/bind"}:
        assert not document.get("NodeNames")
        assert document["Error"]
        return str(document["Error"])
    if path == "/preempt":
        assert document == {"NodeNameToMetaVictims": {}}
    else:
        assert {each["Score"] for each in document} <= {0}
    return ""


async def test_every_node_gets_its_answer(extender: Extender, client: Client) -> None:
    status, headers, body = await client.ask("/filter", args(["gpu-1", "busy-1", "cpu-1", "gpu-2"]))

    assert (status, headers["content-type"]) == (200, "application/json")
    assert int(headers["content-length"]) == len(body)
    assert "transfer-encoding" not in headers
    assert json.loads(body) == {
        "Nodes": None,
        "NodeNames": ["gpu-1", "gpu-2"],
        "FailedNodes": {"busy-1": "no room"},
        "FailedAndUnresolvableNodes": {"cpu-1": "no GPU"},
        "Error": "",
    }
    assert extender.counted("filter_refusals_total", kind="busy") == 1
    assert extender.counted("filter_refusals_total", kind="never") == 1
    assert extender.counted("request_nodes_sum", verb="filter") == 4
    assert extender.counted("request_seconds_count", verb="filter") == 1


async def test_who_is_refused_for_want_of_room_waits(extender: Extender, client: Client) -> None:
    await client.ask("/filter", args(["gpu-1", "busy-1"]))
    waiting = set(extender.fake.waiting)
    await client.ask("/filter", args(["gpu-1", "cpu-1"]))

    assert waiting == {"u-1"}
    assert extender.fake.waiting == set()


async def test_scores_come_in_the_order_of_the_names(client: Client) -> None:
    _, _, body = await client.ask("/prioritize", args(["b", "a"]))

    assert json.loads(body) == [{"Host": "b", "Score": 0}, {"Host": "a", "Score": 1}]


async def test_a_pod_is_bound_and_waits_no_more(extender: Extender, client: Client) -> None:
    extender.fake.waiting.add("u-1")

    _, _, body = await client.ask("/bind", QUESTIONS["/bind"])

    assert json.loads(body) == {"Error": ""}
    assert extender.fake.bound == [("research", "train-0", "u-1", "gpu-1")]
    assert extender.fake.waiting == set()


async def test_a_refused_binding_says_why(extender: Extender, client: Client) -> None:
    extender.fake.bind_error = "gpu-1 has no room any more"

    status, _, body = await client.ask("/bind", QUESTIONS["/bind"])

    assert (status, json.loads(body)) == (200, {"Error": "gpu-1 has no room any more"})


async def test_others_are_answered_while_a_pod_is_being_bound(extender: Extender, client: Client) -> None:
    extender.fake.may_bind.clear()
    binding = await connect(extender.server.port)
    binding.begin("/bind", len(QUESTIONS["/bind"]))
    binding.writer.write(QUESTIONS["/bind"])

    status, _, _ = await client.ask("/filter", QUESTIONS["/filter"])
    extender.fake.may_bind.set()
    _, _, bound = await binding.answer()

    assert status == 200
    assert json.loads(bound) == {"Error": ""}
    binding.close()


async def test_only_nodes_where_it_helps_are_preempted(client: Client) -> None:
    asked = {"Pod": POD, "NodeNameToMetaVictims": {**VICTIMS, "cpu-1": VICTIMS["gpu-1"]}}

    _, _, body = await client.ask("/preempt", json.dumps(asked).encode())

    assert json.loads(body) == {"NodeNameToMetaVictims": VICTIMS}


@pytest.mark.parametrize("path", QUESTIONS)
async def test_before_the_world_is_known_nothing_is_decided(extender: Extender, client: Client, path: str) -> None:
    extender.fake.reason = "pods are not listed yet"

    status, _, body = await client.ask(path, QUESTIONS[path])

    assert status == 200
    assert told(path, body) in {"", "not ready: pods are not listed yet"}
    assert extender.fake.bound == []
    assert extender.counted("requests_total", verb=path[1:], outcome="not-ready") == 1


async def test_before_the_world_is_known_no_node_is_better(extender: Extender, client: Client) -> None:
    extender.fake.reason = "pods are not listed yet"

    _, _, body = await client.ask("/prioritize", args(["a", "b"]))

    assert json.loads(body) == [{"Host": "a", "Score": 0}, {"Host": "b", "Score": 0}]


@pytest.mark.parametrize("path", QUESTIONS)
async def test_a_defect_of_ours_is_told_counted_and_logged(
    extender: Extender, client: Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    extender.fake.defect = KeyError("a secret")

    status, headers, body = await client.ask(path, QUESTIONS[path])
    extender.fake.defect = None
    again, _, _ = await client.ask(path, QUESTIONS[path])

    assert (status, again) == (200, 200)
    assert "connection" not in headers
    assert told(path, body) in {
        "", "this is a defect of Tasuki: KeyError; the scheduler extender's log says more",
    }  # fmt: skip
    assert b"secret" not in body
    assert "Traceback" in caplog.text
    assert extender.counted("requests_total", verb=path[1:], outcome="error") == 1


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"Pod": {"metadata"', id="truncated"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"[" * 100_000, id="endlessly deep"),
        pytest.param(b"{}", id="empty"),
    ],
)
async def test_a_body_that_cannot_be_read_is_told_with_200(
    extender: Extender, client: Client, path: str, content: bytes
) -> None:
    status, headers, body = await client.ask(path, content)
    again, _, _ = await client.ask(path, QUESTIONS[path])

    assert (status, again) == (200, 200)
    assert "connection" not in headers
    assert "Tasuki" not in told(path, body)
    assert extender.counted("requests_total", verb=path[1:], outcome="bad-request") == 1


async def test_scores_are_equal_where_only_the_names_can_be_read(client: Client) -> None:
    _, _, body = await client.ask("/prioritize", args(["a", "b"], Pod=[]))

    assert json.loads(body) == [{"Host": "a", "Score": 0}, {"Host": "b", "Score": 0}]


async def test_whole_nodes_are_answered_with_the_remedy(client: Client) -> None:
    status, _, body = await client.ask("/filter", args(None, Nodes={"items": [{"metadata": {"name": "a"}}]}))

    assert status == 200
    assert "nodeCacheCapable: true" in told("/filter", body)


@pytest.mark.parametrize("path", QUESTIONS)
async def test_another_content_type_is_told_with_200(client: Client, path: str) -> None:
    status, _, body = await client.ask(path, QUESTIONS[path], kind="text/plain")

    assert status == 200
    assert told(path, body) in {"", "the content type is 'text/plain'; it must be application/json"}


async def test_what_is_too_large_is_told_with_200_and_the_remedy(
    extender: Extender, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect(extender.server.port)
    client.begin("/filter", 33 * 2**20)
    client.writer.write(b"x" * 1000)

    status, headers, body = await client.answer()

    assert (status, headers["connection"]) == (200, "close")
    assert "nodeCacheCapable: true" in told("/filter", body)
    assert extender.counted("requests_total", verb="filter", outcome="too-large") == 1
    client.close()


async def test_bodies_that_wait_for_their_end_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application_module, "_MOST_HELD_BYTES", 150_000)
    async with serving() as extender:
        waiting = [await connect(extender.server.port) for _ in range(3)]
        for client in waiting:
            client.begin("/filter", 1_000_000)
            client.writer.write(b"x" * 60_000)
            await client.writer.drain()
            await asyncio.sleep(0.05)

        status, _, body = await waiting[2].answer()
        for client in waiting:
            client.close()
        await asyncio.sleep(0.05)
        # What they held is free again.
        last, question = await connect(extender.server.port), args(["gpu-1"] * 12_000)
        last.begin("/filter", len(question))
        last.writer.write(question[:-1])
        await last.writer.drain()
        await asyncio.sleep(0.05)
        last.writer.write(question[-1:])
        _, _, answered = await last.answer()
        last.close()

    assert status == 200
    assert "too many large requests at once" in told("/filter", body)
    assert len(json.loads(answered)["NodeNames"]) == 12_000


async def test_a_half_sent_body_harms_nobody(extender: Extender, client: Client) -> None:
    leaving = await connect(extender.server.port)
    leaving.begin("/bind", len(QUESTIONS["/bind"]))
    leaving.writer.write(QUESTIONS["/bind"][:-10])
    await leaving.writer.drain()
    leaving.close()

    status, _, body = await client.ask("/bind", QUESTIONS["/bind"])

    assert (status, json.loads(body)) == (200, {"Error": ""})
    assert len(extender.fake.bound) == 1


async def test_a_hundred_thousand_names_are_answered(client: Client) -> None:
    names = [f"gpu-{each}" for each in range(100_000)]

    _, _, fits = await client.ask("/filter", args(names))
    _, _, scores = await client.ask("/prioritize", args(names))
    _, _, too_many = await client.ask("/filter", args([*names, "one-more"]))

    assert json.loads(fits)["NodeNames"] == names
    assert len(json.loads(scores)) == 100_000
    assert "at most 100000 are answered" in told("/filter", too_many)


async def test_two_questions_on_a_connection_without_waiting(client: Client) -> None:
    for path in ("/filter", "/prioritize"):
        client.begin(path, len(QUESTIONS[path]))
        client.writer.write(QUESTIONS[path])

    first, second = await client.answer(), await client.answer()

    assert json.loads(first[2])["NodeNames"] == ["gpu-1"]
    assert len(json.loads(second[2])) == 2


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        pytest.param("GET", "/filter", 405, "POST", id="reading a verb"),
        pytest.param("PUT", "/bind", 405, "POST", id="putting a verb"),
        pytest.param("POST", "/", 404, "/filter, /prioritize, /bind, /preempt or /explain", id="nowhere"),
        pytest.param("POST", "/filter/", 404, "/filter", id="almost a verb"),
        pytest.param("POST", "/explain?pod=a/b", 405, "/explain?pod=namespace/name", id="posting for an explanation"),
    ],
)
async def test_what_no_scheduler_asks(client: Client, method: str, path: str, status: int, said: str) -> None:
    answered, headers, body = await client.ask(path, b"", method)

    assert answered == status
    assert headers["connection"] == "close"
    assert said in body.decode()


async def test_an_explanation_is_text_or_json(client: Client) -> None:
    _, kinds, text = await client.ask("/explain?pod=research/train-0", method="GET")
    _, kind, document = await client.ask("/explain?pod=research%2Ftrain-0&format=json&limit=2", method="GET")

    assert kinds["content-type"].startswith("text/plain")
    assert text.startswith(b"pod research/train-0, placed for performance\n")
    assert kind["content-type"] == "application/json"
    assert [node["name"] for node in json.loads(document)["nodes"]] == ["gpu-2", "gpu-1"]


async def test_a_bare_name_is_of_the_namespace_default(client: Client) -> None:
    _, _, text = await client.ask("/explain?pod=train-0", method="GET")

    assert text.startswith(b"pod default/train-0,")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param("", "it must be namespace/name", id="no pod"),
        pytest.param("?pod=a/b/c", "it must be namespace/name", id="too many parts"),
        pytest.param("?pod=../secrets", "it must be namespace/name", id="a way out"),
        pytest.param("?pod=a/b&fromat=json", "'fromat' is no parameter", id="a slip"),
        pytest.param("?pod=a/b&format=yaml", "text or json", id="another format"),
        pytest.param("?pod=a/b&limit=-1", "a number of nodes, or 0 for all", id="less than none"),
        pytest.param("?pod=%ff", "cannot be read", id="no UTF-8"),
    ],
)
async def test_a_wrong_question_for_an_explanation_is_told(client: Client, query: str, said: str) -> None:
    status, _, body = await client.ask(f"/explain{query}", method="GET")

    assert status == 400
    assert said in body.decode()
    assert "/explain?pod=namespace/name" in body.decode()


def not_ready(fake: Fake) -> None:
    fake.reason = "nodes are not listed yet"


def absent(fake: Fake) -> None:
    fake.lookup = NotFoundError("GET …: 404", 404, "NotFound")


def unavailable(fake: Fake) -> None:
    fake.lookup = UnavailableError("no answer from the API server")


def broken(fake: Fake) -> None:
    fake.defect = KeyError("a secret")


@pytest.mark.parametrize(
    ("arrange", "status", "said"),
    [
        pytest.param(not_ready, 503, "not ready: nodes are not listed yet", id="not ready"),
        pytest.param(absent, 404, "there is no pod train-0 in the namespace research", id="no such pod"),
        pytest.param(unavailable, 503, "no answer from the API server", id="no API server"),
        pytest.param(broken, 500, "a defect of Tasuki: KeyError", id="defect"),
    ],
)
async def test_why_there_is_no_explanation(
    extender: Extender, client: Client, arrange: Callable[[Fake], None], status: int, said: str
) -> None:
    arrange(extender.fake)

    answered, _, body = await client.ask("/explain?pod=research/train-0", method="GET")

    assert answered == status
    assert said in body.decode()
    assert b"secret" not in body


async def test_explanations_at_once_are_bounded(
    extender: Extender, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_module, "_MOST_AT_ONCE", 0)

    status, _, body = await client.ask("/explain?pod=a/b", method="GET")

    assert status == 503
    assert b"too many" in body


async def test_the_page_for_people_answers_no_verb() -> None:
    fake, metrics = Fake(), Metrics()
    server = HttpServer(ExplainPage(fake, fake.find, fake.ready, metrics), ("127.0.0.1", 0), None, "explanations")
    served = asyncio.ensure_future(server.run())

    statuses = []
    for path in QUESTIONS:
        client = await connect(server.port)
        statuses.append((await client.ask(path, QUESTIONS[path]))[0])
        client.close()
    client = await connect(server.port)
    explained, _, _ = await client.ask("/explain?pod=a/b", method="GET")
    client.close()
    server.stop()
    await served

    assert statuses == [404] * 4
    assert explained == 200
    assert fake.bound == []


async def test_a_path_cannot_forge_a_line_of_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await client.ask("/x%0A2026-01-01T00:00:00.000Z%20ERROR%20forged", b"")

    assert "request refused" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
