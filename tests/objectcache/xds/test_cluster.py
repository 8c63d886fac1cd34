"""All parts together, with a cluster's API server."""

import asyncio
from pathlib import Path

import grpc.aio
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from objectcache.xds.__main__ import serve
from objectcache.xds.settings import Settings
from objectcache.xds.snapshot import CLUSTER, ENDPOINTS
from tests.ports import free_port
from tests.tasuki.kube.api_server import NODES, ApiServer, Kind


async def test_an_envoy_hears_of_the_clusters_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = ApiServer()
    # `gpus` is the namespace of the kubeconfig; before the namespaces, whose path it begins with.
    pods = "/api/v1/namespaces/gpus/pods"
    api.kinds = {pods: Kind(), **api.kinds}
    await api.start()
    monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
    await api.put(NODES, "a", metadata={"labels": {"topology.kubernetes.io/zone": "z1"}})
    conditions = [{"type": "Ready", "status": "True"}]
    metadata = {"namespace": "gpus", "creationTimestamp": "2026-11-01T00:00:00Z"}
    await api.put(
        pods, "cache-a", metadata=metadata, spec={"nodeName": "a"},
        status={"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
    )  # fmt: skip
    port, stop = free_port(), asyncio.Event()
    serving = asyncio.create_task(serve(Settings(listen=("127.0.0.1", port), metrics_address=None), stop))
    try:
        async with asyncio.timeout(20), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
            call = stub.StreamAggregatedResources(wait_for_ready=True)
            node = base_pb2.Node(id="a")
            await call.write(discovery_pb2.DiscoveryRequest(type_url=ENDPOINTS, resource_names=[CLUSTER], node=node))
            response = await call.read()
    finally:
        stop.set()
        await serving
        await api.stop()

    found = endpoint_pb2.ClusterLoadAssignment.FromString(response.resources[0].value)
    [locality] = found.endpoints
    [endpoint] = locality.lb_endpoints
    assert locality.locality.zone == "z1"
    assert endpoint.endpoint.address.socket_address.address == "10.0.0.1"
    assert endpoint.endpoint.address.socket_address.port_value == 8480
    assert endpoint.metadata.filter_metadata["envoy.lb"]["hash_key"] == "a"
