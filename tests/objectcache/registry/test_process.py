"""The mirror as it is shipped: its command line, its files, and a process of its own."""

import asyncio
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest
import yaml

from objectcache.registry.config import read_upstreams
from objectcache.registry.settings import read
from tests.objectcache.caches import RunningCache
from tests.objectcache.registry.registries import digest_of, running_registry
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests" / "objectcache" / "registry"
REQUIRED = ["--config", "/etc/x.yaml", "--cache-url", "http://127.0.0.1:8480"]


def test_settings_come_from_flags_before_variables() -> None:
    found = read([*REQUIRED, "--bucket", "layers"], {"TASUKI_BUCKET": "other", "TASUKI_SPOOL_SIZE": "1Gi"})

    assert (found.bucket, found.spool_bytes, found.listen) == ("layers", 2**30, ("127.0.0.1", 5001))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param([], "--config is missing", id="no configuration"),
        pytest.param(REQUIRED[:2], "--cache-url is missing", id="no cache"),
        pytest.param([*REQUIRED, "--listen", ":5001"], "--allow-anyone", id="beyond loopback"),
        pytest.param([*REQUIRED, "--bucket", "A"], "--bucket is 'A'", id="no bucket"),
        pytest.param([*REQUIRED, "--cache-url", "http://u:p@h"], "--cache-url", id="a URL with a password"),
        pytest.param([*REQUIRED, "--spool-size", "1"], "--spool-size is '1'", id="a spool too small"),
        pytest.param([*REQUIRED, "--tag-second", "1"], "did you mean --tag-seconds", id="a slip"),
    ],
)
def test_what_is_wrong_with_settings_is_told(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read(argv, {})

    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_the_manifests_start_it() -> None:
    [daemon_set] = yaml.safe_load_all((MANIFESTS / "daemonset.yaml").read_text())
    [container] = daemon_set["spec"]["template"]["spec"]["containers"]

    settings = read([], {each["name"]: each["value"] for each in container["env"]})

    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert settings.metrics_address is not None
    assert (ports["registry"], ports["metrics"]) == (settings.listen[1], settings.metrics_address[1])
    [bucket] = yaml.safe_load_all((MANIFESTS / "bucket.yaml").read_text())
    assert bucket["metadata"]["name"] == settings.bucket
    assert read_upstreams((MANIFESTS / "config.yaml").read_bytes())


def test_the_guides_configuration_is_one() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "registry.md").read_text(), re.DOTALL)

    assert [sorted(read_upstreams(each.encode())) for each in examples] == [
        ["docker.io", "harbor.example", "registry.k8s.io"]
    ]


async def page(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(url) as answer:
            return await answer.text()
    except aiohttp.ClientError:
        return ""


async def test_the_process_mirrors_and_takes_up_a_changed_file(
    cache: RunningCache, token_file: Path, spool_dir: Path, tmp_path: Path
) -> None:
    config, logs = tmp_path / "config.yaml", tmp_path / "log"
    port, operator = free_port(), free_port()
    config.write_text("upstreams: [{host: other.example}]")
    with logs.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "objectcache.registry", "--config", str(config), "--cache-url", cache.url),
            *("--cache-token", str(token_file), "--bucket", "bk", "--spool-dir", str(spool_dir)),
            *("--listen", f"127.0.0.1:{port}", "--metrics-address", f"127.0.0.1:{operator}", "--drain-seconds", "1"),
            stderr=output,
            env=dict(os.environ),
        )
    layer = os.urandom(10_000)
    async with running_registry() as registry, aiohttp.ClientSession() as session, asyncio.timeout(60):
        digest = registry.add_blob(layer)
        url = f"http://127.0.0.1:{port}/v2/a/blobs/{digest}?ns=registry.example"
        while not (await page(session, f"http://127.0.0.1:{operator}/readyz")).endswith("\nready\n"):
            await asyncio.sleep(0.05)
        async with session.get(url) as answer:
            assert answer.status == 403

        config.write_text("upstreams: [{host: other.example}")
        while "not valid YAML" not in await page(session, f"http://127.0.0.1:{operator}/readyz"):
            await asyncio.sleep(0.05)
        config.write_text(f"upstreams: [{{host: registry.example, url: '{registry.url}'}}]")
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    assert digest_of(await answer.read()) == digest
                    break
            await asyncio.sleep(0.05)

        metrics = await page(session, f"http://127.0.0.1:{operator}/metrics")
    process.terminate()

    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert 'tasuki_registry_upstream_answers_total{host="registry.example",status="200"} 1.0' in metrics
    assert cache.token not in logs.read_text()
