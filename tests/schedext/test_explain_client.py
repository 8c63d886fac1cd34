"""`tasuki explain pod …`, as a person types it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession, web

from schedext.explain_client import main
from schedext.explain_page import ExplainPage
from schedext.explanation import Explanation, NodeExplanation
from schedext.metrics import Metrics
from schedext.pod import Metadata, Pod
from tasuki import cli
from tasuki.kube.errors import NotFoundError
from tasuki.process.http_server import HttpServer
from tests.tasuki.kube.api_server import ApiServer, Refusal

PROXY: Final = "/api/v1/namespaces/tasuki-system/services/http:tasuki-schedext:explain/proxy"


class Extender:
    """Knows one pod, which fits on three nodes."""

    async def explain(self, pod: Pod, rest: Callable[[], Awaitable[None]]) -> Explanation:
        await rest()
        nodes = tuple(NodeExplanation(f"gpu-{each}", score=each) for each in range(3))
        return Explanation(f"{pod.metadata.namespace}/{pod.metadata.name}", "performance", nodes=nodes)

    async def find(self, namespace: str, name: str) -> Pod:
        if name != "train-0":
            raise NotFoundError("GET …: 404", 404, "NotFound")
        return Pod(metadata=Metadata(name=name, namespace=namespace))


class ProxyingApiServer(ApiServer):
    """Passes requests on to the extender's Service, as the API server does."""

    target = ""

    async def _route(self, request: web.Request, body: object) -> web.StreamResponse:
        if not request.path.startswith(PROXY):
            return await super()._route(request, body)
        async with ClientSession() as session, session.get(f"{self.target}{request.path_qs[len(PROXY) :]}") as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """The URL of an extender's page for people."""
    extender = Extender()
    page = ExplainPage(extender, extender.find, lambda: "", Metrics())
    server = HttpServer(page, ("127.0.0.1", 0), None, "explanations")
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        yield f"http://127.0.0.1:{server.port}"
        server.stop()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serving() as url:
        yield url


@pytest.fixture
async def api(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProxyingApiServer]:
    server = ProxyingApiServer()
    server.target = url
    await server.start()
    monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path))
    yield server
    await server.stop()


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "TASUKI_SCHEDEXT_URL"):
        monkeypatch.delenv(name, raising=False)


async def explain(*argv: str) -> int:
    """In a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(main, argv)


async def test_an_extender_is_asked_directly(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = await explain("pod", "research/train-0", "--server", f"{url}/", "--limit", "1")

    said = capsys.readouterr().out
    assert status == 0
    assert said.startswith("pod research/train-0, placed for performance\n")
    assert "gpu-2" in said
    assert "gpu-1" not in said


async def test_a_variable_names_the_extender(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASUKI_SCHEDEXT_URL", url)

    status = await asyncio.to_thread(cli.main, ["explain", "pod", "train-0", "--format", "json"])

    assert status == 0
    assert json.loads(capsys.readouterr().out)["pod"] == "default/train-0"


async def test_an_extender_is_asked_through_the_api_server(
    api: ProxyingApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await explain("pod", "research/train-0")

    assert status == 0
    assert capsys.readouterr().out.startswith("pod research/train-0, placed for performance\n")
    assert api.count("GET", f"{PROXY}/explain") == 1


@pytest.mark.parametrize("way", ["directly", "through the API server"])
async def test_a_pod_that_is_not_there_is_told_plainly(
    api: ProxyingApiServer, url: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await explain("pod", "research/other", *(("--server", url) if way == "directly" else ()))

    said = capsys.readouterr()
    assert (status, said.out) == (1, "")
    assert said.err == "tasuki explain: there is no pod other in the namespace research\n"


async def test_a_namespace_without_an_extender_is_named(
    api: ProxyingApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await explain("pod", "research/train-0", "--namespace", "elsewhere")

    assert status == 1
    assert "there is no Service tasuki-schedext in the namespace elsewhere" in capsys.readouterr().err


async def test_who_may_not_ask_is_told_the_verb(api: ProxyingApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.refusals.append(Refusal(403, reason="Forbidden"))

    status = await explain("pod", "research/train-0")

    assert status == 1
    assert "the verb get on services/proxy in tasuki-system" in capsys.readouterr().err


async def test_an_extender_that_is_away_is_told_by_the_api_server(
    api: ProxyingApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refusals.append(Refusal(503, reason="ServiceUnavailable"))

    status = await explain("pod", "research/train-0")

    assert status == 1
    assert "503 ServiceUnavailable" in capsys.readouterr().err


async def test_another_web_page_is_no_extender(capsys: pytest.CaptureFixture[str]) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        status = await explain("pod", "train-0", "--server", f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()

    assert status == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "answers with text/html, so it is no extender" in said.err


async def test_an_extender_that_is_away_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status = await explain("pod", "train-0", "--server", "http://127.0.0.1:1")

    assert status == 1
    assert "there is no answer from http://127.0.0.1:1" in capsys.readouterr().err


async def test_without_a_way_to_ask_both_ways_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    status = await explain("pod", "train-0")

    said = capsys.readouterr().err
    assert status == 1
    assert "KUBECONFIG" in said
    assert "--server" in said


async def test_a_kubeconfig_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")

    status = await explain("pod", "train-0")

    assert status == 1
    assert "/no/such/file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["node", "a"], "invalid choice", id="another kind"),
        pytest.param(["pod"], "name", id="no name"),
        pytest.param(["pod", "a/b/c"], "it must be namespace/name", id="too many parts"),
        pytest.param(["pod", "A"], "it must be namespace/name", id="no name of a pod"),
        pytest.param(["pod", "a", "--limit", "-1"], "or 0 for all", id="less than none"),
        pytest.param(["pod", "a", "--format", "yaml"], "invalid choice", id="another format"),
        pytest.param(["pod", "a", "--server", "127.0.0.1:9445"], "must be a URL", id="no scheme"),
        pytest.param(["pod", "a", "--server", "file:///etc/passwd"], "must be a URL", id="another scheme"),
    ],
)
def test_a_wrong_command_line_ends_with_2(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)

    assert ended.value.code == 2
    assert told in capsys.readouterr().err
