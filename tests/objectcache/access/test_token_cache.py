"""What a worker remembers of tokens, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from objectcache.access.token_cache import Refusal, TokenCache
from objectcache.link import Identity, Reviewed


def identity(uid: str = "") -> Identity:
    return Identity("research", "trainer", f"pod-{uid}" if uid else "", uid)


def accepted(uid: str = "", lasts: float = 60.0) -> Reviewed:
    return Reviewed(1, identity(uid), 200, "", lasts)


def refused(lasts: float = 5.0, status: int = 401) -> Reviewed:
    return Reviewed(1, None, status, "no", lasts)


def test_a_token_is_known_until_its_time_is_over() -> None:
    cache = TokenCache(10)
    cache.put(b"a", accepted("u", 60.0), 100.0)

    found = [cache.find(b"a", now) for now in (100.0, 159.9, 160.0)]

    assert found == [identity("u"), identity("u"), None]
    assert len(cache) == 0


def test_a_refusal_is_known_until_its_time_is_over() -> None:
    cache = TokenCache(10)
    cache.put(b"a", refused(5.0, 503), 100.0)

    found = [cache.find(b"a", now) for now in (104.9, 105.0)]

    assert found == [Refusal(503, "no"), None]
    assert len(cache) == 0


def test_a_token_that_was_never_seen_is_unknown() -> None:
    cache = TokenCache(10)
    cache.put(b"a", accepted(), 0.0)

    assert cache.find(b"b", 0.0) is None


def test_what_holds_for_one_request_is_not_kept() -> None:
    cache = TokenCache(10)
    cache.put(b"a", accepted("u", 0.0), 0.0)

    assert cache.find(b"a", 0.0) is None


def test_the_newest_answer_counts() -> None:
    cache = TokenCache(10)
    cache.put(b"a", accepted("u"), 0.0)
    cache.put(b"a", refused(), 1.0)
    after_refusal = cache.find(b"a", 1.0)
    cache.put(b"a", accepted("v"), 2.0)

    assert after_refusal == Refusal(401, "no")
    assert cache.find(b"a", 2.0) == identity("v")
    assert len(cache) == 1


def test_the_tokens_of_a_pod_are_forgotten_together() -> None:
    cache = TokenCache(10)
    for token, uid in ((b"a", "u"), (b"b", "u"), (b"c", "v"), (b"d", "")):
        cache.put(token, accepted(uid), 0.0)

    cache.forget("u", 1.0)

    assert [cache.find(token, 1.0) for token in (b"a", b"b", b"c", b"d")] == [None, None, identity("v"), identity()]


def test_an_answer_that_was_under_way_when_its_pod_was_forgotten_is_not_kept() -> None:
    cache = TokenCache(10)
    cache.forget("u", 1.0)
    cache.put(b"a", accepted("u"), 1.5)
    under_way = cache.find(b"a", 1.5)
    cache.put(b"a", accepted("u"), 2.5)

    assert under_way is None
    assert cache.find(b"a", 2.5) == identity("u")


def test_the_oldest_makes_room() -> None:
    cache = TokenCache(2)
    for number, token in enumerate((b"a", b"b", b"a", b"c")):
        cache.put(token, accepted("u"), float(number))

    assert [cache.find(token, 4.0) is not None for token in (b"a", b"b", b"c")] == [True, False, True]


def test_a_flood_of_refused_tokens_drops_no_valid_one() -> None:
    cache = TokenCache(8)
    cache.put(b"a", accepted(), 0.0)
    for number in range(100):
        cache.put(str(number).encode(), refused(), 0.0)

    assert cache.find(b"a", 0.0) == identity()
    assert len(cache) == 3


def test_nothing_is_known_after_it_is_cleared() -> None:
    cache = TokenCache(8)
    cache.put(b"a", accepted("u"), 0.0)
    cache.put(b"b", refused(), 0.0)

    cache.clear()

    assert [cache.find(token, 0.0) for token in (b"a", b"b")] == [None, None]


def test_tokens_are_not_held() -> None:
    cache = TokenCache(8)
    cache.put(b"a-secret", accepted("u"), 0.0)
    cache.put(b"b-secret", refused(), 0.0)

    assert "secret" not in str(cache.__dict__)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdef"), st.sampled_from(["", "u", "v"]), st.integers(0, 9)),
        st.tuples(st.just("refuse"), st.sampled_from("abcdef"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("forget"), st.sampled_from("uv"), st.just(""), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.just(""), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_it_never_answers_more_than_it_was_told_last(operations: list[tuple[str, str, str, int]]) -> None:
    cache = TokenCache(4)
    told: dict[str, tuple[float, object]] = {}
    now = 0.0
    for verb, name, uid, seconds in operations:
        match verb:
            case "put":
                cache.put(name.encode(), accepted(uid, seconds), now)
                told[name] = (now + seconds, identity(uid))
            case "refuse":
                cache.put(name.encode(), refused(seconds), now)
                told[name] = (now + seconds, Refusal(401, "no"))
            case "forget":
                cache.forget(name, now)
                told = {token: known for token, known in told.items() if known[1] != identity(name)}
            case "wait":
                now += seconds
        for token in "abcdef":
            until, expected = told.get(token, (0.0, None))
            found = cache.find(token.encode(), now)
            assert found is None or (found == expected and now < until)
    assert len(cache) <= 5
