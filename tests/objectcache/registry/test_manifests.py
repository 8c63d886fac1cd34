"""Manifests and tags through the mirror, and lists that pass through."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from objectcache.registry.config import Upstream
from objectcache.registry.origins import read_origin
from tests.objectcache.caches import RunningCache
from tests.objectcache.registry.mirrors import HOST, Given, running_mirror
from tests.objectcache.registry.registries import MANIFEST, digest_of, manifest_of, running_registry

CONTENT: Final = manifest_of(b"layer")
DIGEST: Final = digest_of(CONTENT)
TAG: Final = "/v2/library/busybox/manifests/1.36"
BY_DIGEST: Final = f"/v2/library/busybox/manifests/{DIGEST}"
NAME: Final = "/v1/objects/bk/manifests/" + DIGEST.replace(":", "/")


async def test_a_manifest_is_fetched_once_and_keeps_its_media_type(
    cache: RunningCache, token_file: Path, spool_dir: Path
) -> None:
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, cache.url, token_file)) as mirror,
    ):
        registry.add_manifest(CONTENT)

        answers = await asyncio.gather(*(mirror.get(BY_DIGEST) for _ in range(5)))
        answers.append(await mirror.get(BY_DIGEST))

        for answer in answers:
            assert (answer.status, answer.body) == (200, CONTENT)
            assert answer.headers["Content-Type"] == MANIFEST
            assert answer.headers["Docker-Content-Digest"] == DIGEST
        assert registry.asked("GET", "/manifests/") == 1
        head = await mirror.get(BY_DIGEST, "HEAD")
        assert (head.headers["Content-Length"], head.body) == (str(len(CONTENT)), b"")


async def test_a_manifest_whose_media_type_its_bytes_do_not_tell_is_not_stored(
    cache: RunningCache, token_file: Path, spool_dir: Path
) -> None:
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, cache.url, token_file)) as mirror,
    ):
        digest = registry.add_manifest(b'{"schemaVersion": 1}', media_type="application/x-old+json")

        answer = await mirror.get(f"/v2/a/manifests/{digest}")

        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-old+json")
        assert not [path for method, path, _ in cache.log if method == "PUT"]


async def test_a_wrong_manifest_is_neither_sent_nor_stored(
    cache: RunningCache, token_file: Path, spool_dir: Path
) -> None:
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, cache.url, token_file)) as mirror,
    ):
        registry.add_manifest(CONTENT)
        registry.corrupt = True

        assert (await mirror.get(BY_DIGEST)).status == 502
        assert not [path for method, path, _ in cache.log if method == "PUT"]


async def test_a_wrong_manifest_in_the_cache_is_replaced(
    cache: RunningCache, token_file: Path, spool_dir: Path
) -> None:
    cache.request("PUT", NAME, manifest_of(b"another"))
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, cache.url, token_file)) as mirror,
    ):
        registry.add_manifest(CONTENT)

        assert (await mirror.get(BY_DIGEST)).body == CONTENT
        assert cache.request("GET", NAME)[2] == CONTENT


async def test_a_layer_is_never_served_as_a_manifest(cache: RunningCache, token_file: Path, spool_dir: Path) -> None:
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, cache.url, token_file)) as mirror,
    ):
        registry.add_blob(CONTENT)
        assert (await mirror.blob(DIGEST)).body == CONTENT
        await mirror.settled()

        answer = await mirror.get(BY_DIGEST)

        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")


async def test_a_tag_is_remembered_for_a_minute(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "1.36")
        newer = registry.add_manifest(manifest_of(b"newer"))

        first = await mirror.get(TAG, "HEAD", Accept=MANIFEST)
        registry.tags["1.36"] = newer
        mirror.clock.now += 59
        second = await mirror.get(TAG, "HEAD", Accept=MANIFEST)
        mirror.clock.now += 1
        third = await mirror.get(TAG, "HEAD", Accept=MANIFEST)

        assert (first.headers["Content-Type"], first.headers["Content-Length"]) == (MANIFEST, str(len(CONTENT)))
        digests = [each.headers["Docker-Content-Digest"] for each in (first, second, third)]
        assert digests == [DIGEST, DIGEST, newer]
        assert registry.asked("HEAD", "/manifests/") == 2


async def test_a_tags_manifest_is_the_one_of_its_digest(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "1.36")

        answer = await mirror.get(TAG)

        assert (answer.body, answer.headers["Docker-Content-Digest"]) == (CONTENT, DIGEST)


async def test_a_registry_that_does_not_tell_digests_is_asked_for_the_manifest(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "1.36")
        registry.says_digest = False

        assert (await mirror.get(TAG, "HEAD")).headers["Docker-Content-Digest"] == DIGEST


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_last_digest_stands_in_for_a_registry_that_is_away(spool_dir: Path, status: int) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "1.36")
        await mirror.get(TAG, "HEAD")
        registry.status = status
        mirror.clock.now += 1800

        stale, again = await mirror.get(TAG, "HEAD"), await mirror.get(TAG, "HEAD")
        mirror.clock.now += 1800
        late = await mirror.get(TAG, "HEAD")

        for answer in (stale, again):
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, DIGEST)
            assert answer.headers["Warning"] == '299 - "the registry is away; this tag is as it was 0.5 hours ago"'
        assert late.status == (503 if status == 429 else 502)
        assert sum(each == status for _, _, each in registry.log) == 2


async def test_a_tag_that_the_registry_denies_is_forgotten(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "1.36")
        await mirror.get(TAG, "HEAD")
        del registry.tags["1.36"]
        mirror.clock.now += 60

        gone = await mirror.get(TAG)
        registry.status = 500

        assert (gone.status, json.loads(gone.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
        assert (await mirror.get(TAG)).status == 502


async def test_a_digest_is_not_chosen_by_media_type(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT)

        assert (await mirror.get(BY_DIGEST, Accept="text/plain")).body == CONTENT


async def test_a_tag_of_another_configuration_is_forgotten(spool_dir: Path) -> None:
    given = Given("", spool_dir)
    async with running_registry() as registry, running_mirror(replace(given, upstream_url=registry.url)) as mirror:
        registry.add_manifest(CONTENT, "1.36")
        await mirror.get(TAG, "HEAD")

        async with running_registry() as other:
            newer = other.add_manifest(manifest_of(b"newer"), "1.36")
            mirror.application.use({HOST: Upstream(HOST, read_origin(other.url))})

            assert (await mirror.get(TAG, "HEAD")).headers["Docker-Content-Digest"] == newer


async def test_more_manifests_than_allowed_wait(spool_dir: Path) -> None:
    contents = [manifest_of(bytes([number])) for number in range(6)]
    async with (
        running_registry() as registry,
        running_mirror(Given(registry.url, spool_dir, most_documents=2)) as mirror,
    ):
        paths = [f"/v2/a/manifests/{registry.add_manifest(content)}" for content in contents]
        registry.gate = asyncio.Event()
        asking = [asyncio.ensure_future(mirror.get(path)) for path in paths]
        await mirror.until(lambda: registry.at_once[0] == 2)
        for _ in range(10):
            assert (await mirror.get("/v2/")).status == 200

        registry.gate.set()

        assert [(await each).body for each in asking] == contents
        assert registry.at_once == (0, 2)


async def test_a_large_manifest_is_one_too(spool_dir: Path) -> None:
    content = manifest_of(*(bytes([number % 256, number // 256]) for number in range(10_000)))
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        digest = registry.add_manifest(content)

        answer = await mirror.get(f"/v2/a/manifests/{digest}")

        assert len(content) > 2**20
        assert (answer.body, answer.headers["Content-Length"]) == (content, str(len(content)))


async def test_lists_pass_through_and_lead_back_to_the_mirror(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT, "a")

        tags = await mirror.get("/v2/library/busybox/tags/list")
        referrers = await mirror.get(f"/v2/library/busybox/referrers/{DIGEST}")

        assert json.loads(tags.body) == {"name": "library/busybox", "tags": ["a"]}
        assert tags.headers["Link"] == f'</v2/library/busybox/tags/list?n=1&last=a&ns={HOST}>; rel="next"'
        assert referrers.headers["Content-Type"].startswith("application/vnd.oci.image.index")
        assert referrers.headers["OCI-Filters-Applied"] == "artifactType"


async def test_the_api_is_there_and_writes_nothing(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        assert (await mirror.get("/v2/", ns="")).status == 200
        for method in ("PUT", "POST", "PATCH", "DELETE"):
            answer = await mirror.get(BY_DIGEST, method)
            assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (405, "UNSUPPORTED")
        assert registry.log == []


@pytest.mark.parametrize(
    ("path", "ns", "status"),
    [
        pytest.param(BY_DIGEST, "evil.example", 403, id="a host that is not listed"),
        pytest.param(BY_DIGEST, "169.254.169.254", 403, id="an address"),
        pytest.param(BY_DIGEST, "", 404, id="no host"),
        pytest.param("/v2/../v2/a/manifests/x", HOST, 400, id="dots are not a name"),
        pytest.param("/v2/a/%2e%2e/manifests/x", HOST, 400, id="escaped dots"),
        pytest.param("/v2/a%2Fb/manifests/x", HOST, 400, id="an escaped slash"),
        pytest.param("/v2/a//b/manifests/x", HOST, 400, id="two slashes"),
        pytest.param("/v2/A/manifests/x", HOST, 400, id="capitals"),
        pytest.param("/v2/a/blobs/sha256:abc", HOST, 400, id="a short digest"),
        pytest.param("/v2/a/blobs/md5:" + 32 * "0", HOST, 400, id="another algorithm"),
        pytest.param("/v2/a/manifests/" + 129 * "t", HOST, 400, id="a long tag"),
        pytest.param("/v2/" + "a/" * 129 + "manifests/x", HOST, 400, id="a long name"),
        pytest.param("/v1/objects/bk/x", HOST, 404, id="another API"),
        pytest.param(f"/v2/{HOST}/library/busybox/manifests/{DIGEST}", "", 200, id="the host in the path, as CRI-O"),
    ],
)
async def test_names(spool_dir: Path, path: str, ns: str, status: int) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT)
        port = int(mirror.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        writer.write(f"GET {path}{f'?ns={ns}' if ns else ''} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()

        writer.close()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert bool(registry.log) == (status == 200)


async def test_upstreams_may_change_while_it_runs(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_manifest(CONTENT)

        mirror.application.use({"other.example": Upstream("other.example", read_origin(registry.url))})

        assert (await mirror.get(BY_DIGEST)).status == 403
        assert (await mirror.get(BY_DIGEST, ns="other.example")).status == 200
