"""What a client sees of a cache through Envoy is what it sees of the cache itself."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from objectcache.client.client import CacheClient
from objectcache.client.errors import CacheError
from tests.objectcache.caches import TOKEN
from tests.objectcache.pfio.child import run_pfio
from tests.objectcache.routed.scenes import SECONDS, ZONE, Answer, Asking, Headers, Scene, asking, named
from tests.objectcache.wires import Wire
from tests.objectcache.xds.envoys import PREFIX, predicted

PATTERN = bytes(range(256)) * 40
LARGE_BYTES = 64 * 2**20


@pytest.fixture
def ask(scene: Scene) -> Iterator[Asking]:
    """Through Envoy."""
    with asking(scene.envoy.port) as found:
        yield found


def owner(scene: Scene, name: str) -> int:
    """The port of the cache that owns an object."""
    [node] = predicted(scene.members(), ZONE, [name])
    return scene.caches[node].direct_port


def lasting(answer: Answer) -> Answer:
    """Without the time, and what is said of one connection only."""
    headers = {key: each for key, each in answer.headers.items() if key not in {"date", "connection"}}
    return Answer(answer.status, headers, answer.body)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        pytest.param("GET", {}, 200, id="all of it"),
        pytest.param("HEAD", {}, 200, id="its head"),
        pytest.param("GET", {"Range": "bytes=100-199"}, 206, id="a part"),
        pytest.param("GET", {"Range": "bytes=-10"}, 206, id="its end"),
        pytest.param("GET", {"Range": "bytes=99999-"}, 416, id="a part that it has not"),
        pytest.param("GET", {"If-None-Match": "*"}, 304, id="what is known already"),
        pytest.param("HEAD", {"If-None-Match": "*"}, 304, id="the head of what is known already"),
        pytest.param("GET", {"If-Match": '"another"'}, 412, id="another version"),
        pytest.param("GET", {"Authorization": f"Bearer {'t' * 16_384}"}, 200, id="with a token of 16 KiB"),
        pytest.param("GET", {"Authorization": "Bearer wrong"}, 401, id="with a wrong token"),
        pytest.param("GET", {"Authorization": "Bearer token-of-other"}, 403, id="of another namespace"),
        pytest.param("PUT", {"If-None-Match": "*"}, 412, id="put only if it is absent"),
        pytest.param("PUT", {"Content-Digest": "sha-256=:AAAA:"}, 400, id="put with a digest that is none"),
        pytest.param("PUT", {"Tasuki-Pinned": "true"}, 507, id="put and pinned beyond the quota"),
        pytest.param("POST", {}, 405, id="a method that there is not"),
    ],
)
def test_answers_are_the_caches_own(scene: Scene, ask: Asking, method: str, headers: Headers, status: int) -> None:
    name, body = "bk/requests/object", PATTERN if method == "PUT" else None
    assert ask("PUT", name, PATTERN).status == 201
    with asking(owner(scene, name)) as directly:
        expected = directly(method, name, body, headers)

    found = ask(method, name, body, headers)

    assert found.status == expected.status == status
    assert lasting(found) == lasting(expected)


def test_an_object_that_nobody_has_is_missed(ask: Asking) -> None:
    found = ask("GET", "bk/requests/nothing")

    assert (found.status, ask("HEAD", "bk/requests/nothing").status) == (404, 404)


def test_the_version_that_was_answered_is_the_one_that_is_known(ask: Asking) -> None:
    put = ask("PUT", "bk/requests/version", PATTERN)

    known = ask("GET", "bk/requests/version", headers={"If-None-Match": put.headers["etag"]})
    ask("PUT", "bk/requests/version", PATTERN[::-1])
    changed = ask("GET", "bk/requests/version", headers={"If-None-Match": put.headers["etag"]})

    assert (known.status, known.body) == (304, b"")
    assert (changed.status, changed.body) == (200, PATTERN[::-1])


def test_names_are_opaque(ask: Asking) -> None:
    names = named("opaque", 40)
    for name in names:
        assert ask("PUT", name, name.encode()).status == 201

    assert [ask("GET", name).body.decode() for name in names] == list(names)


def test_an_empty_object_is_an_object(ask: Asking) -> None:
    assert ask("PUT", "bk/requests/empty", b"").status == 201

    found = ask("GET", "bk/requests/empty")

    assert (found.status, found.headers["content-length"], found.body) == (200, "0", b"")


def test_what_was_deleted_is_gone(ask: Asking) -> None:
    ask("PUT", "bk/requests/gone", b"x")

    assert [ask(method, "bk/requests/gone").status for method in ("DELETE", "GET", "DELETE")] == [204, 404, 404]


def test_a_large_object_goes_and_comes_whole(scene: Scene, ask: Asking) -> None:
    content = random.Random(1).randbytes(LARGE_BYTES)

    put = ask("PUT", "bk/requests/large", content)
    got = ask("GET", "bk/requests/large")
    end = ask("GET", "bk/requests/large", headers={"Range": f"bytes={LARGE_BYTES - 5}-"})

    assert put.status == 201
    assert got.body == content
    assert (end.status, end.body) == (206, content[-5:])
    assert ask("DELETE", "bk/requests/large").status == 204


def test_a_body_in_chunks_is_kept(scene: Scene, ask: Asking) -> None:
    with Wire(scene.envoy.port) as wire:
        wire.ask("PUT", f"{PREFIX}bk/requests/chunks", "Transfer-Encoding: chunked")
        wire.send(b"3\r\nabc\r\n")
        time.sleep(0.05)
        wire.send(b"4;x=y\r\ndefg\r\n0\r\n\r\n")
        status, _, _ = wire.answer()

    assert status == 201
    assert ask("GET", "bk/requests/chunks").body == b"abcdefg"


def test_the_cache_says_whether_a_body_may_come(scene: Scene, ask: Asking) -> None:
    expects = f"Content-Length: {len(PATTERN)}", "Expect: 100-continue"
    with Wire(scene.envoy.port) as wire:
        wire.ask("PUT", f"{PREFIX}bk/requests/expected", *expects)
        goes_on, _, _ = wire.answer()
        wire.send(PATTERN)
        put, _, _ = wire.answer()
    with Wire(scene.envoy.port) as wire:
        wire.ask("PUT", f"{PREFIX}other/requests/expected", *expects)
        refused, _, _ = wire.answer()

    assert (goes_on, put, refused) == (100, 201, 403)
    assert ask("GET", "bk/requests/expected").body == PATTERN


@pytest.mark.parametrize(
    ("name", "token", "expected"),
    [
        pytest.param("small/requests/rejected", TOKEN, 413, id="larger than the quota"),
        pytest.param("other/requests/rejected", TOKEN, 403, id="into another's bucket"),
        pytest.param("bk/requests/rejected", "wrong", 401, id="with a wrong token"),
    ],
)
def test_a_put_that_is_refused_ends_at_once_whatever_still_comes(
    scene: Scene, ask: Asking, name: str, token: str, expected: int
) -> None:
    """The cache does not read on for a gibibyte, and the client is told why; nothing is kept."""
    with Wire(scene.envoy.port) as wire:
        sending = threading.Thread(target=_send_on, args=(wire.sock,))
        wire.ask("PUT", PREFIX + name, f"Content-Length: {2**30}", token=token)
        began = time.monotonic()
        sending.start()
        status, _, _ = wire.answer()
        closed = _is_ended(wire.sock)
        sending.join(SECONDS)

    assert (status, closed) == (expected, True)
    assert not sending.is_alive()
    assert time.monotonic() - began < SECONDS
    assert ask("GET", "bk/requests/rejected").status == 404


def test_a_client_that_sends_all_before_it_reads_is_refused_too(scene: Scene) -> None:
    """As http.client does, and so pfio and ours."""
    client = CacheClient(f"http://127.0.0.1:{scene.envoy.port}", "small", token=TOKEN, timeout_seconds=SECONDS)

    with pytest.raises(CacheError):
        client.put("requests/rejected", bytes(LARGE_BYTES))

    client.put("requests/accepted", b"x")
    assert client.get("requests/accepted") == b"x"
    client.close()


def _send_on(sock: socket.socket) -> None:
    piece = bytes(2**18)
    with suppress(OSError):
        for _ in range(2**30 // len(piece)):
            sock.sendall(piece)


def _is_ended(sock: socket.socket) -> bool:
    """Whether the other side closes the connection without another byte."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_a_put_that_breaks_off_leaves_nothing(scene: Scene, ask: Asking) -> None:
    with Wire(scene.envoy.port) as wire:
        wire.ask("PUT", f"{PREFIX}bk/requests/broken", "Content-Length: 100", body=b"x" * 50)

    assert ask("GET", "bk/requests/broken").status == 404
    assert scene.holders(["bk/requests/broken"]) == [[]]


def test_a_bucket_is_listed_by_one_cache(ask: Asking) -> None:
    """Of what it has itself; docs/routing.md says so."""
    found = ask("GET", "bk?prefix=mark/")

    assert found.status == 200
    assert b'"mark/0"' in found.body


READ_TWICE = """
import sys
from pfio.v2 import from_url
folder, prefix, *names = sys.argv[1:]
with from_url(folder, http_cache=prefix) as fs:
    for name in names * 2:
        with fs.open(name, "rb") as file:
            content = file.read()
        print(name, len(content), content[:8].decode(), flush=True)
"""


def test_pfio_as_it_is_reads_through_envoy(scene: Scene, tmp_path: Path) -> None:
    folder, token = tmp_path / "data", tmp_path / "token"
    token.write_text(TOKEN)
    folder.mkdir()
    files = {"a.bin": b"content!" * 100, "empty": b"", "a%2Fb": b"escaped", "a?b": b"query"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    prefix = f"http://127.0.0.1:{scene.envoy.port}{PREFIX}bk"

    first = run_pfio(READ_TWICE, str(folder), prefix, *files, token_path=token)
    for name in files:
        (folder / name).unlink()
    without_origin = run_pfio(READ_TWICE, str(folder), prefix, *files, token_path=token)

    said = "".join(f"{name} {len(content)} {content[:8].decode()}\n" for name, content in files.items()) * 2
    assert first == without_origin == said
    names = [f"bk/file:/{folder}/{name}" for name in files]
    assert scene.holders(names) == [[node] for node in predicted(scene.members(), ZONE, names)]
