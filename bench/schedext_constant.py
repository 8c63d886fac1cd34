"""The floor for `bench.schedext`: the same server, which reads each request and answers with a constant."""

import sys
from pathlib import Path
from typing import Any

import uvloop

from tasuki.process.http_server import HttpServer


def application(folder: Path) -> Any:
    """Answers a path with the file of that name."""
    answers = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        body = answers[scope["path"]]
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


async def serve(folder: Path) -> None:
    server = HttpServer(application(folder), ("127.0.0.1", 0), None, "constants")
    print(server.port, flush=True)
    await server.run()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
