"""The few calls that we make to the Kubernetes API, each with a deadline and an error that can be told apart."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from tasuki.kube.accelerator_node import AcceleratorNode, AcceleratorNodeStatus
from tasuki.kube.errors import KubeConfigError, NotFoundError, UnavailableError, error_type
from tasuki.kube.names import (
    ACCELERATOR_NODE_PLURAL,
    API_GROUP,
    API_VERSION,
    FIELD_MANAGER,
    NFD_API_GROUP,
    NFD_API_VERSION,
)
from tasuki.kube.objects import (
    UNREADABLE,
    Node,
    NodeFeature,
    NodeList,
    ObjectMeta,
    OwnerReference,
    Status,
    WatchEvent,
)

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.client.rest import RESTClientObject

T = TypeVar("T")

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

MERGE_PATCH: Final = "application/merge-patch+json"
# The server then sends an object's metadata alone; a node's status holds the names of all its images.
# https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json;q=0.9"

_NODES: Final = "/api/v1/nodes"
_ACCELERATOR_NODES: Final = f"/apis/{API_GROUP}/{API_VERSION}/{ACCELERATOR_NODE_PLURAL}"
_NODE_FEATURES: Final = f"/apis/{NFD_API_GROUP}/{NFD_API_VERSION}/namespaces/{{}}/nodefeatures"
_EVENTS: Final = "/apis/events.k8s.io/v1/namespaces/{}/events"

# How often a kubeconfig's short-lived credentials are looked at again.
_CREDENTIALS_SECONDS: Final = 60.0
_LONGEST_LINE_BYTES: Final = 8 * 2**20


async def connect(
    mode: Literal["auto", "off"] = "auto",
    timeout_seconds: float = 10.0,
    environment: Mapping[str, str] | None = None,
) -> "Kube | None":
    """The API server of the pod's service account, or of the file that KUBECONFIG names; None without either.

    A developer's ~/.kube/config is not looked for: nobody's cluster is to be written to by accident.

    Raises:
        KubeConfigError: There is a configuration, and it cannot be used.
    """
    environment = os.environ if environment is None else environment
    kubeconfig = environment.get("KUBECONFIG", "")
    in_cluster = bool(environment.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").is_file()
    if mode == "off" or not (kubeconfig or in_cluster):
        return None
    # Imported only where there is an API server: the client takes 28 MiB.
    from kubernetes.aio.client.configuration import Configuration  # noqa: PLC0415
    from kubernetes.aio.client.rest import RESTClientObject  # noqa: PLC0415

    configuration = Configuration()
    try:
        if kubeconfig:
            namespace = await _use_kubeconfig(configuration, kubeconfig)
        else:
            namespace = _use_service_account(configuration)
        rest = RESTClientObject(configuration)
    except OSError as error:
        raise KubeConfigError(f"the API server's certificates or credentials cannot be read: {error}") from error
    return Kube(configuration, rest, namespace, timeout_seconds)


def _use_service_account(configuration: "Configuration") -> str:
    from kubernetes.aio.config.config_exception import ConfigException  # noqa: PLC0415
    from kubernetes.aio.config.incluster_config import load_incluster_config  # noqa: PLC0415

    try:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise KubeConfigError(f"the pod's service account in {SERVICE_ACCOUNT} cannot be used: {error}") from error
    return (SERVICE_ACCOUNT / "namespace").read_text().strip()


async def _use_kubeconfig(configuration: "Configuration", paths: str) -> str:
    from kubernetes.aio.config.config_exception import ConfigException  # noqa: PLC0415
    from kubernetes.aio.config.kube_config import load_kube_config  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    if not _any_file(paths):
        raise KubeConfigError(f"KUBECONFIG names {paths!r}, but there is no such file")
    try:
        load: Callable[..., Any] = load_kube_config
        loader = await load(paths, client_configuration=configuration, persist_config=False)
    except (ConfigException, YAMLError, ValueError) as error:
        raise KubeConfigError(f"the kubeconfig {paths!r} cannot be used: {error}") from error

    next_look = monotonic() + _CREDENTIALS_SECONDS

    async def refresh(configuration: "Configuration") -> None:
        nonlocal next_look
        if monotonic() >= next_look:
            next_look = monotonic() + _CREDENTIALS_SECONDS
            await loader.load_and_set(configuration)

    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]  # declared without a type, as None
    return str(loader.current_context["context"].get("namespace") or "default")


def _any_file(paths: str) -> bool:
    return any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path)


class Kube:
    """A connection to one API server.

    Every method raises a KubeError where the server does not answer as asked within the timeout.

    Attributes:
        namespace: The one that we run in.
    """

    def __init__(
        self, configuration: "Configuration", rest: "RESTClientObject", namespace: str, timeout_seconds: float
    ) -> None:
        self._configuration = configuration
        self._rest = rest
        self.namespace: Final = namespace
        self._timeout_seconds: Final = timeout_seconds

    async def close(self) -> None:
        await self._rest.close()

    async def node(self, name: str) -> Node:
        return await self.call("GET", f"{_NODES}/{quote(name)}", Node, accept=METADATA_ONLY.format(""))

    async def nodes_named(self, name: str) -> NodeList:
        """The node as a list of one or none, which has the resource version that a watch begins at."""
        query = urlencode({"fieldSelector": f"metadata.name={name}"})
        return await self.call("GET", f"{_NODES}?{query}", NodeList, accept=METADATA_ONLY.format("List"))

    @asynccontextmanager
    async def watch_nodes_named(
        self, name: str, resource_version: str, lasts_seconds: int, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Changes since `resource_version`, until the server ends the watch after about `lasts_seconds`.

        Raises:
            GoneError: The resource version is too old; list again.
            UnavailableError: The connection broke, or nothing at all came for `silence_seconds`.
        """
        query = {
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(lasts_seconds),
        }
        async with self.watch(_NODES, query, silence_seconds, METADATA_ONLY.format("")) as events:
            yield events

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], silence_seconds: float, accept: str = "application/json"
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Changes of a collection, with bookmarks, until the server ends the watch.

        Args:
            path: Of the collection, `/api/v1/nodes`.
            query: At least resourceVersion; timeoutSeconds so that the server ends it before `silence_seconds`.
            silence_seconds: After which a connection counts as broken.
            accept: In which form the objects are sent.

        Raises:
            GoneError: The resource version is too old; list again.
            UnavailableError: The connection broke, or nothing at all came for `silence_seconds`.
        """
        asked = urlencode({"watch": "true", "allowWatchBookmarks": "true", **query})
        async with self._open("GET", f"{path}?{asked}", {"Accept": accept}, None, silence_seconds) as response:
            if response.status >= 400:
                _refuse("GET", path, response, await response.read())
            yield _watch_events(response)

    async def label_node(self, name: str, changes: Mapping[str, str | None]) -> Node:
        """Set labels, and remove those that are None; all others stay as they are."""
        body = {"metadata": {"labels": dict(changes)}}
        path = f"{_NODES}/{quote(name)}?fieldManager={FIELD_MANAGER}"
        return await self.call("PATCH", path, Node, body, METADATA_ONLY.format(""))

    async def accelerator_node(self, name: str) -> AcceleratorNode:
        """The published object; one that this version cannot read is answered as if it had no status."""
        found = await self.call("GET", f"{_ACCELERATOR_NODES}/{quote(name)}", _AcceleratorNodeAsFound)
        try:
            status = msgspec.json.decode(found.status, type=AcceleratorNodeStatus)
        except UNREADABLE:
            return AcceleratorNode(metadata=found.metadata)
        return AcceleratorNode(metadata=found.metadata, status=status)

    async def create_accelerator_node(self, node: Node) -> None:
        """Create the node's object, still without a status; deleting the node deletes it too.

        Raises:
            ConflictError: It is there already.
            NotFoundError: The cluster does not know the kind.
        """
        owner = OwnerReference(api_version="v1", kind="Node", name=node.metadata.name, uid=node.metadata.uid)
        wanted = AcceleratorNode(metadata=ObjectMeta(name=node.metadata.name, owner_references=(owner,)))
        path = f"{_ACCELERATOR_NODES}?fieldManager={FIELD_MANAGER}"
        try:
            await self.call("POST", path, _Anything, msgspec.to_builtins(wanted))
        except NotFoundError as error:
            text = f"the cluster does not know {API_GROUP}/{API_VERSION} AcceleratorNode: apply manifests/crd"
            raise NotFoundError(text, error.status, error.reason) from error

    async def set_accelerator_node_status(self, name: str, status: AcceleratorNodeStatus) -> None:
        body = {"status": msgspec.to_builtins(status)}
        path = f"{_ACCELERATOR_NODES}/{quote(name)}/status?fieldManager={FIELD_MANAGER}"
        await self.call("PATCH", path, _Anything, body)

    async def create_event(self, namespace: str, event: Mapping[str, object]) -> None:
        await self.call("POST", _EVENTS.format(namespace), _Anything, event)

    async def set_event_series(self, namespace: str, name: str, count: int, last_observed_time: str) -> None:
        body = {"series": {"count": count, "lastObservedTime": last_observed_time}}
        await self.call("PATCH", f"{_EVENTS.format(namespace)}/{quote(name)}", _Anything, body)

    async def set_node_feature(self, wanted: NodeFeature) -> bool:
        """Put Node Feature Discovery's object into our namespace; False if it is there with the same labels."""
        path = _NODE_FEATURES.format(self.namespace)
        named = f"{path}/{quote(wanted.metadata.name)}"
        try:
            found = await self.call("GET", named, _NodeFeatureAsFound)
        except NotFoundError:
            await self.call("POST", f"{path}?fieldManager={FIELD_MANAGER}", _Anything, msgspec.to_builtins(wanted))
            return True
        if found.spec.labels == wanted.spec.labels:
            return False
        version = found.metadata.resource_version
        metadata = msgspec.structs.replace(wanted.metadata, resource_version=version)
        body = msgspec.to_builtins(msgspec.structs.replace(wanted, metadata=metadata))
        await self.call("PUT", f"{named}?fieldManager={FIELD_MANAGER}", _Anything, body)
        return True

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Mapping[str, object] | None = None,
        accept: str = "application/json",
    ) -> T:
        """One request; `answer` is what its body is decoded to, and PATCH sends a JSON merge patch."""
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = MERGE_PATCH if method == "PATCH" else "application/json"
        async with self._open(method, path, headers, body) as response:
            content = await response.read()
            if response.status >= 400:
                _refuse(method, path, response, content)
            try:
                return msgspec.json.decode(content, type=answer)
            except UNREADABLE as error:
                text = f"{method} {path}: the answer is not what the Kubernetes API sends: {error}"
                raise UnavailableError(text, response.status) from error

    async def content(self, path: str) -> bytes:
        """What is found there, as it is: what the API server passes on from a Service need not be JSON."""
        async with self._open("GET", path, {"Accept": "*/*"}, None) as response:
            found: bytes = await response.read()
            if response.status >= 400:
                _refuse("GET", path, response, found)
            return found

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Mapping[str, object] | None,
        silence_seconds: float | None = None,
    ) -> AsyncIterator[Any]:
        """Send a request and read its answer within the block.

        Without `silence_seconds` the timeout is for all of it; with it, for each piece of the answer.
        """
        from aiohttp import ClientError, ClientTimeout  # noqa: PLC0415
        from kubernetes.aio.config.config_exception import ConfigException  # noqa: PLC0415

        timeout = (
            ClientTimeout(total=self._timeout_seconds)
            if silence_seconds is None
            else ClientTimeout(total=None, connect=self._timeout_seconds, sock_read=silence_seconds)
        )
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            if token:
                headers["Authorization"] = token
            url = f"{self._configuration.host}{path}"
            request: Callable[..., Any] = self._rest.request
            answer = await request(method, url, headers=headers, body=body, _request_timeout=timeout)
            async with answer.response as response:
                yield response
        except (TimeoutError, ClientError, ConfigException, OSError) as error:
            cause = str(error) or type(error).__name__
            raise UnavailableError(f"{method} {path}: no answer from {self._configuration.host}: {cause}") from error


class _Anything(msgspec.Struct, frozen=True):
    """An answer of which only the metadata matters."""

    metadata: ObjectMeta = ObjectMeta()


class _NodeFeatureSpecAsFound(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}


class _NodeFeatureAsFound(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: _NodeFeatureSpecAsFound = _NodeFeatureSpecAsFound()


class _AcceleratorNodeAsFound(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    status: msgspec.Raw = msgspec.Raw(b"null")


def _refuse(method: str, path: str, response: Any, content: bytes) -> NoReturn:
    try:
        status = msgspec.json.decode(content, type=Status)
    except UNREADABLE:
        status = Status(message=content[:200].decode(errors="replace"))
    later = float(status.details.retry_after_seconds) if status.details else 0.0
    header = response.headers.get("Retry-After", "")
    if header.isdecimal():
        later = max(later, float(header))
    code = int(response.status)
    text = f"{method} {path}: {code} {status.reason}: {status.message}"
    raise error_type(code)(text, code, status.reason, later, status.message)


async def _watch_events(response: Any) -> AsyncIterator[WatchEvent]:
    """One event a line. The lines are cut here: aiohttp's own readline refuses the long ones."""
    unfinished = bytearray()
    async for piece in response.content.iter_any():
        unfinished += piece
        if len(unfinished) > _LONGEST_LINE_BYTES:
            raise UnavailableError(f"a watch sent a line of more than {_LONGEST_LINE_BYTES} bytes")
        *lines, rest = unfinished.split(b"\n")
        unfinished = rest
        for line in lines:
            if line.strip():
                yield _watch_event(bytes(line))


def _watch_event(line: bytes) -> WatchEvent:
    try:
        event = msgspec.json.decode(line, type=WatchEvent)
        if event.type != "ERROR":
            return event
        status = msgspec.json.decode(event.object, type=Status)
    except UNREADABLE as error:
        raise UnavailableError(f"a watch sent what is no event: {error}") from error
    raise error_type(status.code)(f"the watch ended: {status.code} {status.message}", status.code, status.reason)
