"""Layers that are wrong, late, refused, or too large, and a mirror without its cache or its registry."""

import asyncio
import contextlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from objectcache.registry.digests import read_digest
from tests.objectcache.caches import RunningCache, running_cache
from tests.objectcache.registry.mirrors import HOST, Given, running_mirror, upstream
from tests.objectcache.registry.registries import Registry, digest_of, running_registry

LAYER: Final = random.Random(1).randbytes(1_500_000)
DIGEST: Final = digest_of(LAYER)
NAME: Final = "/v1/objects/bk/" + DIGEST.replace(":", "/")

MakeGiven = Callable[..., Given]


@pytest.fixture
def given(cache: RunningCache, token_file: Path, spool_dir: Path) -> MakeGiven:
    def make(registry: Registry, **changes: object) -> Given:
        made = {"cache_url": cache.url, "token_file": token_file, **changes}
        return Given(registry.url, spool_dir, **made)  # type: ignore[arg-type]  # each test knows its fields

    return make


def puts(cache: RunningCache) -> list[tuple[str, int]]:
    return [(path, status) for method, path, status in cache.log if method == "PUT"]


async def test_a_corrupt_layer_is_broken_off_and_not_stored(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.corrupt = True

        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(DIGEST)
        await mirror.settled()

        assert puts(cache) == []
        assert mirror.count("fetches", outcome="corrupt") == 1
        registry.corrupt = False
        assert (await mirror.blob(DIGEST)).body == LAYER


async def test_a_small_corrupt_layer_is_refused_with_a_status(given: MakeGiven, cache: RunningCache) -> None:
    """So that containerd goes on to its next host: it would ask this one for the rest of what began."""
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(b"a configuration")
        registry.corrupt = True

        answer = await mirror.blob(digest_of(b"a configuration"))

        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (502, "BLOB_UNKNOWN")
        assert puts(cache) == []


@pytest.mark.parametrize("wrong", ["corrupt", "cut"])
async def test_the_rest_of_a_layer_that_will_not_come_is_refused_with_a_status(given: MakeGiven, wrong: str) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.corrupt, registry.cut = wrong == "corrupt", 1000 if wrong == "cut" else -1

        answer = await mirror.blob(DIGEST, Range=f"bytes={len(LAYER) - 1}-")

        assert (answer.status, mirror.count("requests", kind="blob", outcome="unavailable")) == (502, 1)


async def test_a_layer_that_the_registry_breaks_off_is_resumed(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        layer = LAYER * 4
        registry.add_blob(layer)
        registry.cut = 4 * 2**20

        answer = await mirror.blob(digest_of(layer))
        await mirror.settled()

        assert answer.body == layer
        assert len(puts(cache)) == 1
        assert mirror.count("received_bytes") == len(layer)
        assert registry.asked("GET", "/blobs/") == 2


@pytest.mark.parametrize("span", [pytest.param("bytes 7-8/9", id="another part"), pytest.param("", id="the whole")])
async def test_a_layer_is_not_resumed_with_anything_else(given: MakeGiven, cache: RunningCache, span: str) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        layer = LAYER * 4
        registry.add_blob(layer)
        registry.cut, registry.span, registry.ignores_range = 4 * 2**20, span, not span

        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(digest_of(layer))
        await mirror.settled()

        assert puts(cache) == []
        assert registry.asked("GET", "/blobs/") == 2


async def test_a_truncated_layer_is_broken_off_and_not_stored(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.cut = 1000

        # Refused, unless the beginning was sent by the time that the rest did not come.
        with contextlib.suppress(aiohttp.ClientPayloadError):
            assert (await mirror.blob(DIGEST)).status == 502
        await mirror.settled()

        assert puts(cache) == []
        assert mirror.count("fetches", outcome="failed") == 1
        assert mirror.spool.used_bytes == 0


async def test_an_empty_answer_is_no_layer(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.blobs[DIGEST] = b""

        assert (await mirror.blob(DIGEST)).status == 502
        assert puts(cache) == []


async def test_a_registry_that_drips_is_given_up(
    given: MakeGiven, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("objectcache.registry.fetching._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("objectcache.registry.fetching._LEAST_BYTES_PER_SECOND", len(LAYER) * 5)
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.gate = asyncio.Event()

        with contextlib.suppress(aiohttp.ClientPayloadError):
            assert (await mirror.blob(DIGEST)).status == 504
        await mirror.settled()

        assert mirror.count("fetches", outcome="failed") == 1
        assert "too slowly" in caplog.text
        registry.gate.set()


async def test_a_registry_that_ceases_to_send_is_given_up(given: MakeGiven) -> None:
    async with running_registry() as registry, running_mirror(given(registry, silent_seconds=1.0)) as mirror:
        registry.add_blob(LAYER)
        registry.gate = asyncio.Event()

        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(DIGEST)
        await mirror.settled()

        assert mirror.count("fetches", outcome="failed") == 1
        registry.gate.set()


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        pytest.param(404, 404, "NAME_UNKNOWN", id="there is none"),
        pytest.param(403, 403, "DENIED", id="not for us"),
        pytest.param(429, 503, "TOOMANYREQUESTS", id="too many requests, which containerd would repeat at once"),
        pytest.param(500, 502, "UNAVAILABLE", id="broken"),
    ],
)
async def test_a_registry_that_refuses(given: MakeGiven, status: int, told: int, code: str) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.status, registry.retry_after = status, "17"

        answer = await mirror.blob(DIGEST)

        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (told, code)
        assert answer.headers.get("Retry-After") == ("17" if status == 429 else None)


async def test_without_a_registry_hits_are_served_and_the_rest_is_502(given: MakeGiven) -> None:
    async with running_registry() as registry:
        registry.add_blob(LAYER)
        made = given(registry)
        async with running_mirror(made) as mirror:
            await mirror.blob(DIGEST)
            await mirror.settled()

    async with running_mirror(made) as mirror:
        missing = await mirror.blob(digest_of(b"x"))

        assert (await mirror.blob(DIGEST)).body == LAYER
        assert (missing.status, json.loads(missing.body)["errors"][0]["code"]) == (502, "UNAVAILABLE")


async def test_without_a_cache_the_registry_is_enough(given: MakeGiven) -> None:
    async with (
        running_registry() as registry,
        running_mirror(given(registry, cache_url="http://127.0.0.1:9")) as mirror,
    ):
        registry.add_blob(LAYER)

        assert (await mirror.blob(DIGEST)).body == LAYER
        assert "the cache cannot be used" in mirror.notes[-1]


@pytest.mark.parametrize(
    ("token", "note"),
    [
        pytest.param("other", "--cache-token", id="a token that the cache does not know"),
        pytest.param("", "no token in it", id="no token in the file"),
    ],
)
async def test_a_cache_that_refuses(given: MakeGiven, tmp_path: Path, token: str, note: str) -> None:
    file = tmp_path / "another-token"
    file.write_text(token)
    async with running_registry() as registry, running_mirror(given(registry, token_file=file)) as mirror:
        registry.add_blob(LAYER)

        answer = await mirror.blob(DIGEST)
        await mirror.settled()

        assert answer.body == LAYER
        assert any(note in each for each in mirror.notes)
        assert token not in "".join(mirror.notes) or not token


async def test_a_wrong_layer_in_the_cache_is_broken_off_and_removed(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        headers = {"Authorization": f"Bearer {cache.token}"}
        async with mirror.session.put(cache.url + NAME, data=io.BytesIO(bytes(len(LAYER))), headers=headers) as stored:
            assert stored.status == 201

        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(DIGEST)

        assert ("DELETE", NAME, 204) in cache.log
        assert mirror.count("corrupt_hits") == 1
        assert (await mirror.blob(DIGEST)).body == LAYER


async def test_a_part_that_the_cache_does_not_begin_to_send_is_fetched(given: MakeGiven) -> None:
    """As where its disk cannot be read: containerd asks for the rest, and would be broken off there again."""

    async def break_off(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=206, headers={"Content-Range": f"bytes 9-{len(LAYER) - 1}/{len(LAYER)}"})
        answer.content_length = len(LAYER) - 9
        await answer.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return answer

    application = web.Application()
    application.router.add_get("/{name:.+}", break_off)
    async with running_registry() as registry, TestServer(application) as broken:
        registry.add_blob(LAYER)
        async with running_mirror(given(registry, cache_url=str(broken.make_url("")))) as mirror:
            answer = await mirror.blob(DIGEST, Range="bytes=9-")

            assert (answer.status, answer.body) == (206, LAYER[9:])
            assert mirror.count("requests", kind="blob", outcome="fetched") == 1


@pytest.mark.parametrize("wrong", [pytest.param(bytes(999), id="another"), pytest.param(b"", id="an empty one")])
async def test_a_wrong_small_layer_in_the_cache_is_replaced(
    given: MakeGiven, cache: RunningCache, wrong: bytes
) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        layer = b"small" * 100
        digest = registry.add_blob(layer)
        name = "/v1/objects/bk/" + digest.replace(":", "/")
        assert cache.request("PUT", name, wrong)[0] == 201

        answer = await mirror.blob(digest)
        await mirror.settled()

        assert (answer.status, answer.body) == (200, layer)
        assert mirror.count("corrupt_hits") == 1
        assert cache.request("GET", name)[2] == layer


@pytest.mark.parametrize(
    "span",
    [
        pytest.param("bytes 10-1499999/1500000", id="another part"),
        pytest.param("bytes 9-1500000/1500000", id="more than there is"),
        pytest.param("bytes */1500000", id="nothing"),
        pytest.param("all of it", id="no part"),
    ],
)
async def test_a_part_that_was_not_asked_for_is_not_passed_on(given: MakeGiven, span: str) -> None:
    async with running_registry() as registry, running_mirror(given(registry, spool_bytes=1)) as mirror:
        registry.add_blob(LAYER)
        registry.span = span

        assert (await mirror.blob(DIGEST, Range="bytes=9-")).status == 502


async def test_a_part_that_is_shorter_than_it_says_is_broken_off(
    given: MakeGiven, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.quiet, registry.span = True, "bytes 9-1999999/2000000"

        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(DIGEST, Range="bytes=9-")

        assert "sends less than it said" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spool_bytes": 1_000_000}, id="too large for the spool"),
        pytest.param({"quiet": True}, id="of unknown size"),
    ],
)
async def test_a_layer_that_cannot_be_kept_is_passed_through(
    given: MakeGiven, cache: RunningCache, changes: dict[str, object]
) -> None:
    quiet = bool(changes.pop("quiet", False))
    async with running_registry() as registry, running_mirror(given(registry, **changes)) as mirror:
        registry.add_blob(LAYER)
        registry.quiet = quiet

        whole, part = await mirror.blob(DIGEST), await mirror.blob(DIGEST, Range="bytes=9-")
        registry.corrupt = True
        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.blob(DIGEST)

        assert (whole.body, part.body) == (LAYER, LAYER[9:])
        assert puts(cache) == []
        await mirror.answered("passed", 2)


async def test_what_another_repository_is_refused_is_asked_for_by_ones_own(given: MakeGiven, spool_dir: Path) -> None:
    async with running_registry() as good, running_registry() as bad:
        good.add_blob(LAYER)
        bad.add_blob(LAYER)
        bad.status, bad.gate = 404, asyncio.Event()
        upstreams = {HOST: upstream(Given(good.url, spool_dir)), "bad.example": upstream(Given(bad.url, spool_dir))}
        async with running_mirror(given(good, upstreams=upstreams)) as mirror:
            refused = asyncio.ensure_future(mirror.blob(DIGEST, ns="bad.example"))
            await mirror.until(lambda: len(mirror.fetches) == 1)
            answer = asyncio.ensure_future(mirror.blob(DIGEST))
            fetch = mirror.fetches.running(read_digest(DIGEST))
            assert fetch is not None
            await mirror.until(lambda: fetch._users == 3)

            bad.gate.set()

            assert ((await refused).status, (await answer).body) == (404, LAYER)


async def test_more_fetches_than_allowed_wait(given: MakeGiven) -> None:
    layers = [random.Random(seed).randbytes(10_000) for seed in range(6)]
    async with running_registry() as registry, running_mirror(given(registry, most_fetches=2)) as mirror:
        digests = [registry.add_blob(layer) for layer in layers]
        registry.gate = asyncio.Event()
        asking = [asyncio.ensure_future(mirror.blob(digest)) for digest in digests]
        await mirror.until(lambda: len(mirror.fetches) == 6 and registry.at_once[0] == 2)

        registry.gate.set()

        assert [(await each).body for each in asking] == layers
        assert registry.at_once == (0, 2)


async def test_the_token_is_read_again(spool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.registry.cache._TOKEN_SECONDS", 0.0)
    file, folder = tmp_path / "token", tmp_path / "rotating"
    folder.mkdir()
    file.write_text("first")
    with running_cache(folder, tokens={"second": "research"}) as cache:
        async with running_registry() as registry:
            registry.add_blob(LAYER)
            async with running_mirror(Given(registry.url, spool_dir, cache.url, file)) as mirror:
                await mirror.blob(DIGEST)
                await mirror.settled()
                file.write_text("second")
                await mirror.blob(DIGEST)
                await mirror.settled()

    assert [status for _, status in puts(cache)] == [401, 201]
