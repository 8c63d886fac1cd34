"""The client, over real sockets."""

import logging
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from objectcache.client.address import AddressError, bucket_address
from objectcache.client.client import CacheClient
from objectcache.client.errors import RefusedError, UnreachableError
from tests.objectcache.caches import TOKEN, RunningCache
from tests.objectcache.client.odd_server import Said, answer, odd_server


@pytest.fixture
def client(cache: RunningCache) -> Iterator[CacheClient]:
    client = CacheClient(cache.url, "bk", token=TOKEN)
    yield client
    client.close()


def test_an_object_comes_back_whole_and_in_parts(client: CacheClient) -> None:
    client.put("a b/ねこ", b"0123456789")

    found = [client.get("a b/ねこ", *span) for span in [(), (2, 5), (7,), (-3,), (8, 99), (50, 60), (3, 3)]]

    assert found == [b"0123456789", b"234", b"789", b"789", b"89", b"", b""]


def test_a_miss_is_none_everywhere(client: CacheClient) -> None:
    assert client.get("x") is None
    assert client.get("x", 1, 2) is None
    assert client.get("x", 1, 1) is None
    assert client.head("x") is None
    assert client.delete("x") is False


def test_an_object_is_stated_and_deleted(client: CacheClient) -> None:
    client.put("x", b"abc")

    stated = client.head("x")

    assert stated is not None
    assert stated.size_bytes == 3
    assert stated.etag
    assert client.delete("x") is True
    assert client.get("x") is None


def test_an_empty_object_is_a_hit(client: CacheClient) -> None:
    client.put("x", b"")

    assert client.get("x") == b""


def test_names_are_sent_as_they_are_documented(cache: RunningCache, client: CacheClient) -> None:
    client.get("s3://bucket/a//b/../c d?")

    assert cache.log == [("GET", "/v1/objects/bk/s3://bucket/a//b/../c%20d%3F", 404)]


@pytest.mark.parametrize("suffix", ["", "/", "/v1/objects", "/v1/objects/"])
def test_a_url_with_and_without_its_path(cache: RunningCache, suffix: str) -> None:
    client = CacheClient(cache.url + suffix, "bk", token=TOKEN)

    client.put("x", b"1")

    assert cache.log == [("PUT", "/v1/objects/bk/x", 201)]
    client.close()


@pytest.mark.parametrize(
    ("url", "bucket", "said"),
    [
        ("cache:8080", "bk", "such as http://"),
        ("ftp://cache", "bk", "such as http://"),
        ("http://user:secret@cache", "bk", "password"),
        ("http://cache:99999", "bk", "such as http://"),
        ("http://cache/a b", "bk", "characters"),
        ("http://cache", "BK", "lower-case"),
        ("http://cache", "a/b", "lower-case"),
        ("http://cache", "", "lower-case"),
    ],
)
def test_a_bad_address_is_refused(url: str, bucket: str, said: str) -> None:
    with pytest.raises(AddressError, match=said) as found:
        bucket_address(url, bucket)

    assert "secret" not in str(found.value)


def test_addresses_of_ipv6_and_tls() -> None:
    assert bucket_address("https://[::1]/x", "bk").base_url == "https://[::1]:443"
    assert bucket_address("https://[::1]/x", "bk").path == "/x/v1/objects/bk"


def test_a_wrong_token_and_a_wrong_bucket_are_refusals_without_the_token(cache: RunningCache) -> None:
    for bucket, token, status in (("bk", "wrong-token", 401), ("other", TOKEN, 403)):
        client = CacheClient(cache.url, bucket, token=token)

        with pytest.raises(RefusedError) as found:
            client.get("x")

        assert found.value.status == status
        assert token not in str(found.value) + repr(client)
        client.close()


def test_a_token_that_was_renewed_just_now_is_tried_again(
    cache: RunningCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the machine takes, it is not read again only for its age.
    monkeypatch.setattr("objectcache.client.tokens._FRESH_SECONDS", 3600.0)
    path = tmp_path / "token"
    path.write_text("old")
    client = CacheClient(cache.url, "bk", token_path=path)
    with pytest.raises(RefusedError):
        client.get("x")
    path.write_text(TOKEN)

    client.put("x", b"abc")

    assert client.get("x") == b"abc"
    assert [status for _, _, status in cache.log] == [401, 401, 201, 200]
    client.close()


def test_no_server_is_unreachable() -> None:
    client = CacheClient("http://127.0.0.1:1", "bk")

    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1"):
        client.get("x")


def test_a_server_that_says_nothing_is_unreachable() -> None:
    with odd_server([Said(b"", hangs=True)]) as server:
        client = CacheClient(server.url, "bk", timeout_seconds=0.2)

        with pytest.raises(UnreachableError, match="timed out"):
            client.get("x")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", id="less than it said"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nwhole?", id="without a length"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another protocol"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_answer_that_breaks_off_is_never_content(said: bytes) -> None:
    with odd_server([Said(said, closes=True)]) as server:
        client = CacheClient(server.url, "bk", timeout_seconds=2)

        with pytest.raises(UnreachableError):
            client.get("x")


def test_a_connection_is_kept_and_a_dropped_one_is_replaced() -> None:
    script: list[Said | bytes] = [answer(200, b"1"), Said(answer(200, b"2"), closes=True), answer(200, b"3")]
    with odd_server(script) as server:
        client = CacheClient(server.url, "bk")

        found = [client.get("x"), client.get("x"), client.get("x")]

        assert found == [b"1", b"2", b"3"]
        assert server.connections == 2
        client.close()


def test_a_request_on_a_connection_that_the_server_drops_is_sent_once_more() -> None:
    script: list[Said | bytes] = [answer(200, b"1"), Said(b"", closes=True), answer(201)]
    with odd_server(script) as server:
        client = CacheClient(server.url, "bk")
        client.get("x")

        client.put("x", b"abc")

        assert [each[:3] for each in server.requests] == [b"GET", b"PUT", b"PUT"]
        assert server.requests[2].endswith(b"abc")
        client.close()


def test_a_new_connection_that_the_server_drops_is_not_tried_again() -> None:
    with odd_server([Said(b"", closes=True), answer(200, b"1")]) as server:
        client = CacheClient(server.url, "bk")

        with pytest.raises(UnreachableError):
            client.get("x")

        assert len(server.requests) == 1


def test_a_refusal_before_the_body_was_read_is_heard() -> None:
    with odd_server([Said(answer(413, b"too large\n", "Connection: close"), closes=True, reads_body=False)]) as server:
        client = CacheClient(server.url, "bk", timeout_seconds=5)

        with pytest.raises((RefusedError, UnreachableError)) as found:
            client.put("x", bytes(30_000_000))

        # A reset may overtake the answer; either way it is a failure of this request alone.
        assert getattr(found.value, "status", 413) == 413


def test_pages_are_followed_to_the_end() -> None:
    pages = [
        b'{"objects":[{"name":"a%20b","bytes":1},{"nameBase64":"/w==","bytes":2}],"more":true}',
        b'{"objects":[{"name":"d","bytes":3}],"more":false}',
    ]
    with odd_server([answer(200, each) for each in pages]) as server:
        client = CacheClient(server.url, "bk")

        found = [(each.name, each.size_bytes) for each in client.list("a&b")]

        assert found == [(b"a b", 1), (b"\xff", 2), (b"d", 3)]
        targets = [each.split(b" ")[1] for each in server.requests]
        assert targets[0] == b"/v1/objects/bk?prefix=a%26b&limit=1000"
        assert targets[1] == b"/v1/objects/bk?prefix=a%26b&after=%FF&limit=1000"
        client.close()


def test_a_bucket_is_listed(client: CacheClient) -> None:
    for name in ("a b", "ねこ", "s3://x/y"):
        client.put(name, b"abc")

    found = list(client.list())

    assert [each.name.decode() for each in found] == ["ねこ", "a b", "s3://x/y"]
    assert {each.size_bytes for each in found} == {3}
    assert [each.name for each in client.list("s3://x/")] == [b"s3://x/y"]
    stated = client.head("a b")
    assert stated is not None
    assert found[1].etag == stated.etag
    assert [each.name for each in client.list_page(limit=1).objects] == ["ねこ".encode()]


def test_threads_share_a_client(cache: RunningCache, client: CacheClient) -> None:
    client.put("x", b"abc" * 1000)

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: client.get("x"), range(200)))

    assert found == {b"abc" * 1000}


def test_a_forked_child_uses_connections_of_its_own(cache: RunningCache, client: CacheClient) -> None:
    client.put("x", b"from the parent")
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sending.send_bytes(client.get("x") or b""))
    child.start()

    mine = [client.get("x") for _ in range(5)]
    theirs = receiving.recv_bytes() if receiving.poll(20) else None
    child.join(20)

    assert (mine, theirs, child.exitcode) == ([b"from the parent"] * 5, b"from the parent", 0)


def test_a_client_can_be_pickled_with_its_connections_left_behind(cache: RunningCache, client: CacheClient) -> None:
    client.put("x", b"1")

    other = pickle.loads(pickle.dumps(client))

    assert other.get("x") == b"1"
    other.close()


def test_an_owner_is_envoys_whatever_the_order_of_the_nodes() -> None:
    client = CacheClient("http://cache", "bk", nodes={"node-c": 1, "node-a": 1, "node-b": 1})

    assert client.owner("s3://h/bucket/key") == "node-b"


def test_nothing_is_logged_of_a_token(cache: RunningCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = CacheClient(cache.url, "bk", token="wrong-token")

    with pytest.raises(RefusedError):
        client.put("x", b"1")

    assert "wrong-token" not in caplog.text
    client.close()


def test_sockets_do_not_grow_with_requests(cache: RunningCache, client: CacheClient) -> None:
    client.get("x")
    before, threads = _open_files(), threading.active_count()

    for _ in range(50):
        client.get("x")

    assert _open_files() == before
    assert threading.active_count() == threads


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
