"""The API server of a scheduler's tests: pods by namespace, bindings, leases, and faults before, after and instead."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from tasuki.kube.client import Kube, connect
from tests.tasuki.kube.api_server import NAMESPACES, PODS, ApiServer, Json, Kind, RefusedError

CACHE_NODES = "/apis/tasuki.dev/v1alpha1/cachenodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/gpus/leases"


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        late_seconds: The request takes effect only after so long, whether or not the client still waits.
        refused: The status that is answered instead of doing anything; 0 for none.
        silent_seconds: It takes effect at once, and is answered after so long.
        answered: The status that is answered although it took effect; 0 for none.
        lost: The connection breaks, after the effect or instead of it if `refused` is set.
        verb, path: Of which requests: how the method and the path begin; and how the path ends.
    """

    verb: str = ""
    path: str = ""
    ends: str = ""
    times: int = 1
    late_seconds: float = 0.0
    refused: int = 0
    silent_seconds: float = 0.0
    answered: int = 0
    lost: bool = False

    def fits(self, request: web.Request) -> bool:
        path = request.path.startswith(self.path) and request.path.endswith(self.ends)
        return self.times > 0 and request.method.startswith(self.verb) and path


class SchedulingApiServer(ApiServer):
    """Pods are kept by `namespace/name`, and every change of one is announced on the watches of all pods.

    Attributes:
        faults: Each happens to the requests that it fits, while its `times` last.
        chance: Asked for a fault for every request that none of `faults` fits.
        bindings: Every binding that took effect: the pod's uid and the node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds[LEASES] = Kind()
        self.kinds[CACHE_NODES] = Kind(status_apart=True)
        self.faults: list[Fault] = []
        self.chance: Callable[[web.Request], Fault | None] = lambda _: None
        self.bindings: list[tuple[str, str]] = []

    async def put_pod(self, namespace: str, name: str, uid: str = "", **content: Any) -> Json:
        """Create or replace a pod, as somebody else would."""
        key = f"{namespace}/{name}"
        known = key in self.objects(PODS)
        metadata = {"uid": uid or f"uid-of-{name}", **content.pop("metadata", {}), "namespace": namespace, "name": name}
        pod = {"spec": {}, "status": {"phase": "Pending"}, **content, "metadata": metadata}
        return await self._keep_pod(pod, "MODIFIED" if known else "ADDED")

    async def remove_pod(self, namespace: str, name: str) -> None:
        await self.remove(PODS, f"{namespace}/{name}")

    def pod(self, namespace: str, name: str) -> Json:
        return self.objects(PODS)[f"{namespace}/{name}"]

    def node_of(self, namespace: str, name: str) -> str:
        return str(self.pod(namespace, name)["spec"].get("nodeName", ""))

    def annotations(self, namespace: str, name: str) -> dict[str, str]:
        found: dict[str, str] = self.pod(namespace, name)["metadata"].get("annotations") or {}
        return found

    async def _keep_pod(self, pod: Json, change: str) -> Json:
        self.kinds[PODS].objects[f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"] = pod
        return await self._note(PODS, pod, change)

    async def _route(self, request: web.Request, body: Any) -> web.StreamResponse:
        fault = self._fault(request)
        if fault is None:
            return await self._serve(request, body)
        await asyncio.sleep(fault.late_seconds)
        if fault.refused:
            if fault.lost:
                return self._cut(request)
            raise RefusedError(fault.refused, "Refused", "by chance")
        try:
            answer = await self._serve(request, body)
        finally:
            await self._announce()
            await asyncio.sleep(fault.silent_seconds)
        if fault.lost:
            return self._cut(request)
        if fault.answered:
            raise RefusedError(fault.answered, "Refused", "although it was done")
        return answer

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.fits(request):
                fault.times -= 1
                return fault
        return self.chance(request)

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _serve(self, request: web.Request, body: Any) -> web.StreamResponse:
        namespace, _, rest = request.path.removeprefix(f"{NAMESPACES}/").partition("/")
        if not request.path.startswith(f"{NAMESPACES}/") or not rest.startswith("pods"):
            return await super()._route(request, body)
        name, _, subresource = rest.removeprefix("pods").removeprefix("/").partition("/")
        if not name and request.method == "POST":
            return await self._create_pod(namespace, body)
        pod = self.objects(PODS).get(f"{namespace}/{name}")
        if pod is None:
            raise RefusedError(404, "NotFound", f'pods "{name}" not found')
        if request.method == "POST" and subresource == "binding":
            return await self._bind(pod, body)
        if request.method == "DELETE":
            await self.remove_pod(namespace, name)
        return web.json_response(pod)

    async def _create_pod(self, namespace: str, body: Json) -> web.Response:
        if f"{namespace}/{body['metadata']['name']}" in self.objects(PODS):
            raise RefusedError(409, "AlreadyExists")
        pod = await self.put_pod(namespace, body["metadata"]["name"], body["metadata"].get("uid", ""), **body)
        return web.json_response(pod, status=201)

    async def _bind(self, pod: Json, binding: Json) -> web.Response:
        """As kubernetes, pkg/registry/core/pod/storage, BindingREST."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        conflict = partial(RefusedError, 409, "Conflict")
        prefix = f'Operation cannot be fulfilled on pods/binding "{name}"'
        wanted = binding["metadata"].get("uid", "")
        if wanted and wanted != uid:
            text = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
            raise conflict(f"{prefix}: {text}")
        if binding["target"]["kind"] != "Node" or not binding["target"]["name"]:
            raise RefusedError(422, "Invalid", "target")
        if pod["metadata"].get("deletionTimestamp"):
            raise conflict(f"{prefix}: pod {name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("nodeName"):
            raise conflict(f'{prefix}: pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
        annotations = {**(pod["metadata"].get("annotations") or {}), **(binding["metadata"].get("annotations") or {})}
        bound = json.loads(json.dumps(pod))
        bound["metadata"]["annotations"] = annotations
        bound["spec"]["nodeName"] = binding["target"]["name"]
        self.bindings.append((uid, binding["target"]["name"]))
        await self._keep_pod(bound, "MODIFIED")
        return web.json_response({"kind": "Status", "status": "Success", "code": 201}, status=201)


@asynccontextmanager
async def connected(api: SchedulingApiServer, folder: Path, timeout_seconds: float = 2.0) -> AsyncIterator[Kube]:
    kube = await connect("auto", timeout_seconds, {"KUBECONFIG": api.kubeconfig(folder)})
    assert kube is not None
    try:
        yield kube
    finally:
        await kube.close()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[SchedulingApiServer, Kube]]:
    """A server and a connection to it."""
    api = SchedulingApiServer()
    await api.start()
    try:
        async with connected(api, folder) as kube:
            yield api, kube
    finally:
        await api.stop()
