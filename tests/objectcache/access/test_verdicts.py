"""Which verdicts are dropped when pods end."""

from objectcache.access.verdicts import Known, SeenPod, Verdicts
from objectcache.link import Identity
from tasuki.kube.collection import ObjectName

WEB = ObjectName("research", "web-0")
OTHER = ObjectName("research", "other")


def known(pod: ObjectName, uid: str) -> Known:
    return Known(Identity(pod.namespace, "trainer", pod.name, uid), "", 60.0, 300.0)


def verdicts(*uids: str, most: int = 100) -> Verdicts:
    """One token `token-of-<uid>` of a pod `web-0` with each uid, and one of another pod."""
    made = Verdicts(most)
    for uid in uids:
        made.keep(made.key_of(f"token-of-{uid}"), known(WEB, uid))
    made.keep(made.key_of("token-of-other"), known(OTHER, "other"))
    return made


def remembered(of: Verdicts) -> set[str]:
    names = ["one", "two", "other"]
    return {name for name in names if of.find(of.key_of(f"token-of-{name}")) is not None}


def test_a_deleted_pods_tokens_are_dropped() -> None:
    made = verdicts("one")

    dropped = made.pod_deleted(WEB)

    assert dropped == ("one",)
    assert remembered(made) == {"other"}


def test_a_deleted_pods_token_is_not_kept_again() -> None:
    made = verdicts()
    made.pod_deleted(WEB)

    kept = made.keep(made.key_of("token-of-one"), known(WEB, "one"))

    assert not kept
    assert remembered(made) == {"other"}


def test_a_pod_that_comes_again_by_the_same_name_has_its_tokens_kept() -> None:
    made = verdicts()
    made.pod_deleted(WEB)
    made.pod_seen(WEB, SeenPod("two"))

    kept = made.keep(made.key_of("token-of-two"), known(WEB, "two"))

    assert kept
    assert remembered(made) == {"two", "other"}


def test_a_pod_of_the_same_name_ends_the_one_before() -> None:
    made = verdicts("one", "two")

    dropped = made.pod_seen(WEB, SeenPod("two"))

    assert dropped == ("one",)
    assert remembered(made) == {"two", "other"}


def test_a_pod_that_is_asked_to_end_has_its_tokens_reviewed_again_once() -> None:
    made = verdicts("one")

    first = made.pod_seen(WEB, SeenPod("one", is_ending=True))
    kept = made.keep(made.key_of("token-of-one"), known(WEB, "one"))
    second = made.pod_seen(WEB, SeenPod("one", is_ending=True))

    assert (first, kept, second) == (("one",), True, ())
    assert remembered(made) == {"one", "other"}


def test_after_a_list_only_the_tokens_of_listed_pods_are_left() -> None:
    made = verdicts("one")

    dropped = made.pods_listed({OTHER: SeenPod("other")})

    assert dropped == ("one",)
    assert remembered(made) == {"other"}


def test_a_listed_pod_is_no_longer_deleted() -> None:
    made = verdicts()
    made.pod_deleted(WEB)
    made.pods_listed({WEB: SeenPod("one"), OTHER: SeenPod("other")})

    assert made.keep(made.key_of("token-of-one"), known(WEB, "one"))


def test_an_invalid_token_belongs_to_no_pod() -> None:
    made = verdicts()
    key = made.key_of("bad")
    made.keep(key, Known(None, "bad", 5.0, 300.0))

    dropped = [made.pod_deleted(ObjectName("", "")), made.pods_listed({})]

    assert dropped == [(), ("other",)]
    assert made.find(key) is not None


def test_what_was_not_asked_for_the_longest_makes_room() -> None:
    made = verdicts("one", most=2)
    made.find(made.key_of("token-of-one"))
    made.keep(made.key_of("token-of-two"), known(WEB, "two"))

    assert remembered(made) == {"one", "two"}
    assert made.pod_deleted(OTHER) == ()


def test_a_token_that_becomes_invalid_is_no_longer_its_pods() -> None:
    made = verdicts("one")
    made.keep(made.key_of("token-of-one"), Known(None, "expired", 5.0, 300.0))

    assert made.pod_deleted(WEB) == ()
    assert len(made) == 2
