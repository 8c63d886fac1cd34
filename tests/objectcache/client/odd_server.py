"""A server that answers each request with the next of some given bytes, whatever was asked."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass
class OddServer:
    """One that runs.

    Attributes:
        requests: Heads and bodies, as far as they were read, in their order.
        connections: How many there were.
        released: Set at the end, or before it.
    """

    url: str
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        closes: Whether the connection is closed after it without a word.
        reads_body: Whether the body is read first.
        hangs: Whether nothing follows, and nothing is closed, until the server is released.
    """

    answer: bytes
    closes: bool = False
    reads_body: bool = True
    hangs: bool = False


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def odd_server(script: Sequence[Said | bytes]) -> Iterator[OddServer]:
    """Answers in the order of the script, over as many connections as it takes; then closes every one."""
    left = [each if isinstance(each, Said) else Said(each) for each in script]
    listening = socket.create_server(("127.0.0.1", 0))
    server = OddServer(f"http://127.0.0.1:{listening.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            server.connections += 1
            with connection, connection.makefile("rb") as reading:
                connection.settimeout(5)
                while left and (head := _head(reading)):
                    said = left.pop(0)
                    length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                    body = reading.read(int(length[0].split(b":")[1])) if length and said.reads_body else b""
                    server.requests.append(head + body)
                    connection.sendall(said.answer)
                    if said.hangs:
                        server.released.wait(20)
                    if said.closes:
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def _head(reading: IO[bytes]) -> bytes:
    lines = []
    while line := reading.readline():
        lines.append(line)
        if line == b"\r\n":
            break
    return b"".join(lines)
