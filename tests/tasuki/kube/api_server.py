"""A small Kubernetes API server over real HTTP: it keeps the protocol's rules, and breaks on demand."""

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]

NODES = "/api/v1/nodes"
ACCELERATOR_NODES = "/apis/tasuki.dev/v1alpha1/acceleratornodes"
NODE_FEATURES = "/apis/nfd.k8s-sigs.io/v1alpha1/namespaces/gpus/nodefeatures"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"

TOKEN = "Bearer let-me-in"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


class RefusedError(Exception):
    def __init__(self, code: int, reason: str, message: str = "", retry_after: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def check_node(node: Json) -> None:
    for key, value in node["metadata"].get("labels", {}).items():
        if len(value) > 63 or not LABEL_VALUE.fullmatch(value):
            raise RefusedError(422, "Invalid", f"label {key}={value}")


def check_event(event: Json) -> None:
    """As kubernetes, pkg/apis/core/validation/events.go."""
    series = event.get("series")
    valid = (
        MICRO_TIME.fullmatch(event["eventTime"])
        and event["metadata"]["namespace"] == "default"
        and 0 < len(event["note"].encode()) <= 1024
        and 0 < len(event["reason"]) <= 128
        and 0 < len(event["action"]) <= 128
        and event["type"] in {"Normal", "Warning"}
        and event["reportingController"]
        and 0 < len(event["reportingInstance"]) <= 128
        and (series is None or (series["count"] >= 2 and MICRO_TIME.fullmatch(series["lastObservedTime"])))
    )
    if not valid:
        raise RefusedError(422, "Invalid", json.dumps(event))


def anything(_: Json) -> None:
    pass


@dataclass
class Kind:
    """One resource, with the rules that the server holds it to."""

    check: Callable[[Json], None] = anything
    status_apart: bool = False
    objects: dict[str, Json] = field(default_factory=dict)


@dataclass
class Refusal:
    code: int
    method: str = ""
    path: str = ""
    times: int = 1
    retry_after: int = 0
    reason: str = "Refused"
    query: str = ""


class ApiServer:
    """Start it, stop it, start it again on the same port.

    Attributes:
        requests: Method and path with query of each, in order.
        refusals: Answered before anything else, while their `times` last.
        answering: While it is not set, requests are read and not answered.
        oldest_version: Watching from before it is refused.
        gone_in_stream: Whether that is told in the stream or by the HTTP status; servers do both.
        page_limit: The most objects of a page, if a client that pages asks for more.
        watch_seconds: After which each watch ends; None as asked for by timeoutSeconds.
        documents: What else is answered to GET, by path; goes before everything that is kept.
    """

    def __init__(self) -> None:
        self.kinds = {
            NODES: Kind(check_node, status_apart=True),
            ACCELERATOR_NODES: Kind(status_apart=True),
            NODE_FEATURES: Kind(),
            EVENTS: Kind(check_event),
            NAMESPACES: Kind(),
            PODS: Kind(),
            PRIORITY_CLASSES: Kind(),
        }
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.refusals: list[Refusal] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.oldest_version = 0
        self.gone_in_stream = True
        self.page_limit = 500
        self.watch_seconds: float | None = None
        self.documents: dict[str, bytes] = {}
        self.changed = asyncio.Condition()
        self.streams: list[web.StreamResponse] = []
        self._version = 100
        self._log: list[tuple[int, str, str, Json]] = []
        self._pages: dict[str, tuple[str, list[Json]]] = {}
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            for stream in self.streams:
                self.drop(stream)
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, folder: Path, url: str = "") -> str:
        path = folder / "kubeconfig"
        user = {"name": "u", "user": {"token": TOKEN.removeprefix("Bearer ")}}
        cluster = {"name": "c", "cluster": {"server": url or self.url}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "gpus"}}
        config = {"users": [user], "clusters": [cluster], "contexts": [context], "current-context": "x"}
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
        return str(path)

    def drop(self, stream: web.StreamResponse) -> None:
        """Break a watch's connection without a goodbye."""
        request: web.BaseRequest = stream._req  # type: ignore[assignment]
        if request.transport is not None:
            request.transport.abort()

    async def put(self, path: str, name: str, **content: Any) -> Json:
        """Create or replace an object, as somebody else would."""
        known = name in self.kinds[path].objects
        metadata = {"name": name, "uid": f"uid-of-{name}", **content.pop("metadata", {})}
        return await self._store(path, {**content, "metadata": metadata}, "MODIFIED" if known else "ADDED")

    async def remove(self, path: str, name: str) -> None:
        gone = self.kinds[path].objects.pop(name)
        await self._note(path, gone, "DELETED")

    def backup(self) -> Json:
        """All that is kept, and how far its versions have come."""
        kept: Json = json.loads(json.dumps({path: kind.objects for path, kind in self.kinds.items()}))
        return {"version": self._version, "objects": kept}

    def restore(self, kept: Json) -> None:
        """As if nothing had happened since that backup: versions are given out a second time."""
        self._version = kept["version"]
        self._log = [entry for entry in self._log if entry[0] <= self._version]
        for path, objects in json.loads(json.dumps(kept["objects"])).items():
            self.kinds[path].objects = objects

    async def bookmark(self, path: str) -> None:
        await self._note(path, {"kind": "Node", "metadata": {}}, "BOOKMARK")

    async def say(self, path: str, content: bytes) -> None:
        """Write to the watches of a collection what need not be an event."""
        for stream in self.watches(path):
            with suppress(ConnectionResetError):
                await stream.write(content)

    def watches(self, path: str) -> list[web.StreamResponse]:
        return [s for s in self.streams if s._req is not None and s._req.path == path]

    def objects(self, path: str) -> dict[str, Json]:
        return self.kinds[path].objects

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be true, looked at after each request and change."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(condition)

    def count(self, method: str, path: str) -> int:
        return sum(1 for request in self.requests if request.startswith(f"{method} {path}"))

    async def _store(self, path: str, stored: Json, change: str) -> Json:
        self.kinds[path].objects[stored["metadata"]["name"]] = stored
        return await self._note(path, stored, change)

    async def _note(self, path: str, stored: Json, change: str) -> Json:
        self._version += 1
        stored["metadata"] = {**stored["metadata"], "resourceVersion": str(self._version)}
        self._log.append((self._version, path, change, json.loads(json.dumps(stored))))
        await self._announce()
        return stored

    async def _announce(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        body = await request.json() if request.can_read_body else None
        self.bodies.append(body)
        await self._announce()
        await self.answering.wait()
        try:
            self._refuse(request)
            return await self._route(request, body)
        except RefusedError as error:
            return self._failure(error)
        finally:
            await self._announce()

    def _refuse(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != TOKEN:
            raise RefusedError(401, "Unauthorized")
        for refusal in self.refusals:
            fits = request.method.startswith(refusal.method) and request.path.startswith(refusal.path)
            if fits and refusal.query in request.query_string and refusal.times > 0:
                refusal.times -= 1
                raise RefusedError(refusal.code, refusal.reason, "on demand", refusal.retry_after)

    def _failure(self, error: RefusedError) -> web.Response:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
        content = {**status, "reason": error.reason, "message": str(error)}
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        return web.json_response(content, status=error.code, headers=headers)

    async def _route(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.method == "GET" and request.path in self.documents and "watch" not in request.query:
            return web.Response(body=self.documents[request.path], content_type="application/json")
        path = next((p for p in self.kinds if request.path == p or request.path.startswith(f"{p}/")), None)
        if path is None:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        name, _, subresource = request.path.removeprefix(path).removeprefix("/").partition("/")
        if request.method == "GET" and not name:
            return await self._list_or_watch(request, path)
        if request.method == "POST":
            return web.json_response(await self._create(path, body), status=201)
        if name not in self.kinds[path].objects:
            raise RefusedError(404, "NotFound", f"{name!r} not found")
        if request.method in {"PATCH", "PUT"}:
            await self._update(request, path, name, subresource, body)
        return web.json_response(shown(request, self.kinds[path].objects[name]))

    async def _create(self, path: str, body: Json) -> Json:
        kind = self.kinds[path]
        if body["metadata"]["name"] in kind.objects:
            raise RefusedError(409, "AlreadyExists")
        if kind.status_apart:
            body.pop("status", None)
        kind.check(body)
        return await self._store(path, body, "ADDED")

    async def _update(self, request: web.Request, path: str, name: str, subresource: str, body: Json) -> None:
        kind = self.kinds[path]
        old = kind.objects[name]
        if request.method == "PUT":
            if body["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                raise RefusedError(409, "Conflict")
            new = body
        elif request.content_type == "application/merge-patch+json":
            new = merged(old, body)
        else:
            raise RefusedError(415, "UnsupportedMediaType", request.content_type)
        if kind.status_apart:
            new = {**old, "status": new.get("status")} if subresource else {**new, "status": old.get("status")}
        kind.check(new)
        await self._store(path, new, "MODIFIED")

    async def _list_or_watch(self, request: web.Request, path: str) -> web.StreamResponse:
        selector = request.query.get("fieldSelector", "")
        if request.query.get("watch") == "true":
            return await self._watch(request, path, selector)
        items = [shown(request, o) for o in self.kinds[path].objects.values() if is_selected(selector, o)]
        return web.json_response(self._page(request, items) if "limit" in request.query else self._list(items))

    def _list(self, items: list[Json], **metadata: str) -> Json:
        return {"metadata": {"resourceVersion": str(self._version), **metadata}, "items": items}

    def _page(self, request: web.Request, items: list[Json]) -> Json:
        """All pages of a list are of the version of its first one."""
        version = str(self._version)
        if token := request.query.get("continue"):
            version, items = self._pages[token]
        limit = min(int(request.query["limit"]), self.page_limit)
        page, rest = items[:limit], items[limit:]
        if not rest:
            return self._list(page, resourceVersion=version)
        token = f"page-{len(self._pages)}"
        self._pages[token] = version, json.loads(json.dumps(rest))
        return self._list(page, resourceVersion=version, **{"continue": token})

    async def _watch(self, request: web.Request, path: str, selector: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest_version and not self.gone_in_stream:
            raise RefusedError(410, "Expired", "too old resource version")
        stream = web.StreamResponse()
        await stream.prepare(request)
        if since < self.oldest_version:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await stream.write(line("ERROR", gone))
            return stream
        self.streams.append(stream)
        await self._announce()
        try:
            with suppress(TimeoutError, ConnectionResetError):
                asked = float(request.query["timeoutSeconds"])
                async with asyncio.timeout(asked if self.watch_seconds is None else self.watch_seconds):
                    await self._feed(request, stream, path, selector, since)
        finally:
            self.streams.remove(stream)
        return stream

    def _newer_than(self, version: int) -> bool:
        return bool(self._log) and self._log[-1][0] > version

    async def _feed(
        self, request: web.Request, stream: web.StreamResponse, path: str, selector: str, since: int
    ) -> None:
        while True:
            async with self.changed:
                await self.changed.wait_for(partial(self._newer_than, since))
            for version, where, change, stored in self._log[bisect_right(self._log, since, key=itemgetter(0)) :]:
                since = version
                if where == path and (seen := self._seen(version, path, change, stored, selector)):
                    await stream.write(line(seen, shown(request, stored)))

    def _seen(self, version: int, path: str, change: str, stored: Json, selector: str) -> str:
        """What a watch is told: an object that stops matching is deleted, one that begins to is added."""
        if change != "MODIFIED" or not selector:
            return change if change == "BOOKMARK" or is_selected(selector, stored) else ""
        key = identity(stored)
        older = (e for e in reversed(self._log) if e[0] < version and e[1] == path and identity(e[3]) == key)
        before = next(older, None)
        was = before is not None and before[2] != "DELETED" and is_selected(selector, before[3])
        return {(True, True): change, (True, False): "DELETED", (False, True): "ADDED"}.get(
            (was, is_selected(selector, stored)), ""
        )


def identity(stored: Json) -> tuple[str, str]:
    return stored["metadata"].get("namespace", ""), stored["metadata"].get("name", "")


SELECTABLE = {"metadata.name", "spec.nodeName", "status.phase"}


def is_selected(selector: str, stored: Json) -> bool:
    """By all of the fields that it names, as `field=value` or `field!=value`."""
    return all(is_matched(term, stored) for term in selector.split(",") if term)


def is_matched(term: str, stored: Json) -> bool:
    field_, _, wanted = term.partition("=")
    path = field_.removesuffix("!")
    if path not in SELECTABLE:
        raise RefusedError(400, "BadRequest", f"field label not supported: {path}")
    part, _, name = path.partition(".")
    value: str = stored.get(part, {}).get(name, "")
    return (value == wanted) != field_.endswith("!")


def shown(request: web.Request, stored: Json) -> Json:
    """The object, or its metadata alone where the client asks for that."""
    if "as=PartialObjectMetadata" in request.headers.get("Accept", ""):
        return {"kind": "PartialObjectMetadata", "metadata": stored["metadata"]}
    return stored


def line(change: str, stored: Json) -> bytes:
    return json.dumps({"type": change, "object": stored}).encode() + b"\n"
