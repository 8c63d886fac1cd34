"""`tasuki schedext` as it is shipped: a process of its own between a scheduler and an API server."""

import asyncio
import json
import os
import re
import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.schedext.accelerators import gpu_status
from tests.schedext.api_server import LEASES, SchedulingApiServer
from tests.tasuki.kube.api_server import ACCELERATOR_NODES, NODES
from tests.tasuki.process.http_client import Client, connect
from tests.webhooks.certificates.tls import a_chain, an_rsa_certificate, trusting

Json = dict[str, Any]

SECONDS: Final = 20.0
GPU: Final = {"limits": {"nvidia.com/gpu": "1"}}


@dataclass
class Schedext:
    """A running process."""

    process: asyncio.subprocess.Process
    log: Path
    metrics: int = 0
    scheduler: int = 0
    explanations: int = 0

    async def reports(self, *expected: str) -> str:
        """/readyz as soon as it holds all of these."""
        async with asyncio.timeout(SECONDS):
            while True:
                page = await asyncio.to_thread(self.page, "/readyz")
                if all(text in page for text in expected):
                    return page
                await asyncio.sleep(0.05)

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=5) as page:
                return str(page.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    async def asks(self, verb: str, question: Json) -> Any:
        client = await connect(self.scheduler)
        status, _, body = await client.ask(f"/{verb}", json.dumps(question).encode())
        client.close()
        assert status == 200
        return json.loads(body)

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


def a_node(gpus: int) -> Json:
    return {"status": {"allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "64"}}}


@pytest.fixture
async def api() -> AsyncIterator[SchedulingApiServer]:
    server = SchedulingApiServer()
    await server.put(NODES, "gpu-1", **a_node(1))
    await server.put(ACCELERATOR_NODES, "gpu-1", status=gpu_status(gpus=1, replicas=1, node="GPU"))
    await server.put_pod("research", "train-0", spec={"containers": [{"name": "main", "resources": GPU}]})
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def schedext(api: SchedulingApiServer, folder: Path, *more: str) -> AsyncIterator[Schedext]:
    log = folder / "log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tasuki.cli", "schedext", "--listen", "127.0.0.1:0", "--explain-listen", "127.0.0.1:0"),
            *("--metrics-address", "127.0.0.1:0", "--drain-seconds", "0.2", *more),
            stderr=errors,
            env={**os.environ, "KUBECONFIG": api.kubeconfig(folder)},
        )
    running = Schedext(process, log)
    try:
        running.metrics = await port_after("metrics and health", running)
        running.scheduler = await port_after("the scheduler", running)
        running.explanations = await port_after("explanations", running)
        yield running
    finally:
        await running.stop()
        print(log.read_text())


async def port_after(what: str, running: Schedext) -> int:
    async with asyncio.timeout(SECONDS):
        while (found := re.search(rf"serving {what} port=(\d+)", text := running.log.read_text())) is None:
            assert running.process.returncode is None, text
            await asyncio.sleep(0.02)
    return int(found[1])


def question(api: SchedulingApiServer, *names: str) -> Json:
    return {"Pod": api.pod("research", "train-0"), "Nodes": None, "NodeNames": list(names)}


def binding(api: SchedulingApiServer, node: str) -> Json:
    uid = api.pod("research", "train-0")["metadata"]["uid"]
    return {"PodName": "train-0", "PodNamespace": "research", "PodUID": uid, "Node": node}


async def test_a_scheduler_is_answered_from_filter_to_bind(api: SchedulingApiServer, tmp_path: Path) -> None:
    async with schedext(api, tmp_path) as running:
        report = await running.reports("\nready\n")
        filtered = await running.asks("filter", question(api, "gpu-1", "nowhere"))
        ranked = await running.asks("prioritize", question(api, "gpu-1"))
        bound = await running.asks("bind", binding(api, "gpu-1"))
        metrics = running.page("/metrics")

        assert "[+]cluster ok" in report
        assert "[+]serving ok" in report
        assert filtered["NodeNames"] == ["gpu-1"]
        assert set(filtered["FailedNodes"]) == {"nowhere"}
        assert [each["Host"] for each in ranked] == ["gpu-1"]
        assert bound == {"Error": ""}
        assert api.annotations("research", "train-0")["tasuki.dev/devices"] == "GPU-0"
        assert 'tasuki_schedext_requests_total{outcome="answered",verb="filter"} 1.0' in metrics
        assert 'tasuki_schedext_binds_total{outcome="bound"} 1.0' in metrics
        assert 'tasuki_schedext_watch_connected{watch="pods"} 1.0' in metrics
        assert "tasuki_schedext_synced 1.0" in metrics
        assert "tasuki_schedext_lease_held 1.0" in metrics
        assert running.page("/healthz") == "ok\n"
        assert await running.stop() == 0
    assert api.node_of("research", "train-0") == "gpu-1"
    [lease] = api.objects(LEASES).values()
    assert not lease["spec"]["holderIdentity"]


async def test_before_the_cluster_is_known_the_scheduler_is_told_to_wait(
    api: SchedulingApiServer, tmp_path: Path
) -> None:
    api.answering.clear()
    async with schedext(api, tmp_path, "--lease", "off") as running:
        await running.reports("[-]cluster nodes, pods and AcceleratorNodes are not all listed yet", "\nnot ready\n")
        early = await running.asks("filter", question(api, "gpu-1"))
        api.answering.set()
        await running.reports("\nready\n")
        late = await running.asks("filter", question(api, "gpu-1"))

    assert early["Error"] == "not ready: nodes, pods and AcceleratorNodes are not all listed yet"
    assert late["NodeNames"] == ["gpu-1"]


async def test_people_are_answered_on_a_port_that_binds_nothing(api: SchedulingApiServer, tmp_path: Path) -> None:
    async with schedext(api, tmp_path) as running:
        await running.reports("\nready\n")
        client: Client = await connect(running.explanations)
        status, _, text = await client.ask("/explain?pod=research/train-0", method="GET")
        refused, _, _ = await client.ask("/bind", json.dumps(binding(api, "gpu-1")).encode())
        client.close()

    assert status == 200
    assert b"fits on 1 of 1 node" in text
    assert b"gpu-1" in text
    assert refused == 404
    assert api.bindings == []


async def test_what_was_seen_stands_while_the_api_server_is_away(api: SchedulingApiServer, tmp_path: Path) -> None:
    async with schedext(api, tmp_path) as running:
        await running.reports("\nready\n")
        await api.stop()

        report = await running.reports("[!]watch of pods")
        filtered = await running.asks("filter", question(api, "gpu-1"))
        metrics = running.page("/metrics")
        await api.start()

    assert report.endswith("\nready\n")
    assert filtered["NodeNames"] == ["gpu-1"]
    assert 'tasuki_schedext_watch_connected{watch="pods"} 0.0' in metrics


async def test_only_who_shows_a_certificate_may_bind(api: SchedulingApiServer, tmp_path: Path) -> None:
    chain = a_chain(names=("127.0.0.1",))
    folder, authority, shown = tmp_path / "tls", tmp_path / "ca.pem", tmp_path / "client.pem"
    folder.mkdir()
    (folder / "tls.crt").write_bytes(chain.server.certificate_pem)
    (folder / "tls.key").write_bytes(chain.server.key_pem)
    authority.write_bytes(chain.bundle)
    shown.write_bytes(b"".join(an_rsa_certificate(chain, ExtendedKeyUsageOID.CLIENT_AUTH)))
    nobody, scheduler = trusting(chain.bundle), trusting(chain.bundle)
    scheduler.load_cert_chain(shown)
    asked = json.dumps(binding(api, "gpu-1")).encode()
    async with schedext(api, tmp_path, "--tls-dir", str(folder), "--client-ca", str(authority)) as running:
        report = await running.reports("\nready\n")
        # TLS 1.3 refuses only after the client's handshake.
        with pytest.raises((OSError, EOFError)):
            await asks_and_leaves(running.scheduler, nobody, asked)
        before = list(api.bindings)
        client = await connect(running.scheduler, scheduler)
        _, _, bound = await client.ask("/bind", asked)
        client.close()
        people = await connect(running.explanations)
        explained, _, _ = await people.ask("/explain?pod=research/train-0", method="GET")
        people.close()

    assert "[+]certificate ok" in report
    assert before == []
    assert json.loads(bound) == {"Error": ""}
    assert explained == 200


async def asks_and_leaves(port: int, context: ssl.SSLContext, asked: bytes) -> None:
    client = await connect(port, context)
    try:
        await client.ask("/bind", asked)
    finally:
        client.close()


async def test_stopping_drains_before_it_refuses(api: SchedulingApiServer, tmp_path: Path) -> None:
    async with schedext(api, tmp_path, "--drain-seconds", "5") as running:
        await running.reports("\nready\n")
        running.process.send_signal(signal.SIGTERM)

        await running.reports("[-]serving stopping")
        bound = await running.asks("bind", binding(api, "gpu-1"))

        assert bound == {"Error": ""}
        assert await asyncio.wait_for(running.process.wait(), SECONDS) == 0
    assert api.node_of("research", "train-0") == "gpu-1"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        pytest.param(("--tls-dir", "/tls", "--client-ca", "/no/such/file"), 1, "/no/such/file", id="no such file"),
        pytest.param(("--listen", ":0"), 2, "--client-ca", id="anyone may bind"),
    ],
)
async def test_settings_that_cannot_work_end_the_start(
    api: SchedulingApiServer, tmp_path: Path, arguments: tuple[str, ...], status: int, told: str
) -> None:
    ended, said = await ends({"KUBECONFIG": api.kubeconfig(tmp_path)}, *arguments)

    assert ended == status
    assert told in said


async def test_without_an_api_server_there_is_nothing_to_schedule() -> None:
    ended, said = await ends({})

    assert ended == 2
    assert "no API server is configured" in said
    assert "KUBECONFIG" in said


async def ends(variables: dict[str, str], *arguments: str) -> tuple[int | None, str]:
    """Of a process that does not start: its status and what it says."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tasuki.cli", "schedext", "--metrics-address", "", *arguments),
        stderr=asyncio.subprocess.PIPE,
        env=others | variables,
    )
    _, said = await asyncio.wait_for(process.communicate(), SECONDS)
    return process.returncode, said.decode()
