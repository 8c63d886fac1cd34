"""The floor: a gRPC server on a unix socket that answers every Allocate with nothing; `python -m bench.noop SOCKET`."""

import asyncio
import sys

import grpc
import grpc.aio

from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginServicer, add_DevicePluginServicer_to_server


class Noop(DevicePluginServicer):
    async def Allocate(self, request: api_pb2.AllocateRequest, context: object) -> api_pb2.AllocateResponse:  # type: ignore[override]
        return api_pb2.AllocateResponse(container_responses=[api_pb2.ContainerAllocateResponse()])


async def serve(socket: str) -> None:
    server = grpc.aio.server()
    add_DevicePluginServicer_to_server(Noop(), server)  # type: ignore[no-untyped-call, unused-ignore]
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
