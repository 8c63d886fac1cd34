"""The device plugin against the floor of a plain gRPC call; `python -m bench.deviceplugin`, or `make bench`.

Everything is a process of its own: the plugin as it is shipped on simulated machines, a server that does nothing on
the same kind of socket, and this client, which plays the kubelet.
"""

import argparse
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Final

import grpc

from bench.measuring import Row, Sample, alternate, machine, resident_mib, table
from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import (
    DevicePluginStub,
    RegistrationServicer,
    add_RegistrationServicer_to_server,
)

_START_SECONDS: Final = 30
CHANNEL: Final = (("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 4 * 1024 * 1024))


class Kubelet(RegistrationServicer):
    """Takes registrations; can go away and come back as a restarted kubelet does."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "kubelet.sock"
        self.registered: dict[str, str] = {}
        self.arrived = threading.Condition()
        self._server: grpc.Server | None = None

    def Register(self, request: api_pb2.RegisterRequest, context: grpc.ServicerContext) -> api_pb2.Empty:
        with self.arrived:
            self.registered[request.resource_name] = request.endpoint
            self.arrived.notify_all()
        return api_pb2.Empty()

    def start(self) -> None:
        self.registered.clear()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        add_RegistrationServicer_to_server(self, self._server)  # type: ignore[no-untyped-call, unused-ignore]
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
        for left in self.socket.parent.iterdir():
            if left.is_socket():
                left.unlink()

    def plugin(self, resource: str) -> str:
        """The socket on which a resource is served, as soon as it is registered."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: resource in self.registered, _START_SECONDS):
                raise TimeoutError(f"{resource} was not registered within {_START_SECONDS} s")
            return str(self.socket.parent / self.registered[resource])


@contextlib.contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stderr=errors)
        try:
            yield process
        except BaseException:
            errors.seek(0)
            sys.stderr.write(errors.read().decode()[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=_START_SECONDS)


@contextlib.contextmanager
def noop_server(folder: Path) -> Iterator[Path]:
    """The floor, and the socket that it listens on."""
    socket = folder / "noop.sock"
    with running(sys.executable, "-m", "bench.noop", str(socket)):
        while not socket.exists():
            time.sleep(0.01)
        yield socket


def plugin_command(kubelet: Kubelet, simulate: str, sharing: str | None, *more: str) -> list[str]:
    folder = kubelet.socket.parent
    command = [sys.executable, "-m", "tasuki.cli", "deviceplugin", "--simulate", simulate]
    command += ["--kubelet-socket", str(kubelet.socket), "--metrics-address", "127.0.0.1:0"]
    command += ["--pod-resources-socket", str(folder / "absent.sock"), "--cdi-root", str(folder / "cdi")]
    if sharing is not None:
        config = folder / "config.yaml"
        config.write_text(sharing, encoding="utf-8")
        command += ["--config-file", str(config)]
    return command + (list(more) or ["--kube-api", "off"])


def timeshared(replicas: int) -> str:
    resources = [{"name": "nvidia.com/gpu", "replicas": replicas}]
    return json.dumps({"version": "v1", "sharing": {"timeSlicing": {"resources": resources}}})


@contextlib.contextmanager
def kubelet_in_folder() -> Iterator[Kubelet]:
    with tempfile.TemporaryDirectory(prefix="tsk") as name:
        kubelet = Kubelet(Path(name))
        kubelet.start()
        try:
            yield kubelet
        finally:
            kubelet.stop()


@contextlib.contextmanager
def plugin_on(simulate: str, sharing: str | None) -> Iterator[DevicePluginStub]:
    """The plugin on a machine, and a client of its one resource."""
    with kubelet_in_folder() as kubelet, running(*plugin_command(kubelet, simulate, sharing)):
        socket = kubelet.plugin("nvidia.com/gpu")
        with grpc.insecure_channel(f"unix:{socket}", CHANNEL) as channel:
            yield DevicePluginStub(channel)


def listed(stub: DevicePluginStub) -> tuple[list[str], grpc.Call]:
    stream = stub.ListAndWatch(api_pb2.Empty(), timeout=_START_SECONDS)
    ids = [device.ID for device in next(iter(stream)).devices]
    return ids, stream


def bench_allocate(rounds: int) -> list[Row]:
    """One slice of 80, against a call that does nothing."""
    with (
        kubelet_in_folder() as kubelet,
        running(*plugin_command(kubelet, "dgx-a100", timeshared(10))) as plugin,
        noop_server(kubelet.socket.parent) as floor_socket,
    ):
        socket = kubelet.plugin("nvidia.com/gpu")
        with (
            grpc.insecure_channel(f"unix:{socket}", CHANNEL) as channel,
            grpc.insecure_channel(f"unix:{floor_socket}", CHANNEL) as floor_channel,
        ):
            stub, floor_stub = DevicePluginStub(channel), DevicePluginStub(floor_channel)
            ids, stream = listed(stub)
            request = api_pb2.AllocateRequest(
                container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=ids[:1])]
            )
            ours, floor = Sample(), Sample()
            alternate(200, (Sample(), lambda: stub.Allocate(request)), (Sample(), lambda: floor_stub.Allocate(request)))
            alternate(rounds, (ours, lambda: stub.Allocate(request)), (floor, lambda: floor_stub.Allocate(request)))
            memory = resident_mib(plugin.pid)
            stream.cancel()
    ratio = ours.percentile_ms(99) / floor.percentile_ms(99)
    return [
        Row(
            "Allocate 1 of 80 slices, p50 / p99",
            f"{ours.median_ms:.2f} / {ours.percentile_ms(99):.2f} ms",
            "p99 < 2 ms",
            ours.percentile_ms(99) < 2,
        ),
        Row(
            "the same against the no-op call, p50 / p99",
            f"{floor.median_ms:.2f} / {floor.percentile_ms(99):.2f} ms: {ratio:.1f}x at p99",
            "at most 3x",
            ratio <= 3,
        ),
        Row("resident memory, 8 GPUs x 10, no API server", f"{memory:.0f} MiB", "< 60 MiB", memory < 60),
    ]


def preferred(stub: DevicePluginStub, available: Sequence[str], size: int) -> object:
    wanted = api_pb2.ContainerPreferredAllocationRequest(available_deviceIDs=available, allocation_size=size)
    answer = stub.GetPreferredAllocation(api_pb2.PreferredAllocationRequest(container_requests=[wanted]))
    assert len(answer.container_responses[0].deviceIDs) == size
    return answer


def bench_preferred_shared(rounds: int) -> Row:
    with plugin_on("dgx-a100", timeshared(1000)) as stub:
        ids, stream = listed(stub)
        sample = Sample()
        alternate(20, (Sample(), lambda: preferred(stub, ids, 8)))
        alternate(rounds, (sample, lambda: preferred(stub, ids, 8)))
        stream.cancel()
    return Row(
        "GetPreferredAllocation 8 of 8,000 replicas, p50 / p99",
        f"{sample.median_ms:.2f} / {sample.percentile_ms(99):.2f} ms",
        "< 5 ms",
        sample.median_ms < 5,
    )


def bench_preferred_aligned(rounds: int) -> Row:
    """Sixteen whole GPUs, each size from 1 to 16, with all and with three quarters of them free."""
    with plugin_on(str(Path(__file__).with_name("sixteen-gpus.yaml")), None) as stub:
        ids, stream = listed(stub)
        asked = [(free, size) for free in (ids, ids[::2] + ids[1::4]) for size in range(1, len(free) + 1)]
        worst = 0.0
        for free, size in asked:
            sample = Sample()
            alternate(rounds, (sample, partial(preferred, stub, free, size)))
            worst = max(worst, sample.median_ms)
        stream.cancel()
    return Row("GetPreferredAllocation, 16 GPUs aligned, the slowest size", f"{worst:.2f} ms", "< 20 ms", worst < 20)


def bench_start_and_restart(rounds: int, replicas: int) -> list[Row]:
    first, again = Sample(), Sample()
    for _ in range(rounds):
        with kubelet_in_folder() as kubelet:
            command = plugin_command(kubelet, "dgx-a100", timeshared(replicas))
            started = time.perf_counter()
            with running(*command):
                with grpc.insecure_channel(f"unix:{kubelet.plugin('nvidia.com/gpu')}", CHANNEL) as channel:
                    _, stream = listed(DevicePluginStub(channel))
                    first.seconds.append(time.perf_counter() - started)
                    stream.cancel()
                kubelet.stop()
                time.sleep(0.3)
                kubelet.start()
                started = time.perf_counter()
                with grpc.insecure_channel(f"unix:{kubelet.plugin('nvidia.com/gpu')}", CHANNEL) as channel:
                    _, stream = listed(DevicePluginStub(channel))
                    again.seconds.append(time.perf_counter() - started)
                    stream.cancel()
    return [
        Row(
            f"process start to first list of {8 * replicas:,} slices",
            f"{first.median_ms:.0f} ms",
            "< 500 ms",
            first.median_ms < 500,
        ),
        Row(
            f"kubelet back to list of {8 * replicas:,} slices",
            f"{again.median_ms:.0f} ms",
            "< 500 ms",
            again.median_ms < 500,
        ),
    ]


def bench_large_list(rounds: int) -> Row:
    """The list is asked for anew each time, so this is what a kubelet waits for after its own restart."""
    with plugin_on("dgx-a100", timeshared(7500)) as stub:
        sample = Sample()
        for _ in range(rounds):
            started = time.perf_counter()
            ids, stream = listed(stub)
            sample.seconds.append(time.perf_counter() - started)
            stream.cancel()
    return Row(f"{len(ids):,} slices listed", f"{sample.median_ms:.0f} ms", "< 250 ms", sample.median_ms < 250)


class _ApiServer(http.server.BaseHTTPRequestHandler):
    """As much of an API server as the plugin needs to go on: it takes every write, and a watch stays silent."""

    protocol_version = "HTTP/1.1"

    def _answer(self, body: dict[str, object], status: int = 200) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self) -> None:
        if "watch=" in self.path:
            time.sleep(20)
            self._answer({})
            return
        node: dict[str, object] = {"metadata": {"name": "bench", "uid": "1", "resourceVersion": "1", "labels": {}}}
        if "/nodes/" in self.path:
            self._answer({"apiVersion": "v1", "kind": "Node", **node})
        elif "/nodes" in self.path:
            self._answer(
                {"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": [node]}
            )
        else:
            self._answer({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))), 201)

    def do_PATCH(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *args: object) -> None:
        pass


def bench_memory_with_api_server() -> Row:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with kubelet_in_folder() as kubelet:
        kubeconfig = kubelet.socket.parent / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "bench",
                    "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                    "clusters": [{"name": "bench", "cluster": {"server": url}}],
                    "users": [{"name": "bench", "user": {"token": "bench"}}],
                }
            ),
            encoding="utf-8",
        )
        command = plugin_command(kubelet, "dgx-a100", timeshared(10), "--kube-api", "auto", "--node-name", "bench")
        with running(*command, env={"KUBECONFIG": str(kubeconfig)}) as plugin:
            kubelet.plugin("nvidia.com/gpu")
            time.sleep(10)  # labels, the AcceleratorNode and the watch are under way by then
            memory = resident_mib(plugin.pid)
    server.shutdown()
    return Row("resident memory, the same with an API server", f"{memory:.0f} MiB", "< 90 MiB", memory < 90)


def fpga_rows(*, quick: bool) -> list[Row]:
    from bench.fpga import rows  # noqa: PLC0415 - which stands on what is above

    return rows(quick=quick)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, to see that it runs")
    quick = parser.parse_args().quick
    rows = bench_allocate(300 if quick else 5000)
    rows.append(bench_preferred_shared(20 if quick else 300))
    rows.append(bench_preferred_aligned(2 if quick else 15))
    rows += bench_start_and_restart(2 if quick else 10, 10)
    rows += bench_start_and_restart(2 if quick else 5, 7500)
    rows.append(bench_large_list(3 if quick else 20))
    rows.append(bench_memory_with_api_server())
    rows += fpga_rows(quick=quick)
    print(f"{machine()}\n\n{table(rows)}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
