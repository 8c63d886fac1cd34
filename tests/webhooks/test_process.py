"""`tasuki webhooks` as it is shipped: a process of its own between an API server's watches and its reviews."""

import asyncio
import base64
import json
import os
import re
import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jsonpatch
import pytest

from tests.tasuki.kube.api_server import NAMESPACES, NODES, PRIORITY_CLASSES
from tests.webhook_builders import Json, container, pod
from tests.webhooks.certificates.api_server import HOOKS, SECRET, AdmissionApiServer
from tests.webhooks.https import Client

SECONDS: Final = 20.0
SERVER_NAME: Final = "tasuki-webhooks.gpus.svc"
POLICY: Final = """
cpuOnly: {priorityClass: low}
cache: {url: "http://cache.example"}
"""


@dataclass
class Webhooks:
    """A running process, and the files that it reads."""

    process: asyncio.subprocess.Process
    api: AdmissionApiServer
    policy: Path
    log: Path
    port: int = 0
    reviews: int = 0

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
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as page:
                return str(page.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    async def no_longer_reports(self, text: str) -> None:
        async with asyncio.timeout(SECONDS):
            while text in await asyncio.to_thread(self.page, "/readyz"):
                await asyncio.sleep(0.05)

    async def connect(self) -> Client:
        """As the API server does: it trusts the bundle of the configuration, and nothing else."""
        trusted = ssl.create_default_context(cadata=self.api.bundles()[0])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.reviews, ssl=trusted, server_hostname=SERVER_NAME
        )
        return Client(reader, writer)

    async def admit(self, asked: Json, namespace: str = "research") -> Json:
        """The pod after its review."""
        client = await self.connect()
        response = await client.review(asked, namespace=namespace)
        client.close()
        assert response["allowed"], response
        if "patch" not in response:
            return asked
        after: Json = jsonpatch.apply_patch(asked, json.loads(base64.b64decode(response["patch"])))
        return after

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


@pytest.fixture
async def api() -> AsyncIterator[AdmissionApiServer]:
    server = AdmissionApiServer()
    await server.put_secret()
    await server.put_configurations()
    await server.put(PRIORITY_CLASSES, "low", value=-10, globalDefault=False)
    await server.put(NAMESPACES, "research")
    await server.put(
        NODES,
        "gpu-1",
        spec={},
        status={"capacity": {"nvidia.com/gpu": "8", "cpu": "64"}, "nodeInfo": {"kubeletVersion": "v1.36.1"}},
    )
    server.documents["/version"] = b'{"major": "1", "minor": "36", "gitVersion": "v1.36.1"}'
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def webhooks(
    api: AdmissionApiServer, folder: Path, *more: str, policy: str | None = POLICY
) -> AsyncIterator[Webhooks]:
    file, log = folder / "policy.yaml", folder / "log"
    if policy is not None:
        file.write_text(policy)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tasuki.cli", "webhooks", "--policy", str(file), "--tls-secret", SECRET),
            *("--webhook-configuration", HOOKS, "--listen", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
            *("--drain-seconds", "0.3", *more),
            stderr=errors,
            env={**os.environ, "KUBECONFIG": api.kubeconfig(folder)},
        )
    running = Webhooks(process, api, file, log)
    try:
        running.port = await port_after("metrics", running)
        running.reviews = await port_after("reviews", running)
        yield running
    finally:
        if process.returncode is None:
            await running.stop()
        print(log.read_text())


async def port_after(what: str, running: Webhooks) -> int:
    async with asyncio.timeout(SECONDS):
        while (found := re.search(rf"serving {what}.* port=(\d+)", text := running.log.read_text())) is None:
            assert running.process.returncode is None, text
            await asyncio.sleep(0.02)
    return int(found[1])


async def test_an_api_server_finds_reviews_that_it_can_trust(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path, "--log-level", "debug") as running:
        report = await running.reports("\nready\n")
        after = await running.admit(pod(container(gpus=1), annotations={"tasuki.dev/cache": "train"}))

        assert "[+]policy ok" in report
        assert "[+]certificate ok" in report
        assert after["spec"]["tolerations"]
        assert after["spec"]["volumes"]
        assert running.page("/healthz") == "ok\n"
        assert await running.stop() == 0
    log = running.log.read_text()
    assert " DEBUG " in log
    assert [text for text in ways_to_leak(api.secret) if text in log] == []


def ways_to_leak(secret: Mapping[str, str]) -> list[str]:
    """The Secret's keys as it holds them, and each line of theirs, which no other way of quoting them changes."""
    keys = [value for value in secret.values() if b"PRIVATE KEY" in base64.b64decode(value)]
    assert keys, sorted(secret)
    lines = [line for key in keys for line in base64.b64decode(key).decode().splitlines()]
    # The last line of a key may be so short that it is anywhere.
    return [*keys, *(line for line in lines if len(line) > 20)]


async def test_what_the_watches_see_decides(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path) as running:
        await running.reports("\nready\n")

        async with asyncio.timeout(SECONDS):
            while "priorityClassName" not in (after := await running.admit(pod()))["spec"]:
                await asyncio.sleep(0.1)

        assert after["spec"]["priorityClassName"] == "low"


async def test_admission_goes_on_without_the_api_server(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path) as running:
        await running.reports("\nready\n")
        await api.stop()

        report = await running.reports("[!]watch of nodes")
        after = await running.admit(pod(container(gpus=1)))

        assert report.endswith("\nready\n")
        assert after["spec"]["tolerations"]
        assert 'tasuki_webhooks_watch_connected{watch="nodes"} 0.0' in running.page("/metrics")
        await api.start()
        await running.no_longer_reports("[!]watch of nodes")


async def test_a_broken_policy_leaves_the_last_good_one_in_force(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path) as running:
        await running.reports("\nready\n")
        replace(running.policy, "cach: {}")

        report = await running.reports("[!]policy file")
        after = await running.admit(pod(annotations={"tasuki.dev/cache": "train"}))

        assert report.endswith("\nready\n")
        assert after["spec"]["volumes"]
        assert "tasuki_webhooks_policy_loaded 0.0" in running.page("/metrics")


async def test_a_changed_policy_is_taken_up(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path) as running:
        await running.reports("\nready\n")
        replace(running.policy, 'cache: {url: "http://elsewhere.example"}')

        async with asyncio.timeout(SECONDS):
            asked = pod(annotations={"tasuki.dev/cache": "train"})
            while "elsewhere" not in json.dumps(await running.admit(asked)):
                await asyncio.sleep(0.1)


async def test_nothing_is_ready_before_a_policy(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path, policy=None) as running:
        await running.reports("[-]policy", "not ready", "[+]certificate ok")
        replace(running.policy, POLICY)

        await running.reports("\nready\n")


async def test_stopping_drains_before_it_refuses(api: AdmissionApiServer, tmp_path: Path) -> None:
    async with webhooks(api, tmp_path, "--drain-seconds", "5") as running:
        await running.reports("\nready\n")
        running.process.send_signal(signal.SIGTERM)

        await running.reports("[-]serving stopping")
        after = await running.admit(pod(container(gpus=1)))

        assert after["spec"]["tolerations"]
        assert await asyncio.wait_for(running.process.wait(), SECONDS) == 0


def replace(path: Path, text: str) -> None:
    whole = path.with_name(path.name + ".new")
    whole.write_text(text)
    whole.replace(path)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        pytest.param(("--kube-api", "off"), 2, "--tls-dir", id="nowhere to keep a certificate"),
        pytest.param(("--client-ca", "/no/such/file"), 1, "/no/such/file", id="no file of authorities"),
        pytest.param(("--server-names", "bücher.example"), 2, "ASCII", id="a name that no certificate is for"),
    ],
)
async def test_settings_that_cannot_work_end_the_start(
    api: AdmissionApiServer, tmp_path: Path, arguments: tuple[str, ...], status: int, told: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tasuki.cli", "webhooks", *arguments, "--metrics-address", "127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "KUBECONFIG": api.kubeconfig(tmp_path)},
    )  # fmt: skip

    _, said = await asyncio.wait_for(process.communicate(), SECONDS)

    assert process.returncode == status
    assert told in said.decode()
