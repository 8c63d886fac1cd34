"""One HTTP connection, byte by byte where a test wants that."""

import asyncio
import ssl
from typing import Final


class Client:
    """Asks as Go's HTTP client does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self.writer: Final = writer

    async def ask(
        self, path: str, body: bytes = b"", method: str = "POST", kind: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        self.begin(path, len(body), method, kind)
        self.writer.write(body)
        return await self.answer()

    def begin(self, path: str, length: int, method: str = "POST", kind: str = "application/json") -> None:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:9445\r\nUser-Agent: Go-http-client/1.1\r\n"
            f"Content-Length: {length}\r\nContent-Type: {kind}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        self.writer.write(head.encode())

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection; whether it said nothing before."""
        async with asyncio.timeout(5):
            return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


async def connect(port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Client:
    name = "127.0.0.1" if tls is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
    return Client(reader, writer)
