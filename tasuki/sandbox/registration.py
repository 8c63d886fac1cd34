"""The kubelet's Registration service."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from tasuki.sandbox.endpoint import PluginCallError
from tasuki.sandbox.extended_resources import is_extended

SUPPORTED_VERSIONS: Final = ("v1beta1",)


class RegistrationRefusedError(Exception):
    """The kubelet takes no such plugin; the text is what the plugin is told."""


def check(request: api_pb2.RegisterRequest, injected: str | None) -> None:
    """The checks that come before the kubelet dials the plugin.

    Raises:
        RegistrationRefusedError: The version or the resource's name is not acceptable, or a fault is injected.
    """
    if injected is not None:
        raise RegistrationRefusedError(injected)
    if request.version not in SUPPORTED_VERSIONS:
        raise RegistrationRefusedError(
            f'requested API version "{request.version}" is not supported by kubelet; supported: '
            + ", ".join(SUPPORTED_VERSIONS)
        )
    if not is_extended(request.resource_name):
        raise RegistrationRefusedError(f'the ResourceName "{request.resource_name}" is invalid')


class RegistrationServicer(api_pb2_grpc.RegistrationServicer):
    """Answers only when the plugin has been dialled, as the kubelet does."""

    def __init__(self, register: Callable[[api_pb2.RegisterRequest], Awaitable[None]]) -> None:
        self._register = register

    async def Register(  # noqa: N802 - the protocol's name
        self, request: api_pb2.RegisterRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> api_pb2.Empty:
        try:
            await self._register(request)
        except (RegistrationRefusedError, PluginCallError) as error:
            # The kubelet returns plain Go errors, which gRPC sends as UNKNOWN.
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        return api_pb2.Empty()
