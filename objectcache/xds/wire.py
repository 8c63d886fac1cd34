"""xDS messages to values, and back to bytes."""

from collections.abc import Iterable
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from objectcache.xds.session import DeltaRequest, Request, Response


def request(message: Any) -> Request:
    """Of a DiscoveryRequest."""
    return Request(message.type_url, tuple(message.resource_names), message.response_nonce, _error(message))


def delta_request(message: Any) -> DeltaRequest:
    """Of a DeltaDiscoveryRequest."""
    return DeltaRequest(
        message.type_url,
        (*message.resource_names_subscribe, *_located(message.resource_locators_subscribe)),
        (*message.resource_names_unsubscribe, *_located(message.resource_locators_unsubscribe)),
        dict(message.initial_resource_versions),
        message.response_nonce,
        _error(message),
    )


def response(made: Response) -> bytes:
    """A DiscoveryResponse."""
    message = discovery_pb2.DiscoveryResponse(
        version_info=made.version,
        type_url=made.type_url,
        nonce=made.nonce,
        resources=[any_pb2.Any(type_url=made.type_url, value=each.body) for each in made.resources],
    )
    return bytes(message.SerializeToString())


def delta_response(made: Response) -> bytes:
    """A DeltaDiscoveryResponse."""
    message = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=made.version,
        type_url=made.type_url,
        nonce=made.nonce,
        resources=[
            discovery_pb2.Resource(
                name=each.name,
                version=each.version,
                resource=any_pb2.Any(type_url=made.type_url, value=each.body),
            )
            for each in made.resources
        ],
        removed_resources=made.removed,
    )
    return bytes(message.SerializeToString())


def _located(locators: Iterable[Any]) -> Iterable[str]:
    return (each.name for each in locators)


def _error(message: Any) -> str | None:
    if not message.HasField("error_detail"):
        return None
    return str(message.error_detail.message)
