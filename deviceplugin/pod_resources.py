"""Asking the kubelet which container holds which slice."""

from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from deviceplugin.node_status import Holder
from protos.podresources.v1 import api_pb2, api_pb2_grpc
from tasuki.process.unix_sockets import CHANNEL_OPTIONS

# gRPC's own limit, 4 MiB, is about 60,000 held slices; Kubernetes' tests of this API allow 16 MiB as well.
_LARGEST_ANSWER_BYTES: Final = 16 * 2**20
_OPTIONS: Final = (*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", _LARGEST_ANSWER_BYTES))


class PodResourcesError(Exception):
    """The kubelet did not say who holds what."""


class PodResources:
    """The kubelet's pod-resources socket."""

    def __init__(self, socket: Path, timeout_seconds: float = 10.0, *, own_pod: str = "") -> None:
        """Take the socket, and the name of the pod that this daemon runs in; empty outside of one."""
        self._socket: Final = socket
        self._timeout_seconds: Final = timeout_seconds
        self._own_pod: Final = own_pod

    async def holders(self) -> tuple[Holder, ...]:
        """Every container with devices of any device plugin, in a stable order.

        Raises:
            PodResourcesError: There is no socket, no usable answer within the timeout, or one without our own pod.
        """
        if not self._socket.exists():
            raise PodResourcesError(f"the kubelet's socket {self._socket} is not there")
        async with grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            stub = api_pb2_grpc.PodResourcesListerStub(channel)
            try:
                answer = await stub.List(api_pb2.ListPodResourcesRequest(), timeout=self._timeout_seconds)
            except grpc.aio.AioRpcError as error:
                raise PodResourcesError(
                    f"the kubelet at {self._socket} did not list its pods' resources: "
                    f"{error.code().name}: {error.details()}"
                ) from error
        if self._own_pod and not any(pod.name == self._own_pod for pod in answer.pod_resources):
            # A kubelet that restarted knows no pods before the API server has told it.
            raise PodResourcesError(
                f"the kubelet at {self._socket} does not list even this daemon's pod {self._own_pod}: its list is not "
                "whole yet"
            )
        return holders_of(answer)


def holders_of(answer: api_pb2.ListPodResourcesResponse) -> tuple[Holder, ...]:
    """Devices of one resource may come in several entries, one for each NUMA node; they are put together."""
    held: dict[tuple[str, str, str, str], list[str]] = {}
    for pod in answer.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                key = (pod.namespace, pod.name, container.name, devices.resource_name)
                held.setdefault(key, []).extend(devices.device_ids)
    return tuple(Holder(*key, tuple(sorted(held[key]))) for key in sorted(held))
