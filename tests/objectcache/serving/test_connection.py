"""What a connection sends when its socket takes little or nothing."""

from pathlib import Path

import pytest

from tests.objectcache.serving.workers import Client, turned


def fill(client: Client) -> int:
    """Leave no room in the socket; so many bytes."""
    filled = 0
    while True:
        try:
            filled += client.connection.sock.send(bytes(2**16))
        except BlockingIOError:
            return filled


def take_all(client: Client, filled: int, size: int) -> bytes:
    """What was sent behind what filled the socket."""
    received = b""
    for _ in range(100):
        received += client.take() if len(received) < filled else b""
        if len(received) >= filled:
            client.worker.tick()
            client.connection.writable()
            client.worker.queue.round(client.worker.step, 2**20)
            if len(received) == filled + size:
                break
            received += client.take()
    return received[filled:]


@pytest.mark.parametrize("size", [1, 4096, 2**15, 2**15 + 1, 2**18])
def test_an_answer_that_finds_the_socket_full_comes_whole(tmp_path: Path, size: int) -> None:
    content = bytes(range(1, 256)) * (size // 255 + 1)
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", content[:size])
        client.ask("a")
        whole = len(client.take())
        filled = fill(client)
        client.ask("a")
        head, _, body = take_all(client, filled, whole).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == content[:size]
