"""FPGAs beside the same floor: a rescan of many cards, and functions that are loaded; `python -m bench.fpga`."""

import argparse
import contextlib
import copy
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import yaml

from bench.deviceplugin import CHANNEL, kubelet_in_folder, listed, noop_server, running
from bench.measuring import Row, Sample, alternate, machine, table
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginStub
from protos.podresources.v1 import api_pb2 as podresources_pb2

_TREE = Path(__file__).parents[1] / "deviceplugin" / "machines" / "fpga" / "intel-dfl.yaml"
_INTERFACE = "69528db6eb31577a8c3668f9faa081f6"
_LOADED = "d8424dc4a4a3c413f89e433683f9040b"


def many_cards(count: int) -> str:
    """The shipped tree's first card so many times over, each on a root port of its own."""
    shipped = yaml.safe_load(_TREE.read_text(encoding="utf-8"))
    card = next(iter(shipped["sys"]["devices"].values()))
    devices: dict[str, Any] = {}
    nodes: list[str] = []
    for n in range(count):
        bus = 0x10 + n
        devices[f"pci0000:{bus:02x}/0000:{bus:02x}:00.0/0000:{bus + 0x40:02x}:00.0"] = _renumbered(
            copy.deepcopy(card), n
        )
        nodes += [f"dfl-fme.{n}", f"dfl-port.{n}"]
    return json.dumps({"sys": {"devices": devices}, "dev": nodes})


def _renumbered(node: Any, n: int) -> Any:
    """Instance numbers are unique over all cards: dfl-fme.0, fpga0, br0, region0 and region1, hwmon3 and hwmon4."""
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        name = re.sub(r"^(dfl-[a-z-]+)\.0$", rf"\1.{n}", str(key))
        name = re.sub(r"^(fpga|br)0$", rf"\g<1>{n}", name)
        name = re.sub(r"^(region|hwmon)(\d+)$", lambda m: f"{m[1]}{int(m[2]) + 2 * n}", name)
        made[name] = (
            f"{value.partition(':')[0]}:{n}" if key == "dev" and isinstance(value, str) else _renumbered(value, n)
        )
    return made


def bench_rescan(rounds: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="tsk") as name:
        folder = Path(name)
        (folder / "tree.yaml").write_text(many_cards(16), encoding="utf-8")
        sys_root = materialise(str(folder / "tree.yaml"), folder)
        source = FpgaSource(sys_root, dev_of(sys_root))
        found = source.scan()
        assert len(found.regions) == 16, found.unreadable
        sample = Sample()
        alternate(rounds, (sample, source.scan))
    return Row(
        "rescan of 16 FPGA cards, p50 / p99",
        f"{sample.median_ms:.1f} / {sample.percentile_ms(99):.1f} ms",
        "< 50 ms",
        sample.percentile_ms(99) < 50,
    )


@contextlib.contextmanager
def no_pods(socket: Path) -> Iterator[None]:
    """The pod-resources socket of a kubelet on which nobody holds anything."""

    def list_pods(request: podresources_pb2.ListPodResourcesRequest, context: grpc.ServicerContext) -> bytes:
        return podresources_pb2.ListPodResourcesResponse().SerializeToString()

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        list_pods, podresources_pb2.ListPodResourcesRequest.FromString, None
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def bench_loaded(rounds: int) -> list[Row]:
    """A function that its region holds already: Allocate and PreStartContainer, beside the no-op call."""
    implementation = {"family": "dfl", "interface": _INTERFACE, "id": _LOADED, "bitstream": "resize.gbs", "channels": 4}
    functions = {"resize": {"implementations": [{**implementation, "programmingSeconds": 8}]}}
    config = json.dumps({"version": "v1", "tasuki": {"fpga": {"functions": functions}}})
    with kubelet_in_folder() as kubelet:
        folder = kubelet.socket.parent
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        (folder / "bitstreams").mkdir()
        (folder / "bitstreams" / "resize.gbs").write_bytes(b"not needed: it is loaded")
        command = [
            sys.executable,
            "-m",
            "tasuki.cli",
            "deviceplugin",
            "--kinds",
            "fpga",
            "--simulate-fpga",
            "intel-dfl",
        ]
        command += ["--kubelet-socket", str(kubelet.socket), "--metrics-address", "127.0.0.1:0", "--kube-api", "off"]
        command += ["--pod-resources-socket", str(folder / "pods.sock"), "--bitstreams", str(folder / "bitstreams")]
        command += ["--config-file", str(folder / "config.yaml")]
        with no_pods(folder / "pods.sock"), running(*command), noop_server(folder) as floor_socket:
            socket = kubelet.plugin("fpga.tasuki.dev/resize")
            with (
                grpc.insecure_channel(f"unix:{socket}", CHANNEL) as channel,
                grpc.insecure_channel(f"unix:{floor_socket}", CHANNEL) as floor_channel,
            ):
                stub, floor_stub = DevicePluginStub(channel), DevicePluginStub(floor_channel)
                ids, stream = listed(stub)
                request = api_pb2.AllocateRequest(
                    container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=ids[:1])]
                )
                start = api_pb2.PreStartContainerRequest(devices_ids=ids[:1])
                stub.Allocate(request)
                allocated, started, floor = Sample(), Sample(), Sample()
                alternate(
                    rounds,
                    (allocated, lambda: stub.Allocate(request)),
                    (started, lambda: stub.PreStartContainer(start)),
                    (floor, lambda: floor_stub.Allocate(request)),
                )
                stream.cancel()
    return [
        _against("FPGA function, loaded: Allocate, p50 / p99", allocated, floor),
        _against("FPGA function, loaded: PreStartContainer, p50 / p99", started, floor),
    ]


def _against(what: str, sample: Sample, floor: Sample) -> Row:
    ratio = sample.percentile_ms(99) / floor.percentile_ms(99)
    measured = f"{sample.median_ms:.2f} / {sample.percentile_ms(99):.2f} ms: {ratio:.1f}x the no-op call at p99"
    return Row(what, measured, "p99 < 3 ms", sample.percentile_ms(99) < 3)


def rows(*, quick: bool) -> list[Row]:
    return [bench_rescan(20 if quick else 200), *bench_loaded(100 if quick else 2000)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, to see that it runs")
    found = rows(quick=parser.parse_args().quick)
    print(f"{machine()}\n\n{table(found)}")
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
