"""The kubelet's pod resources service: which container holds which devices.

Read from kubernetes 1.36, pkg/kubelet/apis/podresources/server_v1.go and cm/container_manager.go. CPUs, memory and
dynamic resources are never told, as on a node without exclusive CPUs and without DRA.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc import aio

from protos.podresources.v1 import api_pb2, api_pb2_grpc
from tasuki.sandbox.kubelet import SOCKET_NAME, Kubelet
from tasuki.sandbox.pods import Pod

Context = aio.ServicerContext[Any, Any]


class PodResourcesServer:
    """Serves v1.PodResourcesLister in a folder of its own; use it as `async with`."""

    def __init__(self, folder: Path, kubelet: Kubelet) -> None:
        self.socket: Final = folder / SOCKET_NAME
        self._kubelet = kubelet
        self._server: aio.Server | None = None

    async def __aenter__(self) -> Self:
        self.socket.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        server = aio.server()
        api_pb2_grpc.add_PodResourcesListerServicer_to_server(PodResourcesServicer(self._kubelet), server)
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        self._server = server
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self.socket.unlink(missing_ok=True)


class PodResourcesServicer(api_pb2_grpc.PodResourcesListerServicer):
    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    async def List(  # noqa: N802 - the protocol's name
        self, _request: api_pb2.ListPodResourcesRequest, _context: Context
    ) -> api_pb2.ListPodResourcesResponse:
        return api_pb2.ListPodResourcesResponse(
            pod_resources=[self._pod_resources(pod) for pod in self._kubelet.pods()]
        )

    async def GetAllocatableResources(  # noqa: N802 - the protocol's name
        self, _request: api_pb2.AllocatableResourcesRequest, _context: Context
    ) -> api_pb2.AllocatableResourcesResponse:
        return api_pb2.AllocatableResourcesResponse(
            devices=[
                entry
                for view in self._kubelet.resources().values()
                for device in sorted(view.healthy)
                for entry in _entries(view.name, device, view.numa_nodes[device])
            ]
        )

    async def Get(  # noqa: N802 - the protocol's name
        self, request: api_pb2.GetPodResourcesRequest, context: Context
    ) -> api_pb2.GetPodResourcesResponse:
        wanted = (request.pod_namespace, request.pod_name)
        pod = next((p for p in self._kubelet.pods() if (p.namespace, p.name) == wanted), None)
        if pod is None:
            # A plain Go error in the kubelet, which gRPC sends as UNKNOWN.
            reason = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
            await context.abort(grpc.StatusCode.UNKNOWN, reason)
        return api_pb2.GetPodResourcesResponse(pod_resources=self._pod_resources(pod))

    def _pod_resources(self, pod: Pod) -> api_pb2.PodResources:
        """Init containers have run to their end and are not told of, but for sidecars."""
        return api_pb2.PodResources(
            name=pod.name,
            namespace=pod.namespace,
            containers=[
                api_pb2.ContainerResources(name=container.name, devices=self._held(pod.uid, container.name))
                for container in pod.containers
                if not container.init or container.sidecar
            ],
        )

    def _held(self, uid: str, container: str) -> Iterator[api_pb2.ContainerDevices]:
        for name, held in sorted(self._kubelet.held(uid, container).items()):
            for device in held.devices:
                # For held devices, unlike for allocatable ones, an empty topology counts as none.
                yield from _entries(name, device, held.numa_nodes[device] or None)


def _entries(resource: str, device: str, numa_nodes: tuple[int, ...] | None) -> Iterator[api_pb2.ContainerDevices]:
    """One entry for each device and each NUMA node of it; a topology without nodes hides the device."""
    if numa_nodes is None:
        yield api_pb2.ContainerDevices(resource_name=resource, device_ids=[device])
        return
    for node in numa_nodes:
        topology = api_pb2.TopologyInfo(nodes=[api_pb2.NUMANode(ID=node)])
        yield api_pb2.ContainerDevices(resource_name=resource, device_ids=[device], topology=topology)
