"""A client that sends any bytes, and reads answers one by one."""

import socket
from types import TracebackType
from typing import Final, Self

SECONDS: Final = 20.0


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.sock: Final = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def ask(self, method: str, target: str, *headers: str, body: bytes = b"", token: str = "token-of-research") -> None:
        """Send a request; Content-Length is the caller's if the body needs one."""
        lines = [f"{method} {target} HTTP/1.1", "Host: cache", f"Authorization: Bearer {token}", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def answer(self, *, to_head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body.

        Raises:
            EOFError: The server has closed the connection before.
        """
        head = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        size = 0 if to_head or status in (100, 204, 304) else int(headers.get("content-length", "0"))
        while len(self._received) < size:
            self._more()
        body, self._received = self._received[:size], self._received[size:]
        return status, headers, body

    def is_closed(self) -> bool:
        """Whether the server closes it, and sends nothing more before."""
        try:
            return not self._received and self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._more()
        at = self._received.index(end) + len(end)
        found, self._received = self._received[:at], self._received[at:]
        return found

    def _more(self) -> None:
        received = self.sock.recv(2**18)
        if not received:
            raise EOFError(f"closed after {self._received[:200]!r}")
        self._received += received
