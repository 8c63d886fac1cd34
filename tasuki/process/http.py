"""The operator's view of a process over HTTP: /metrics, /readyz and /healthz."""

import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

# A client that sends nothing holds its thread for this long at most.
_IDLE_SECONDS: Final = 10.0


class OperatorServer:
    """Serves from a thread of its own, so that it answers even while the event loop is stuck.

    Args:
        address: Host and port; port 0 lets the system choose, see `port`.
        alive: Whether the process makes progress; decides /healthz.
    """

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry,
        readiness: Readiness,
        alive: Callable[[], bool],
    ) -> None:
        self._pages: Final[dict[str, Callable[[str], tuple[HTTPStatus, str, bytes]]]] = {
            "/metrics": lambda accept: _metrics(registry, accept),
            "/readyz": lambda _: _page(readiness.report(), ok=readiness.ready),
            "/healthz": lambda _: _page("ok\n" if alive() else "the event loop is stuck\n", ok=alive()),
        }
        try:
            self._server = _Server(address, self._handler())
        except OSError as error:
            host, port = address
            raise OSError(f"cannot serve metrics on {host} port {port}: {error}; choose another address") from error
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="operator-http", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        log.info("serving metrics and health port=%d", self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pages = self._pages

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _IDLE_SECONDS

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    status, kind, body = _page("try " + ", ".join(pages) + "\n", status=HTTPStatus.NOT_FOUND)
                else:
                    status, kind, body = page(self.headers.get("Accept", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - http.server finds the method by this name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                log.debug("http request %s", format % args)

        return Handler


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's name
        """In place of a traceback on standard error, which no collector of JSON lines can read."""
        error = sys.exception()
        if isinstance(error, ConnectionError):
            log.debug("client hung up client=%s error=%s", client_address[0], error)
        else:
            log.error("http request failed client=%s", client_address[0], exc_info=error)


def _page(text: str, *, ok: bool = True, status: HTTPStatus | None = None) -> tuple[HTTPStatus, str, bytes]:
    chosen = status or (HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)
    return chosen, "text/plain; charset=utf-8", text.encode()


def _metrics(registry: CollectorRegistry, accept: str) -> tuple[HTTPStatus, str, bytes]:
    encode, kind = choose_encoder(accept)
    return HTTPStatus.OK, kind, encode(registry)
