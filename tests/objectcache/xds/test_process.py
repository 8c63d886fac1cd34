"""The control plane as it is shipped, a process of its own."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from objectcache.xds.bootstrap import main as bootstrap
from objectcache.xds.member import Member
from objectcache.xds.snapshot import CLUSTERS
from tests.objectcache.xds.authorities import Authority
from tests.objectcache.xds.envoys import (
    SECONDS,
    Cache,
    envoy_binary,
    predicted,
    running_caches,
    running_envoy,
    until,
)
from tests.ports import free_port

NODES = ("node-a", "node-b", "node-c")
NAMES = [f"bk/s3://host/object-{number}" for number in range(60)]


@dataclass
class Process:
    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int

    def page(self, path: str) -> str:
        """What is served there; empty while nothing is."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=SECONDS) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())
        except OSError:
            return ""

    def ready(self) -> bool:
        assert self.process.poll() is None
        return self.page("/readyz").endswith("\nready\n")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def running(folder: Path, *more: str) -> Iterator[Process]:
    port, metrics_port, log = free_port(), free_port(), folder / "xds.log"
    listen = ("--listen", f"127.0.0.1:{port}", "--metrics-address", f"127.0.0.1:{metrics_port}")
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "objectcache.xds", *listen, *more], stderr=errors, env=environment
        )
    try:
        yield Process(process, port, metrics_port)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        print(log.read_text())


def write(file: Path, members: Sequence[Member]) -> None:
    listed = [
        {"node": each.node, "zone": each.zone, "address": each.address, "port": each.port, "leaving": each.leaving}
        for each in members
    ]
    part = file.with_suffix(".part")
    part.write_text(yaml.safe_dump(listed))
    part.replace(file)


def members(caches: dict[str, Cache]) -> list[Member]:
    return [Member(node, "127.0.0.1", cache.port, "z1") for node, cache in caches.items()]


def test_a_file_of_caches_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file, port = tmp_path / "caches.yaml", free_port()
    with (
        running_caches(NODES) as caches,
        running(tmp_path, "--endpoints", str(file), "--envoy-listen", f"127.0.0.1:{port}") as xds,
        running_envoy(xds.port, port, tmp_path, node="node-a") as envoy,
    ):
        until(lambda: "[-]caches" in xds.page("/readyz") and "no such file" in xds.page("/readyz"))
        everyone = members(caches)
        write(file, everyone)
        until(xds.ready)
        until(lambda: 'tasuki_xds_answers_total{outcome="accepted",type="rds"} 1.0' in xds.page("/metrics"))
        first = envoy.owners(NAMES)
        file.write_text("- {node: node-a}")
        until(lambda: "[!]caches" in xds.page("/readyz"))
        broken = envoy.owners(NAMES)
        write(file, everyone[1:])
        expected = predicted(everyone[1:], "z1", NAMES)
        until(lambda: envoy.owners(NAMES) == expected)

        status = xds.stop()

        assert first == broken == predicted(everyone, "z1", NAMES)
        assert status == 0
        assert envoy.owners(NAMES) == expected


@pytest.mark.parametrize("variant", ["delta", "sotw"])
def test_an_envoy_with_the_printed_bootstrap_shows_and_asks_for_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str
) -> None:
    tls, file, port, admin = tmp_path / "tls", tmp_path / "caches.yaml", free_port(), free_port()
    Authority().issue(tls)
    file.write_text("[]")
    secured = ("--tls-dir", str(tls), "--client-ca", str(tls / "ca.crt"))
    with running(tmp_path, "--endpoints", str(file), "--envoy-listen", f"127.0.0.1:{port}", *secured) as xds:
        until(xds.ready)
        files = ("--ca", f"{tls}/ca.crt", "--certificate", f"{tls}/tls.crt", "--key", f"{tls}/tls.key")
        where = ("--xds", f"127.0.0.1:{xds.port}", "--admin", f"127.0.0.1:{admin}", "--operator", "")
        assert bootstrap([*where, *files, "--node", "node-a", "--variant", variant]) == 0
        config = tmp_path / "bootstrap.yaml"
        config.write_text(capsys.readouterr().out)
        with subprocess.Popen(
            [envoy_binary(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        ) as envoy:
            try:
                until(lambda: f'tasuki_xds_envoys{{variant="{variant}"}} 1.0' in xds.page("/metrics"))
            finally:
                envoy.terminate()


def test_strangers_are_refused_and_a_renewed_certificate_is_shown(tmp_path: Path) -> None:
    tls, file = tmp_path / "tls", tmp_path / "caches.yaml"
    old, new = Authority(), Authority()
    old.issue(tls)
    old.issue(tmp_path / "client")
    (tmp_path / "client-ca.crt").write_bytes(old.pem)
    file.write_text("[]")
    secured = ("--tls-dir", str(tls), "--client-ca", str(tmp_path / "client-ca.crt"))
    with running(tmp_path, "--endpoints", str(file), *secured) as xds:
        until(xds.ready)
        known = ((tmp_path / "client/tls.key").read_bytes(), (tmp_path / "client/tls.crt").read_bytes())

        def is_told(authority: Authority, shown: tuple[bytes, bytes] | tuple[None, None]) -> bool:
            credentials = grpc.ssl_channel_credentials(authority.pem, *shown)
            with grpc.secure_channel(f"127.0.0.1:{xds.port}", credentials) as channel:
                stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
                node = base_pb2.Node(id="n")
                asked = discovery_pb2.DiscoveryRequest(type_url=CLUSTERS, node=node)
                try:
                    return bool(next(stub.StreamAggregatedResources(iter([asked]), timeout=SECONDS)).resources)
                except grpc.RpcError:
                    return False

        assert is_told(old, known)
        assert not is_told(old, (None, None))
        new.issue(tls)
        until(lambda: is_told(new, known))
        assert not is_told(old, known)


def test_without_a_cluster_and_a_file_it_says_what_to_give(tmp_path: Path) -> None:
    with running(tmp_path) as xds:
        assert xds.process.wait(SECONDS) == 2
        assert "--endpoints" in (tmp_path / "xds.log").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="of the manifests"),
        pytest.param(["--zone", "z1", "--node", "n", "--variant", "sotw", "--operator", ""], id="of everything else"),
        pytest.param(["--xds", "[::1]:9447"], id="of an address"),
    ],
)
def test_the_bootstrap_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert bootstrap(arguments) == 0
    config = tmp_path / "bootstrap.yaml"
    config.write_text(capsys.readouterr().out)

    done = subprocess.run(
        [
            *(envoy_binary(), "-c", config, "--mode", "validate", "--service-node", "n", "--use-dynamic-base-id"),
            *("--service-cluster", "c", "-l", "error"),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--certificate", "a"], "belong together", id="a certificate without its key"),
        pytest.param(["--certificate", "a", "--key", "b"], "give --ca too", id="a certificate without TLS"),
        pytest.param(["--xds", "tasuki"], "must be host:port", id="no port"),
        pytest.param(["--nod", "n"], "did you mean --node", id="a slip"),
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        bootstrap(arguments)

    assert exit_.value.code == 2
    assert problem in capsys.readouterr().err
