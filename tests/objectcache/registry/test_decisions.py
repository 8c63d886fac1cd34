"""What is decided without a socket."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from objectcache.registry.challenges import Challenge, read_challenges
from objectcache.registry.config import Credentials, Upstream, read_logins, read_upstreams
from objectcache.registry.digests import Digest, read_digest, sha256_of
from objectcache.registry.manifests import media_type_of
from objectcache.registry.origins import Origin, is_public, origin_of, read_origin
from objectcache.registry.ranges import Range, read_content_range, read_range, within
from objectcache.registry.tags import Resolved, TagKey, TagMemory
from tasuki.process.document import ConfigError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@given(st.binary())
def test_a_digest_is_read_as_it_is_written(content: bytes) -> None:
    digest = sha256_of(content)

    assert read_digest(str(digest)) == digest
    assert digest.is_of(content)
    assert base64.b64decode(digest.content_digest.removeprefix("sha-256=:").removesuffix(":")).hex() in str(digest)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + 64 * "A", "sha256:" + 63 * "0", "sha512:" + 64 * "0", "x"])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="is no digest"):
        read_digest(text)


def test_layers_and_manifests_are_apart() -> None:
    digest = Digest("sha512", 128 * "0")

    assert {digest.blob_name, digest.manifest_name} == {"sha512/" + 128 * "0", "manifests/sha512/" + 128 * "0"}


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.one_of(st.none(), st.integers(0, 60)))
def test_a_range_is_what_a_slice_gives(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    asked = read_range(f"bytes={'' if first is None else first}-{'' if last is None else last}")
    if asked is None:
        assert (first is None and last is None) or (first is not None and last is not None and last < first)
        return
    expected = (
        content[max(0, size - (last or 0)) :] if first is None else content[first : None if last is None else last + 1]
    )

    span = within(asked, size)

    assert (content[span[0] : span[1] + 1] if span else b"") == expected
    assert read_range(str(asked)) == asked


def test_a_range_is_one_range() -> None:
    assert read_range("bytes=0-1,3-4") is None
    assert read_range("bytes=0-1") == Range(0, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", (0, 9, 10)),
        ("bytes */10", (0, -1, 10)),
        ("bytes 0-10/10", None),
        ("bytes 5-4/10", None),
        ("bytes 0-9/*", None),
        ("", None),
    ],
)
def test_which_part_an_answer_is(text: str, expected: tuple[int, int, int] | None) -> None:
    assert read_content_range(text) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, INDEX, id="it says so"),
        pytest.param({"schemaVersion": 2, "manifests": []}, INDEX, id="an index by what is in it"),
        pytest.param({"schemaVersion": 2, "layers": []}, MANIFEST, id="a manifest by what is in it"),
        pytest.param({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "layers": []}, "", id="both"),
        pytest.param({"schemaVersion": 2}, "", id="neither"),
        pytest.param({"schemaVersion": 1, "manifests": []}, "", id="the first schema"),
        pytest.param({"schemaVersion": 2, "mediaType": "a/b\r\nX: y", "layers": []}, "", id="a header in it"),
        pytest.param([], "", id="a list"),
    ],
)
def test_a_manifests_media_type(written: object, expected: str) -> None:
    assert media_type_of(json.dumps(written).encode()) == expected


@given(st.binary(max_size=200))
def test_any_bytes_have_a_media_type_or_none(content: bytes) -> None:
    assert media_type_of(content) == ""


def test_challenges() -> None:
    header = 'Basic realm="a, b", Bearer realm="https://r/t?x=\\"1\\"",service=s , scope="repository:a:pull,push"'

    assert read_challenges([header, "Negotiate"]) == (
        Challenge("basic", {"realm": "a, b"}),
        Challenge("bearer", {"realm": 'https://r/t?x="1"', "service": "s", "scope": "repository:a:pull,push"}),
        Challenge("negotiate", {}),
    )


@given(st.text(max_size=100))
def test_any_text_is_some_challenges(header: str) -> None:
    read_challenges([header])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("ff02::1", False),
        ("fec0::1", False),
        ("::10.0.0.1", False),
        ("64:ff9b:1::a00:1", False),
        ("name", False),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert is_public(address) == expected


def test_origins() -> None:
    assert read_origin("https://Registry.Example/") == Origin("https", "registry.example", 443)
    assert str(read_origin("http://[::1]:5000")) == "http://[::1]:5000"
    assert origin_of(URL("ftp://a")) is None
    for text in ("registry", "https://a/path", "https://u:p@a", "https://a?x=1", "ftp://a", "https://a:99999", ""):
        with pytest.raises(ValueError, match="such as https://"):
            read_origin(text)


def test_upstreams_with_their_defaults() -> None:
    found = read_upstreams(
        b"upstreams:\n- host: docker.io\n- host: reg.example:5000\n  credentials: shared\n"
        b"- host: local\n  url: http://10.0.0.5:80\n  redirectOrigins: [http://10.0.0.6:9000]\n"
    )

    assert str(found["docker.io"].api) == "https://registry-1.docker.io"
    assert (str(found["reg.example:5000"].api), found["reg.example:5000"].shares_credentials) == (
        "https://reg.example:5000",
        True,
    )
    assert not found["docker.io"].shares_credentials
    assert found["local"].trusted == {Origin("http", "10.0.0.5", 80), Origin("http", "10.0.0.6", 9000)}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param("", "must be a mapping", id="nothing"),
        pytest.param("upstreams: []", "name the registries", id="no upstream"),
        pytest.param("upstreams: [{url: https://a}]", "upstreams[0].host is missing", id="no host"),
        pytest.param("upstreams: [{host: Docker.io}]", "in lower case", id="a host in capitals"),
        pytest.param("upstreams: [{host: a, url: a.example}]", "upstreams[0].url", id="no URL"),
        pytest.param("upstreams: [{host: a, credentials: yes}]", "none or shared", id="a word that is none"),
        pytest.param("upstreams: [{host: a, ca: ca.crt}]", "an absolute path", id="a path that depends on the folder"),
        pytest.param("upstreams: [{host: a, redirects: []}]", "redirectOrigins", id="a slip"),
        pytest.param("upstreams: [{host: a}, {host: a}]", "twice", id="the same twice"),
        pytest.param("upstreams: [{host: 'a:99999'}]", "port", id="a port that is none"),
    ],
)
def test_what_is_wrong_with_upstreams_is_told(written: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_upstreams(written.encode())

    assert told in str(caught.value)


def test_logins_as_docker_writes_them() -> None:
    encoded = base64.b64encode(b"me:pass:word").decode()
    auths = {"https://index.docker.io/v1/": {"auth": encoded}, "r.example": {"username": "u", "password": "p"}}

    found = read_logins(json.dumps({"auths": auths}).encode())

    assert found == {"docker.io": Credentials("me", "pass:word"), "r.example": Credentials("u", "p")}
    assert "pass:word" not in repr(found)
    assert found["docker.io"].basic == f"Basic {encoded}"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b'{"auths": {"a": {"auth": "secret!"}}}', id="no base64"),
        pytest.param(b'{"auths": {"a": {"auth": "c2VjcmV0"}}}', id="no colon"),
        pytest.param(b'{"auths": {"a": {"identitytoken": "secret"}}}', id="a token of another kind"),
        pytest.param(b'{"auths": {"a": {"password": "secret"}}}', id="no username"),
        pytest.param(b'{"auths": {"a": "secret"}}', id="no mapping"),
    ],
)
def test_what_is_wrong_with_logins_is_told_without_them(content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read_logins(content)

    assert "secret" not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_tags_are_forgotten_least_used_first() -> None:
    memory = TagMemory(60, 3600, most=2)
    keys = [TagKey(Upstream("h", read_origin("https://h")), "r", tag, "") for tag in "abc"]
    resolved = Resolved(sha256_of(b""), MANIFEST, 0)
    for key in keys[:2]:
        memory.put(key, resolved, 0)
    memory.find(keys[0], 1)

    memory.put(keys[2], resolved, 2)

    assert [memory.find(key, 3) is not None for key in keys] == [True, False, True]
