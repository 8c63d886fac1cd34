"""What clients see of objects, over real sockets, from the cache as it is shipped."""

import hashlib
import json
from base64 import b64encode
from urllib.parse import quote

import pytest
import xxhash

from tests.objectcache.caches import RunningCache
from tests.objectcache.wires import Wire

PATTERN = bytes(range(256)) * 40


def target(name: str, bucket: str = "bk") -> str:
    return f"/v1/objects/{bucket}/{name}"


def put(cache: RunningCache, name: str, body: bytes, bucket: str = "bk", **headers: str) -> int:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return cache.request("PUT", target(name, bucket), body, named)[0]


def test_what_is_put_comes_back(shared_cache: RunningCache) -> None:
    status, headers, _ = shared_cache.request("PUT", target("back"), PATTERN)
    got, got_headers, body = shared_cache.request("GET", target("back"))

    assert (status, got, body) == (201, 200, PATTERN)
    assert headers["etag"] == got_headers["etag"] == f'"{xxhash.xxh3_128_hexdigest(PATTERN)}"'
    assert got_headers["accept-ranges"] == "bytes"
    assert got_headers["content-length"] == str(len(PATTERN))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("s3://host/bucket/key", id="a URL"),
        pytest.param("a//b///c", id="empty segments"),
        pytest.param("../../../../etc/passwd", id="parents"),
        pytest.param("%2e%2e/%2e%2e/etc/passwd", id="escaped parents"),
        pytest.param("a%2Fb", id="an escaped slash"),
        pytest.param("a%00b", id="an escaped NUL"),
        pytest.param(quote("datei mit ümläuten"), id="escaped UTF-8"),
        pytest.param("question?mark=1&other#hash", id="a query and a hash"),
        pytest.param("x" * 4096, id="the longest name"),
        pytest.param(".", id="a dot"),
        pytest.param("/", id="a slash"),
    ],
)
def test_names_are_opaque(shared_cache: RunningCache, name: str) -> None:
    body = name.encode()
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target(name), f"Content-Length: {len(body)}", body=body)
        status, _, _ = wire.answer()
        wire.ask("GET", target(name))
        found = wire.answer()

    assert status == 201
    assert (found[0], found[2]) == (200, body)


def test_names_that_differ_only_in_their_escapes_are_different_objects(shared_cache: RunningCache) -> None:
    assert put(shared_cache, "esc/a/b", b"slash") == 201
    assert put(shared_cache, "esc/a%2Fb", b"escaped") == 201

    assert shared_cache.request("GET", target("esc/a/b"))[2] == b"slash"
    assert shared_cache.request("GET", target("esc/a%2Fb"))[2] == b"escaped"


def test_an_empty_object_is_an_object(shared_cache: RunningCache) -> None:
    status = put(shared_cache, "empty", b"")
    found = shared_cache.request("GET", target("empty"))

    assert status == 201
    assert (found[0], found[1]["content-length"], found[2]) == (200, "0", b"")


def test_the_last_put_counts(shared_cache: RunningCache) -> None:
    put(shared_cache, "twice", b"first")
    assert put(shared_cache, "twice", b"second") == 201

    assert shared_cache.request("GET", target("twice"))[2] == b"second"


def test_head_is_get_without_the_body(shared_cache: RunningCache) -> None:
    put(shared_cache, "head", PATTERN)
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("HEAD", target("head"))
        status, headers, _ = wire.answer(to_head=True)
        wire.ask("HEAD", target("no-such-head"))
        missing = wire.answer(to_head=True)[0]
        wire.ask("GET", target("head"))
        body = wire.answer()[2]

    assert (status, headers["content-length"]) == (200, str(len(PATTERN)))
    assert missing == 404
    assert body == PATTERN


def test_what_was_deleted_is_gone(shared_cache: RunningCache) -> None:
    put(shared_cache, "gone", b"x")

    assert shared_cache.request("DELETE", target("gone"))[0] == 204
    assert shared_cache.request("GET", target("gone"))[0] == 404
    assert shared_cache.request("DELETE", target("gone"))[0] == 404


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        pytest.param("bytes=0-0", 206, 0, 0, id="the first byte"),
        pytest.param("bytes=100-199", 206, 100, 199, id="in the middle"),
        pytest.param("bytes=10000-", 206, 10000, 10239, id="to the end"),
        pytest.param("bytes=-10", 206, 10230, 10239, id="the last ten"),
        pytest.param("bytes=0-99999", 206, 0, 10239, id="beyond the end"),
        pytest.param("bytes=0-1,5-6", 200, 0, 10239, id="several ranges: the whole"),
        pytest.param("lines=0-1", 200, 0, 10239, id="another unit: the whole"),
        pytest.param("bytes=5-1", 200, 0, 10239, id="backwards: the whole"),
    ],
)
def test_ranges(shared_cache: RunningCache, asked: str, status: int, first: int, last: int) -> None:
    put(shared_cache, "ranges", PATTERN)
    found = shared_cache.request("GET", target("ranges"), headers={"Range": asked})

    assert found[0] == status
    assert found[2] == PATTERN[first : last + 1]
    if status == 206:
        assert found[1]["content-range"] == f"bytes {first}-{last}/10240"


def test_a_range_behind_the_end_is_refused_with_the_size(shared_cache: RunningCache) -> None:
    put(shared_cache, "short", b"12345")
    status, headers, _ = shared_cache.request("GET", target("short"), headers={"Range": "bytes=5-"})

    assert (status, headers["content-range"]) == (416, "bytes */5")


def test_conditions(shared_cache: RunningCache) -> None:
    put(shared_cache, "conditional", b"one")
    etag = shared_cache.request("HEAD", target("conditional"))[1]["etag"]
    one, two = {"If-None-Match": etag}, {"If-Range": '"0"', "Range": "bytes=0-0"}

    assert shared_cache.request("GET", target("conditional"), headers=one)[0] == 304
    assert shared_cache.request("GET", target("conditional"), headers=two)[0] == 200
    assert shared_cache.request("GET", target("conditional"), headers={"If-Match": f'"{"0" * 32}"'})[0] == 412
    assert put(shared_cache, "conditional", b"two", If_None_Match="*") == 412
    assert put(shared_cache, "conditional", b"two", If_Match=f'"{"0" * 32}"') == 412
    assert put(shared_cache, "conditional", b"two", If_Match=etag) == 201
    assert put(shared_cache, "conditional-new", b"two", If_None_Match="*") == 201
    assert shared_cache.request("DELETE", target("conditional"), headers={"If-Match": etag})[0] == 412
    assert shared_cache.request("GET", target("conditional"))[2] == b"two"


def test_a_body_in_chunks(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("chunks"), "Transfer-Encoding: chunked")
        for piece in (b"a" * 10, PATTERN * 200, b"z"):
            wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        wire.send(b"0\r\n\r\n")
        status = wire.answer()[0]
        wire.ask("GET", target("chunks"))
        found = wire.answer()

    assert (status, found[0]) == (201, 200)
    assert found[2] == b"a" * 10 + PATTERN * 200 + b"z"


def test_the_client_is_told_to_go_on_before_it_sends_the_body(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("expected"), "Expect: 100-continue", "Content-Length: 3")
        first = wire.answer()[0]
        wire.send(b"abc")
        second = wire.answer()[0]

    assert (first, second) == (100, 201)


def test_a_refused_body_is_refused_before_it_is_sent(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("x", "other"), "Expect: 100-continue", f"Content-Length: {2**20}")
        status, headers, _ = wire.answer()

        assert (status, headers["connection"]) == (403, "close")
        assert wire.is_closed()


def test_a_body_larger_than_the_bucket_is_refused_before_it_is_sent(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("big", "small"), f"Content-Length: {2**20 + 1}")
        status, _, text = wire.answer()

    assert status == 413
    assert b"1048576" in text


def test_a_body_in_chunks_that_becomes_larger_than_the_bucket_is_refused(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("big", "small"), "Transfer-Encoding: chunked")
        for _ in range(3):
            wire.send(b"80000\r\n%b\r\n" % bytes(0x80000))

        assert wire.answer()[0] == 413


def test_a_body_without_a_size_is_refused(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.ask("PUT", target("sizeless"))

        assert wire.answer()[0] == 411


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_body_is_held_to_its_digest(shared_cache: RunningCache, algorithm: str) -> None:
    digest = hashlib.new(algorithm.replace("-", ""), b"right").digest()
    held = {"Content_Digest": f"{algorithm}=:{b64encode(digest).decode()}:"}

    assert put(shared_cache, "digest", b"wrong", **held) == 400
    assert shared_cache.request("GET", target("digest"))[0] == 404
    assert put(shared_cache, "digest", b"right", **held) == 201
    shared_cache.request("DELETE", target("digest"))


def test_requests_that_are_sent_ahead_are_answered_in_order(shared_cache: RunningCache) -> None:
    put(shared_cache, "ahead-1", b"one")
    put(shared_cache, "ahead-2", b"two" * 100_000)
    with Wire(shared_cache.direct_port) as wire:
        head = "Host: cache\r\nAuthorization: Bearer token-of-research\r\n"
        wire.send(
            b"".join(
                f"{method} {target(name)} HTTP/1.1\r\n{head}{more}\r\n{body}".encode()
                for method, name, more, body in [
                    ("GET", "ahead-1", "", ""),
                    ("GET", "ahead-2", "", ""),
                    ("PUT", "ahead-3", "Content-Length: 5\r\n", "three"),
                    ("GET", "ahead-3", "", ""),
                    ("HEAD", "ahead-1", "", ""),
                ]
            )
        )
        found = [wire.answer() for _ in range(4)]
        last = wire.answer(to_head=True)

    assert [(status, body) for status, _, body in found] == [
        (200, b"one"), (200, b"two" * 100_000), (201, b""), (200, b"three"),
    ]  # fmt: skip
    assert last[0] == 200


def test_a_large_object_comes_back_whole(shared_cache: RunningCache) -> None:
    body = hashlib.shake_128(b"large").digest(24 * 2**20)

    assert put(shared_cache, "large", body) == 201
    assert shared_cache.request("GET", target("large"))[2] == body
    shared_cache.request("DELETE", target("large"))


def test_who_may_do_what(shared_cache: RunningCache) -> None:
    def status(method: str, bucket: str, token: str) -> int:
        return shared_cache.request(method, target("who", bucket), b"x" if method == "PUT" else None, token=token)[0]

    assert status("PUT", "bk", "token-of-research") == 201
    assert status("GET", "bk", "token-of-other") == 403
    assert status("PUT", "bk", "token-of-other") == 403
    assert status("DELETE", "bk", "token-of-other") == 403
    assert status("PUT", "public", "token-of-other") == 403
    assert status("PUT", "public", "token-of-research") == 201
    assert status("GET", "public", "token-of-other") == 200
    assert status("PUT", "open", "token-of-other") == 201
    assert status("GET", "open", "token-of-research") == 200
    assert status("GET", "no-such-bucket", "token-of-other") == 403
    assert status("GET", "bk", "wrong") == 401


def test_a_request_without_a_token_is_challenged(shared_cache: RunningCache) -> None:
    with Wire(shared_cache.direct_port) as wire:
        wire.send(f"GET {target('x')} HTTP/1.1\r\nHost: cache\r\n\r\n".encode())
        status, headers, _ = wire.answer()

    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")


def test_buckets_are_listed_by_pages(shared_cache: RunningCache) -> None:
    names = [f"listed/{number:03}" for number in range(25)]
    for name in names:
        put(shared_cache, name, b"abc", "open")
    found: list[str] = []
    after = ""
    while True:
        query = f"?prefix=listed/&limit=10&after={quote(after)}"
        page = json.loads(shared_cache.request("GET", f"/v1/objects/open{query}")[2])
        found += [each["name"] for each in page["objects"]]
        if not page["more"]:
            break
        after = found[-1]

    assert found == names
    assert {each["bytes"] for each in page["objects"]} == {3}


def test_the_summary_tells_what_the_caller_may_read(shared_cache: RunningCache) -> None:
    put(shared_cache, "summed", b"12345", "public")
    status, headers, body = shared_cache.request("GET", "/v1/summary", token="token-of-other")
    again = shared_cache.request(
        "GET", "/v1/summary", headers={"If-None-Match": headers["etag"]}, token="token-of-other"
    )
    buckets = {each["name"]: each for each in json.loads(body)["buckets"]}

    assert status == 200
    assert {*buckets} == {"open", "other", "public"}
    assert buckets["public"]["bytes"] >= 5
    assert again[0] == 304


def test_pinned_objects_have_a_quota_of_their_own(shared_cache: RunningCache) -> None:
    assert put(shared_cache, "pinned", b"x" * 2**20, Tasuki_Pinned="true") == 201
    assert put(shared_cache, "pinned-too", b"x", Tasuki_Pinned="true") == 507
    assert shared_cache.request("DELETE", target("pinned"))[0] == 204
    assert put(shared_cache, "pinned-too", b"x", Tasuki_Pinned="true") == 201
    shared_cache.request("DELETE", target("pinned-too"))


def test_a_bucket_that_is_full_makes_room_for_what_is_new(shared_cache: RunningCache) -> None:
    for number in range(8):
        assert put(shared_cache, f"full-{number}", bytes(2**18), "small") == 201

    kept = [shared_cache.request("HEAD", target(f"full-{number}", "small"))[0] for number in range(8)]
    assert kept.count(200) <= 4
    assert kept[-1] == 200


def test_http_1_0_is_answered_too(shared_cache: RunningCache) -> None:
    put(shared_cache, "old", b"x")
    with Wire(shared_cache.direct_port) as wire:
        wire.send(f"GET {target('old')} HTTP/1.0\r\nAuthorization: Bearer token-of-research\r\n\r\n".encode())

        assert wire.answer()[2] == b"x"
        assert wire.is_closed()


def test_what_is_counted(shared_cache: RunningCache) -> None:
    put(shared_cache, "counted", b"12345", "open")
    shared_cache.request("GET", target("counted", "open"))
    shared_cache.request("GET", target("not-counted", "open"))
    page = shared_cache.page("/metrics")

    assert 'tasuki_cache_hits_total{bucket="open"}' in page
    assert 'tasuki_cache_misses_total{bucket="open"}' in page
    assert 'tasuki_cache_requests_total{status="201",verb="PUT"}' in page
    assert 'tasuki_cache_request_seconds_bucket{le="+Inf",verb="GET"}' in page
