"""Reviews over HTTPS as a live API server sends them."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any, Final

from tasuki.process.tls.live import LiveContext
from tests.webhook_builders import admission_review

Json = dict[str, Any]

NAME: Final = "tasuki-webhooks.tasuki-system.svc"


@dataclass(frozen=True)
class Tls:
    """Both sides of a connection."""

    live: LiveContext
    client: ssl.SSLContext


class Client:
    """One HTTPS connection that asks as the API server does, byte by byte where a test wants that."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self.writer: Final = writer

    async def ask(
        self, path: str, body: bytes, kind: str = "application/json", method: str = "POST"
    ) -> tuple[int, dict[str, str], bytes]:
        self.begin(path, len(body), kind, method)
        self.writer.write(body)
        return await self.answer()

    def begin(self, path: str, length: int, kind: str = "application/json", method: str = "POST") -> None:
        head = (
            f"{method} {path}?timeout=5s HTTP/1.1\r\nHost: {NAME}:443\r\nUser-Agent: kube-apiserver-admission\r\n"
            f"Content-Length: {length}\r\nAccept: application/json, */*\r\nContent-Type: {kind}\r\n"
            "Accept-Encoding: gzip\r\n\r\n"
        )
        self.writer.write(head.encode())

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def review(self, pod: Json, path: str = "/mutate", **changes: Any) -> Json:
        """The `response` to a review."""
        status, headers, body = await self.ask(path, json.dumps(admission_review(pod, **changes)).encode())
        assert (status, headers["content-type"]) == (200, "application/json")
        answered: Json = json.loads(body)
        assert (answered["apiVersion"], answered["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        response: Json = answered["response"]
        return response

    def close(self) -> None:
        self.writer.close()


async def connect(port: int, client: ssl.SSLContext) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=NAME)
    return Client(reader, writer)
