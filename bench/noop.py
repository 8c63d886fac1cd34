"""The floor: a gRPC server on a unix socket that answers every Allocate with nothing; `python -m bench.noop SOCKET`."""

import asyncio
import sys

import grpc
import grpc.aio

from protos.deviceplugin.v1beta1 import api_pb2


async def allocate(request: api_pb2.AllocateRequest, context: object) -> api_pb2.AllocateResponse:
    return api_pb2.AllocateResponse(container_responses=[api_pb2.ContainerAllocateResponse()])


async def serve(socket: str) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        allocate, api_pb2.AllocateRequest.FromString, api_pb2.AllocateResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", {"Allocate": handler}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
