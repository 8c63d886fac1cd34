import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.wire.content_digest import Digest, digests
from objectcache.wire.head import Head, HttpError

BODY = b"hello"
MD5 = base64.b64encode(hashlib.md5(BODY).digest())
SHA256 = base64.b64encode(hashlib.sha256(BODY).digest())
SHA512 = base64.b64encode(hashlib.sha512(BODY).digest())


def put(content_md5: bytes = b"", content_digest: bytes = b"") -> Head:
    return Head(b"PUT", b"/", b"", content_md5=content_md5, content_digest=content_digest)


@pytest.mark.parametrize(
    ("head", "algorithms"),
    [
        pytest.param(put(), [], id="none"),
        pytest.param(put(MD5), ["md5"], id="MD5"),
        pytest.param(put(content_digest=b"sha-256=:%b:" % SHA256), ["sha256"], id="SHA-256"),
        pytest.param(put(content_digest=b"sha-512=:%b:" % SHA512), ["sha512"], id="SHA-512"),
        pytest.param(
            put(MD5, b"sha-512=:%b: ,\tsha-256=:%b:" % (SHA512, SHA256)), ["md5", "sha256", "sha512"], id="all"
        ),
        pytest.param(
            put(content_digest=b"crc32c=:AAAAAA==:, sha-256=:%b:" % SHA256), ["sha256"], id="an unknown beside"
        ),
        pytest.param(put(content_digest=b"sha-256=:AAAA:, sha-256=:%b:" % SHA256), ["sha256"], id="the last of two"),
    ],
)
def test_a_body_is_checked_against_every_known_digest(head: Head, algorithms: list[str]) -> None:
    expected = tuple(Digest(algorithm, hashlib.new(algorithm, BODY).digest()) for algorithm in algorithms)

    assert digests(head) == expected


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(put(b"hello"), id="no base64"),
        pytest.param(put(MD5[:-1]), id="no padding"),
        pytest.param(put(MD5 + MD5), id="too long"),
        pytest.param(put(b" " + MD5), id="a space in it"),
        pytest.param(put(SHA256), id="another algorithm's"),
        pytest.param(put(content_digest=SHA256), id="no algorithm"),
        pytest.param(put(content_digest=b"sha-256=%b" % SHA256), id="no colons"),
        pytest.param(put(content_digest=b"sha-256=:%b" % SHA256), id="one colon"),
        pytest.param(put(content_digest=b"sha-256=:%b:;x" % SHA256), id="a parameter"),
        pytest.param(put(content_digest=b"sha-256=:%b:," % SHA256), id="a comma at the end"),
        pytest.param(put(content_digest=b"SHA-256=:%b:" % SHA256), id="capitals"),
        pytest.param(put(content_digest=b"sha-256=::"), id="no bytes"),
        pytest.param(put(content_digest=b"sha-512=:%b:" % SHA256), id="a shorter algorithm's"),
        pytest.param(put(content_digest=b"md5=:%b:" % MD5), id="only one that is not known"),
    ],
)
def test_a_digest_that_cannot_be_checked_is_refused(head: Head) -> None:
    with pytest.raises(HttpError, match=r"Content-(MD5|Digest)") as refused:
        digests(head)

    assert refused.value.status == 400


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_are_digests_or_an_http_error(content_md5: bytes, content_digest: bytes) -> None:
    try:
        found = digests(put(content_md5, content_digest))
    except HttpError:
        return
    assert all(len(digest.value) == hashlib.new(digest.algorithm).digest_size for digest in found)
