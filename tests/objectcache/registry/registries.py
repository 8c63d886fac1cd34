"""A registry over real HTTP that obeys the distribution specification, and misbehaves on demand."""

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
LIFETIME_SECONDS: Final = 300


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest_of(*layers: bytes, media_type: str = MANIFEST) -> bytes:
    made = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest_of(layer), "size": len(layer)}
            for layer in layers
        ],
    }
    return json.dumps(made).encode()


@dataclass
class Registry:
    """What it has, and how it behaves from now on.

    Attributes:
        private: Repositories that take a login.
        log: Method, path with query, and status of each request so far.
        authorizations: What each request for content showed.
        status: Answered to everything instead of content, unless 0.
        corrupt: Send other bytes, of the same length.
        cut: Break off after so many bytes of a blob.
        gate: Blobs stop half way until it is set, and refusals and manifests before they are sent.
        ignores_range: Send the whole of a blob, whatever part is asked for.
        span: Answered as the `Content-Range` of every part, unless empty.
        at_once: How many requests are under way, and the most of them that ever were.
        elsewhere: Blobs are redirected to this origin.
        quiet: Do not say a blob's length.
        scheme: Of authentication; `bearer`, `basic`, or empty for none.
    """

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    login: tuple[str, str] = ("reader", "pass:word")
    scheme: str = ""
    realm: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    status: int = 0
    retry_after: str = ""
    corrupt: bool = False
    cut: int = -1
    gate: asyncio.Event | None = None
    elsewhere: str = ""
    quiet: bool = False
    ignores_range: bool = False
    span: str = ""
    at_once: tuple[int, int] = (0, 0)
    says_digest: bool = True

    def add_blob(self, content: bytes) -> str:
        digest = digest_of(content)
        self.blobs[digest] = content
        return digest

    def add_manifest(self, content: bytes, tag: str = "", media_type: str = MANIFEST) -> str:
        digest = digest_of(content)
        self.manifests[digest] = (media_type, content)
        if tag:
            self.tags[tag] = digest
        return digest

    def asked(self, method: str, part: str) -> int:
        """How many requests there were of this method, with this in their path, that brought content."""
        return sum(m == method and part in path and status in {200, 206} for m, path, status in self.log)

    def _challenge(self, request: web.Request) -> web.Response | None:
        """What is answered to who does not show what is wanted; None to who does."""
        repository = request.match_info["name"]
        shown = request.headers.get("Authorization", "")
        self.authorizations.append(shown)
        if self.scheme == "basic":
            wanted, fine = 'Basic realm="images"', shown == self._basic
        elif self.scheme == "bearer":
            realm = self.realm or f"{self.url}/token"
            wanted = f'Bearer realm="{realm}",service="the, registry",scope="repository:{repository}:pull,push"'
            fine = self.tokens.get(shown.removeprefix("Bearer ")) == f"repository:{repository}:pull"
        else:
            return None
        return None if fine else web.Response(status=401, headers={"WWW-Authenticate": wanted})

    @property
    def _basic(self) -> str:
        return "Basic " + base64.b64encode(":".join(self.login).encode()).decode()

    def _misbehaviour(self) -> web.Response | None:
        if not self.status:
            return None
        return web.Response(status=self.status, headers={"Retry-After": self.retry_after} if self.retry_after else {})

    async def token(self, request: web.Request) -> web.Response:
        shown, scope = request.headers.get("Authorization", ""), request.query["scope"]
        self.scopes.append(scope)
        assert request.query["service"] == "the, registry"
        if (shown and shown != self._basic) or (not shown and scope.split(":")[1] in self.private):
            return web.Response(status=401)
        made = secrets.token_hex(16)
        self.tokens[made] = scope
        return web.json_response({"token": made, "expires_in": LIFETIME_SECONDS})

    async def blob(self, request: web.Request) -> web.StreamResponse:
        if refused := self._challenge(request) or self._misbehaviour():
            if self.gate is not None:
                await self.gate.wait()
            return refused
        content = self.blobs.get(request.match_info["digest"])
        if content is None:
            return web.Response(status=404)
        if self.elsewhere:
            location = f"{self.elsewhere}{request.path}?signature=very%2Fsecret"
            return web.Response(status=307, headers={"Location": location})
        sent, response = bytes(len(content)) if self.corrupt else content, web.StreamResponse()
        if (asked := request.headers.get("Range")) and not self.ignores_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            response.set_status(206)
            response.headers["Content-Range"] = self.span or f"bytes {start}-{end - 1}/{len(content)}"
            sent = sent[start:end]
        if self.quiet:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(sent)
        await response.prepare(request)
        if request.method == "GET":
            await self._send(request, response, sent)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, sent: bytes) -> None:
        if self.cut >= 0:
            await response.write(sent[: self.cut])
            assert request.transport is not None
            request.transport.close()
            return
        half = len(sent) // 2
        await response.write(sent[:half])
        if self.gate is not None:
            await self.gate.wait()
        await response.write(sent[half:])

    async def manifest(self, request: web.Request) -> web.Response:
        if refused := self._challenge(request) or self._misbehaviour():
            return refused
        if self.gate is not None:
            await self.gate.wait()
        reference = request.match_info["reference"]
        found = self.manifests.get(self.tags.get(reference, reference))
        if found is None:
            return web.Response(status=404)
        media_type, content = found
        if not {media_type, "*/*"} & set(request.headers.get("Accept", "*/*").split(", ")):
            return web.Response(status=404)
        headers = {"Content-Type": media_type}
        if self.says_digest:
            headers["Docker-Content-Digest"] = digest_of(content)
        return web.Response(body=bytes(len(content)) if self.corrupt else content, headers=headers)

    async def tag_list(self, request: web.Request) -> web.Response:
        listed = {"name": request.match_info["name"], "tags": sorted(self.tags)}
        link = {"Link": f'<{self.url}/v2/{request.match_info["name"]}/tags/list?n=1&last=a>; rel="next"'}
        return web.json_response(listed, headers=link)

    async def referrers(self, _: web.Request) -> web.Response:
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
        headers = {"Content-Type": INDEX, "OCI-Filters-Applied": "artifactType"}
        return web.Response(body=body.encode(), headers=headers)


@asynccontextmanager
async def running_registry(context: ssl.SSLContext | None = None) -> AsyncIterator[Registry]:
    registry = Registry()

    @web.middleware
    async def logged(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        now, most = registry.at_once
        registry.at_once = now + 1, max(most, now + 1)
        try:
            response = await handler(request)
        finally:
            registry.at_once = registry.at_once[0] - 1, registry.at_once[1]
        registry.log.append((request.method, request.path_qs, response.status))
        return response

    application = web.Application(middlewares=[logged])
    application.router.add_get("/token", registry.token)
    application.router.add_get("/v2/{name:.+}/blobs/{digest}", registry.blob)
    application.router.add_get("/v2/{name:.+}/manifests/{reference}", registry.manifest)
    application.router.add_get("/v2/{name:.+}/tags/list", registry.tag_list)
    application.router.add_get("/v2/{name:.+}/referrers/{digest}", registry.referrers)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    scheme = "http" if context is None else "https"
    registry.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield registry
    finally:
        await runner.cleanup()
