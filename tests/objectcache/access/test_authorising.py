"""Who may do what with which bucket."""

import pytest

from objectcache.access.authorising import Verb, may
from objectcache.link import BucketRules, Identity

RESEARCH = frozenset({"research"})
RULES = {
    "private": BucketRules("private", 1, 1, 0, 1.0, RESEARCH, RESEARCH),
    "published": BucketRules("published", 2, 1, 0, 1.0, None, RESEARCH),
    "open": BucketRules("open", 3, 1, 0, 1.0, None, None),
}


@pytest.mark.parametrize(
    ("namespace", "bucket", "verb", "allowed"),
    [
        pytest.param("research", "private", "read", True, id="its readers read a private bucket"),
        pytest.param("research", "private", "write", True, id="its writers write a private bucket"),
        pytest.param("other", "private", "read", False, id="others do not read a private bucket"),
        pytest.param("other", "private", "write", False, id="others do not write a private bucket"),
        pytest.param("other", "published", "read", True, id="all read a public bucket"),
        pytest.param("other", "published", "write", False, id="others do not write one that has writers"),
        pytest.param("research", "published", "write", True, id="its writers do"),
        pytest.param("other", "open", "write", True, id="all write one that names nobody"),
        pytest.param("research", "absent", "read", False, id="nobody reads what is not there"),
    ],
)
def test_who_may(namespace: str, bucket: str, verb: Verb, allowed: bool) -> None:
    answer = may(RULES, Identity(namespace, "trainer"), bucket, verb)

    assert (answer is None) == allowed


def test_a_bucket_of_others_looks_as_if_it_were_not_there() -> None:
    other = Identity("other", "trainer")

    absent, private = (may({name: RULES["private"]}, other, "private", "read") for name in ("absent", "private"))

    assert absent == private
    assert private == (403, "namespace 'other' may not read bucket 'private', or there is no such bucket")


def test_whatever_a_bucket_is_called_the_reason_is_short_and_ascii() -> None:
    answer = may(RULES, Identity("other", "trainer"), "é\r\n" * 1000, "read")

    assert answer is not None
    assert len(answer[1]) < 200
    assert "\r" not in answer[1]
    assert "é" not in answer[1]
