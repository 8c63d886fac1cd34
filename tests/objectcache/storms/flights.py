"""Requests that are under way together, on a thread and a connection each."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.objectcache.storms.nodes import SECONDS, target
from tests.objectcache.wires import Wire

PIECE_BYTES: Final = 16 * 2**10


@dataclass(slots=True)
class Request:
    """One of them.

    Attributes:
        body: Of a PUT.
        chunked: Without a size beforehand.
        status: Of the answer; 0 if there was none, or only a part of one.
        found: The body of the answer.
    """

    method: str
    name: str
    body: bytes = b""
    bucket: str = "bk"
    chunked: bool = False
    status: int = 0
    found: bytes = b""

    def send(self, port: int, sent: Callable[[], None]) -> None:
        """Send it in pieces, and take the answer.

        Raises:
            TimeoutError: Nobody answers, and nobody hangs up.
        """
        try:
            with Wire(port) as wire:
                length = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {len(self.body)}"
                headers = [length] if self.method == "PUT" else []
                wire.ask(self.method, target(self.name, self.bucket), *headers)
                sent()
                for piece in self._pieces():
                    wire.send(piece)
                    sent()
                status, _, self.found = wire.answer()
                self.status = status
        except TimeoutError:
            raise
        except (OSError, EOFError):
            return

    @property
    def steps(self) -> int:
        """How often `sent` is called if nothing goes wrong."""
        return 1 + sum(1 for _ in self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        if self.method != "PUT":
            return
        for first in range(0, len(self.body), PIECE_BYTES):
            piece = self.body[first : first + PIECE_BYTES]
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece
        if self.chunked:
            yield b"0\r\n\r\n"


def fly(port: int, requests: Sequence[Request], part: float, meanwhile: Callable[[], None]) -> None:
    """Send all at once, and do something when such a part of it is sent; returns when each has its answer or none."""
    enough = int(part * sum(each.steps for each in requests))
    done = 0
    changed = threading.Condition()

    def sent() -> None:
        nonlocal done
        with changed:
            done += 1
            changed.notify_all()

    def send(each: Request) -> None:
        try:
            each.send(port, sent)
        finally:
            # Those that were refused do not hold up the rest.
            with changed:
                running.discard(id(each))
                changed.notify_all()

    running = {id(each) for each in requests}
    with ThreadPoolExecutor(len(requests)) as pool:
        flying = [pool.submit(send, each) for each in requests]
        with changed:
            changed.wait_for(lambda: done >= enough or not running, SECONDS)
        meanwhile()
        for each in flying:
            each.result()
