"""Stands before a server and notes what was asked and answered; passes everything on byte for byte."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_BLOCK: Final = 2**16


class Hop:
    """One side of a connection, read by heads and bodies."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: Final = sock
        self._received = b""

    def head(self) -> bytes:
        """Up to its empty line; empty if the other side has ended."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            received = self._sock.recv(_BLOCK)
            if not received:
                return b""
            self._received += received
        head, self._received = self._received[: end + 4], self._received[end + 4 :]
        return head

    def some(self, most: int) -> bytes:
        """At least a byte.

        Raises:
            ConnectionError: The other side has ended.
        """
        if not self._received:
            self._received = self._sock.recv(_BLOCK)
            if not self._received:
                raise ConnectionError("ended within a body")
        found, self._received = self._received[:most], self._received[most:]
        return found

    def line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self.some(1)
        return line

    def send(self, content: bytes) -> None:
        self._sock.sendall(content)


def _field(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _pass_body(head: bytes, source: Hop, sink: Hop) -> None:
    if _field(head, b"transfer-encoding").lower() == b"chunked":
        while True:
            line = source.line()
            sink.send(line)
            size = int(line.split(b";")[0], 16)
            _pass_bytes(size + 2, source, sink)
            if not size:
                return
    _pass_bytes(int(_field(head, b"content-length") or b"0"), source, sink)


def _pass_bytes(size: int, source: Hop, sink: Hop) -> None:
    while size:
        block = source.some(size)
        sink.send(block)
        size -= len(block)


class _Handler(socketserver.BaseRequestHandler):
    """One client's connection, and one to the server behind."""

    server: "_Recorder"

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.behind)) as behind:
            # A head and its body are two sends; the second would wait for the first to be acknowledged.
            for each in (self.request, behind):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = Hop(self.request), Hop(behind)
            while head := client.head():
                if not self._exchange(head, client, server):
                    return

    def _exchange(self, head: bytes, client: Hop, server: Hop) -> bool:
        """Whether another request may follow."""
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        server.send(head)
        sending = threading.Thread(target=self._send_body, args=(head, client, server))
        sending.start()
        answer = server.head()
        while answer.startswith(b"HTTP/1.1 100"):
            client.send(answer)
            answer = server.head()
        if not answer:
            return False
        status = int(answer.split(b" ", 2)[1])
        self.server.log.append((method.decode(), target.decode("latin-1"), status))
        client.send(answer)
        if method != b"HEAD" and status not in (204, 304):
            _pass_body(answer, server, client)
        ends = _field(answer, b"connection").lower() == b"close"
        if ends:
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
        sending.join()
        return not ends

    def _send_body(self, head: bytes, client: Hop, server: Hop) -> None:
        with suppress(OSError):
            _pass_body(head, client, server)


class _Recorder(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behind: int, log: list[tuple[str, str, int]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind: Final = behind
        self.log: Final = log


@contextmanager
def recording(port: int, log: list[tuple[str, str, int]]) -> Iterator[int]:
    """Pass on to a port of this machine, from the port that is returned; `log` gets method, target and status."""
    with _Recorder(port, log) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
