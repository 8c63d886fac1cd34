"""A cache that runs, for whoever needs one; what it is made of may change, what it answers does not."""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

TOKEN: Final = "token-of-research"
BUCKETS: Final = ({"Name": "bk", "Public": False, "BucketQuota": "1Gi", "AllowNamespaces": ["research"]},)


@dataclass
class RunningCache:
    """One node's cache.

    Attributes:
        url: Without a slash at its end; objects lie under `{url}/v1/objects/{bucket}/{object}`.
        token: Of namespace `research`, which may read and write bucket `bk`.
        log: Method, target and status of each request so far, in the order of their answers.
    """

    url: str
    port: int
    token: str = TOKEN
    log: list[tuple[str, str, int]] = field(default_factory=list)


@contextmanager
def running_cache(
    folder: Path,
    *,
    buckets: Sequence[Mapping[str, Any]] = BUCKETS,
    tokens: Mapping[str, str] | None = None,
    capacity: str = "1Gi",
) -> Iterator[RunningCache]:
    """Run one.

    Args:
        folder: Empty, or of an earlier one.
        buckets: As the talk spells them.
        tokens: Namespace by token; TOKEN of `research` unless given.
        capacity: Of the disk.
    """
    known = dict(tokens or {TOKEN: "research"})
    allowed = {each["Name"]: each for each in buckets}
    kept: dict[str, bytes] = {}
    cache = RunningCache("", 0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            cache.log.append((self.command, self.path, status))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refused(self) -> bool:
            namespace = known.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            bucket = allowed.get((self.path.split("/", 4) + ["", "", "", ""])[3])
            if namespace is None:
                self.answer(401, b"no valid token\n")
            elif bucket is None or not (bucket["Public"] or namespace in bucket["AllowNamespaces"]):
                self.answer(403, b"not allowed\n")
            else:
                return False
            self.close_connection = True
            return True

        def do_GET(self) -> None:
            if self.refused():
                return
            found = kept.get(self.path)
            if found is None:
                self.answer(404)
                return
            etag = {"ETag": f'"{hashlib.md5(found).hexdigest()}"', "Accept-Ranges": "bytes"}
            ranged = self.headers.get("Range", "")
            if ranged.startswith("bytes=") and "," not in ranged:
                first, _, last = ranged[6:].partition("-")
                start = int(first) if first else max(0, len(found) - int(last))
                end = min(int(last) + 1, len(found)) if first and last else len(found)
                if start >= len(found):
                    self.answer(416, b"", {"Content-Range": f"bytes */{len(found)}"})
                    return
                etag["Content-Range"] = f"bytes {start}-{end - 1}/{len(found)}"
                self.answer(206, found[start:end], etag)
                return
            self.answer(200, found, etag)

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            if self.refused():
                return
            if self.headers.get("Transfer-Encoding") == "chunked":
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(pieces)
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            kept[self.path] = body
            self.answer(201)

        def do_DELETE(self) -> None:
            if not self.refused():
                self.answer(204 if kept.pop(self.path, None) is not None else 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cache.port = server.server_address[1]
    cache.url = f"http://127.0.0.1:{cache.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield cache
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
