"""The protocol's rules, one by one, without a wire."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.xds.session import (
    WILDCARD,
    Answered,
    Delta,
    DeltaRequest,
    ProtocolError,
    Request,
    Response,
    Session,
    StateOfTheWorld,
)
from objectcache.xds.snapshot import CLUSTERS, ENDPOINTS, LISTENERS, ORDER, ROUTES, Resource, Snapshot


def resource(name: str, content: str) -> Resource:
    return Resource(name, blake2b(content.encode(), digest_size=8).hexdigest(), content.encode())


def snapshot(**contents: Mapping[str, str]) -> Snapshot:
    """By type: contents by name."""
    types = {"cds": CLUSTERS, "eds": ENDPOINTS, "lds": LISTENERS, "rds": ROUTES}
    return Snapshot({
        types[kind]: {name: resource(name, content) for name, content in named.items()}
        for kind, named in contents.items()
    })  # fmt: skip


ONE = snapshot(cds={"c": "1"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "1"})


def shown(responses: Sequence[Response]) -> list[str]:
    """Type, `name=content`, `-name` of what is removed."""
    return [
        " ".join([
            each.type_url.rpartition(".")[2],
            *(f"{found.name}={found.body.decode()}" for found in each.resources),
            *(f"-{name}" for name in each.removed),
        ])
        for each in responses
    ]  # fmt: skip


def accept(session: Session, responses: Sequence[Response]) -> None:
    for each in responses:
        answer(session, each)


def answer(session: Session, response: Response, error: str | None = None) -> Answered | None:
    """As a client that wants what it wanted."""
    names = tuple(each.name for each in response.resources)
    if isinstance(session, StateOfTheWorld):
        wanted = () if response.type_url in {CLUSTERS, LISTENERS} else names
        return session.take(Request(response.type_url, wanted, response.nonce, error))
    assert isinstance(session, Delta)
    return session.take(DeltaRequest(response.type_url, nonce=response.nonce, error=error))


def begun(session: Session, state: Snapshot = ONE) -> list[str]:
    """Ask as Envoy does: clusters, their endpoints, listeners, their routes; the sequence of what was sent."""
    sent: list[str] = []
    for type_url, names in ((CLUSTERS, ()), (ENDPOINTS, ("c",)), (LISTENERS, ()), (ROUTES, ("r",))):
        ask(session, type_url, *names)
        responses = session.responses(state)
        sent += shown(responses)
        accept(session, responses)
    assert session.responses(state) == []
    return sent


def ask(session: Session, type_url: str, *names: str) -> None:
    if isinstance(session, StateOfTheWorld):
        session.take(Request(type_url, names))
    else:
        assert isinstance(session, Delta)
        session.take(DeltaRequest(type_url, names))


@pytest.fixture(params=[StateOfTheWorld, Delta], ids=["sotw", "delta"])
def session(request: pytest.FixtureRequest) -> Session:
    made: Session = request.param()
    return made


def test_each_type_is_answered_when_it_is_asked_for(session: Session) -> None:
    assert begun(session) == ["Cluster c=1", "ClusterLoadAssignment c=1", "Listener l=1", "RouteConfiguration r=1"]


def test_only_what_changed_is_sent(session: Session) -> None:
    begun(session)

    assert shown(session.responses(snapshot(cds={"c": "1"}, eds={"c": "2"}, lds={"l": "1"}, rds={"r": "1"}))) == [
        "ClusterLoadAssignment c=2"
    ]


def test_what_a_changed_cluster_or_listener_waits_for_is_sent_again_behind_it(session: Session) -> None:
    begun(session)

    changed = snapshot(cds={"c": "2"}, eds={"c": "1"}, lds={"l": "2"}, rds={"r": "1"})

    assert shown(session.responses(changed)) == [
        "Cluster c=2", "ClusterLoadAssignment c=1", "Listener l=2", "RouteConfiguration r=1",
    ]  # fmt: skip


def test_of_changes_while_a_response_is_unanswered_the_last_is_sent(session: Session) -> None:
    begun(session)
    [first] = session.responses(snapshot(cds={"c": "1"}, eds={"c": "2"}, lds={"l": "1"}, rds={"r": "1"}))
    third = snapshot(cds={"c": "1"}, eds={"c": "3"}, lds={"l": "1"}, rds={"r": "1"})
    fourth = snapshot(cds={"c": "1"}, eds={"c": "4"}, lds={"l": "1"}, rds={"r": "1"})

    assert session.responses(third) == session.responses(fourth) == []
    answer(session, first)
    assert shown(session.responses(fourth)) == ["ClusterLoadAssignment c=4"]


def test_endpoints_go_out_while_the_clusters_answer_waits_for_them(session: Session) -> None:
    ask(session, CLUSTERS)
    session.responses(ONE)
    ask(session, ENDPOINTS, "c")

    changed = snapshot(cds={"c": "2"}, eds={"c": "2"}, lds={"l": "1"}, rds={"r": "1"})

    assert shown(session.responses(changed)) == ["ClusterLoadAssignment c=2"]


def test_routes_wait_for_the_cluster_that_they_name(session: Session) -> None:
    begun(session)
    second = session.responses(replace(ONE, resources={**ONE.resources, **snapshot(cds={"c": "2"}).resources}))
    third = snapshot(cds={"c": "2", "new": "1"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "to new"})

    held = shown(session.responses(third))
    accept(session, second)
    then = shown(session.responses(third))

    assert held == []
    assert [each.split()[0] for each in then] == ["Cluster", "ClusterLoadAssignment", "RouteConfiguration"]
    assert then[-1] == "RouteConfiguration r=to new"


def test_what_is_gone_goes_after_everything_new_is_accepted_and_from_the_end(session: Session) -> None:
    begun(session, snapshot(cds={"c": "1", "old": "1"}, eds={"c": "1"}, lds={"l": "1", "old": "1"}, rds={"r": "old"}))
    target = snapshot(cds={"c": "1"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "new"})

    sent: list[str] = []
    while responses := session.responses(target):
        sent += shown(responses)
        accept(session, responses)

    gone = "-old" if isinstance(session, Delta) else "l=1"
    gone_cluster = "-old" if isinstance(session, Delta) else "c=1"
    assert sent == ["RouteConfiguration r=new", f"Listener {gone}", f"Cluster {gone_cluster}"]


def test_nothing_is_taken_away_from_whoever_refuses_what_replaces_it(session: Session) -> None:
    begun(session, snapshot(cds={"c": "1", "old": "1"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "old"}))
    target = snapshot(cds={"c": "1"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "bad"})
    [routes] = session.responses(target)

    answer(session, routes, "no such thing")

    assert session.responses(target) == []


def test_what_was_refused_is_sent_again_only_once_it_differs(session: Session) -> None:
    begun(session)
    bad = snapshot(cds={"c": "1"}, eds={"c": "1"}, lds={"l": "bad"}, rds={"r": "1"})
    listener, *routes = session.responses(bad)
    accept(session, routes)

    told = answer(session, listener, "port is missing")

    assert told == Answered("refused", listener.version, "port is missing")
    assert session.responses(bad) == []
    good = snapshot(cds={"c": "1"}, eds={"c": "1"}, lds={"l": "good"}, rds={"r": "1"})
    [again, *_] = session.responses(good)
    assert shown([again]) == ["Listener l=good"]
    assert answer(session, again) == Answered("accepted", again.version)


def test_an_answer_to_an_older_response_is_passed_over(session: Session) -> None:
    begun(session)
    stale = Response(CLUSTERS, "", "1", ())
    session.responses(snapshot(cds={"c": "2"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "1"}))

    assert answer(session, stale, "old news") == Answered("stale")


def test_a_request_without_a_type_is_an_error(session: Session) -> None:
    with pytest.raises(ProtocolError, match="type_url"):
        ask(session, "")


def test_a_client_cannot_ask_for_ever_more_names(session: Session) -> None:
    first, second = ([f"{request}-{number}" for number in range(501)] for request in range(2))
    ask(session, ENDPOINTS, *first)
    # Of the one variant it names all that it wants each time, of the other what it wants beside that.
    more = [*first, *second] if isinstance(session, StateOfTheWorld) else second

    with pytest.raises(ProtocolError, match="more than 1000 names"):
        ask(session, ENDPOINTS, *more)


def test_a_client_cannot_bring_along_ever_more_names() -> None:
    with pytest.raises(ProtocolError, match="more than 1000 names"):
        Delta().take(DeltaRequest(CLUSTERS, known={f"c-{number}": "1" for number in range(1_001)}))


def test_the_same_content_has_the_same_version(session: Session) -> None:
    other = type(session)()
    ask(session, CLUSTERS)
    ask(other, CLUSTERS)
    [first] = session.responses(snapshot(cds={"a": "1", "b": "2"}))
    [second] = other.responses(snapshot(cds={"b": "2", "a": "1"}))

    assert first == second


def test_sotw_clusters_without_names_are_all_until_names_were_given() -> None:
    session = StateOfTheWorld()
    state = snapshot(cds={"a": "1", "b": "1"})
    session.take(Request(CLUSTERS))
    [everything] = session.responses(state)

    session.take(Request(CLUSTERS, ("a", "c"), everything.nonce))
    [named] = session.responses(state)
    session.take(Request(CLUSTERS, (), named.nonce))
    nothing = session.responses(snapshot(cds={"a": "2", "b": "2"}))

    assert shown([everything, named]) == ["Cluster a=1 b=1", "Cluster a=1"]
    assert nothing == []


def test_sotw_an_explicit_wildcard_is_all() -> None:
    session = StateOfTheWorld()
    session.take(Request(CLUSTERS, ("a",)))
    [one] = session.responses(snapshot(cds={"a": "1", "b": "1"}))

    session.take(Request(CLUSTERS, (WILDCARD, "a"), one.nonce))

    assert shown(session.responses(snapshot(cds={"a": "1", "b": "1"}))) == ["Cluster a=1 b=1"]


def test_sotw_endpoints_without_names_are_none() -> None:
    session = StateOfTheWorld()
    session.take(Request(ENDPOINTS))

    assert shown(session.responses(ONE)) == ["ClusterLoadAssignment"]


def test_sotw_a_name_that_is_added_is_answered_and_one_that_is_dropped_is_not() -> None:
    session = StateOfTheWorld()
    state = snapshot(eds={"a": "1", "b": "1"})
    session.take(Request(ENDPOINTS, ("a",)))
    [first] = session.responses(state)
    session.take(Request(ENDPOINTS, ("a", "b"), first.nonce))
    [second] = session.responses(state)
    session.take(Request(ENDPOINTS, ("b",), second.nonce))

    assert shown([first, second]) == ["ClusterLoadAssignment a=1", "ClusterLoadAssignment a=1 b=1"]
    assert session.responses(state) == []


def test_sotw_names_in_a_stale_request_do_not_count() -> None:
    session = StateOfTheWorld()
    session.take(Request(ENDPOINTS, ("a",)))
    session.responses(snapshot(eds={"a": "1", "b": "1"}))

    assert session.take(Request(ENDPOINTS, ("b",), "of another stream")) == Answered("stale")
    assert session.responses(snapshot(eds={"a": "1", "b": "2"})) == []


def test_delta_a_client_that_comes_back_is_sent_what_differs() -> None:
    session = Delta()
    known = {"same": resource("same", "1").version, "old": "older", "gone": "any"}
    session.take(DeltaRequest(CLUSTERS, known=known))
    state = snapshot(cds={"same": "1", "old": "2", "new": "1"})

    [first] = session.responses(state)
    answer(session, first)
    [second] = session.responses(state)

    assert shown([first, second]) == ["Cluster new=1 old=2", "Cluster -gone"]


def test_delta_a_client_that_has_everything_is_answered_all_the_same() -> None:
    session = Delta()
    session.take(DeltaRequest(CLUSTERS, known={"c": resource("c", "1").version}))

    assert shown(session.responses(ONE)) == ["Cluster"]


def test_delta_what_is_not_there_is_said_to_be_removed() -> None:
    session = Delta()
    session.take(DeltaRequest(ENDPOINTS, ("c", "nobody")))

    assert shown(session.responses(ONE)) == ["ClusterLoadAssignment c=1 -nobody"]


def test_delta_subscribing_again_sends_again() -> None:
    session = Delta()
    begun(session)

    session.take(DeltaRequest(ENDPOINTS, ("c",)))

    assert shown(session.responses(ONE)) == ["ClusterLoadAssignment c=1"]


def test_delta_what_is_unsubscribed_is_not_sent_any_more() -> None:
    session = Delta()
    begun(session)

    session.take(DeltaRequest(ENDPOINTS, unsubscribe=("c",)))

    assert session.responses(snapshot(cds={"c": "1"}, eds={"c": "2"}, lds={"l": "1"}, rds={"r": "1"})) == []


def test_delta_names_beside_the_wildcard_leave_it_in_force_until_it_is_unsubscribed() -> None:
    session = Delta()
    begun(session)

    session.take(DeltaRequest(CLUSTERS, ("c",)))
    again, endpoints = session.responses(ONE)
    accept(session, [again, endpoints])
    more, _ = session.responses(
        replace(ONE, resources={**ONE.resources, **snapshot(cds={"c": "1", "d": "1"}).resources})
    )
    session.take(DeltaRequest(CLUSTERS, unsubscribe=(WILDCARD,), nonce=more.nonce))

    assert shown([again, more]) == ["Cluster c=1", "Cluster d=1"]
    last = snapshot(cds={"c": "1", "d": "2"}, eds={"c": "1"}, lds={"l": "1"}, rds={"r": "1"})
    assert "Cluster d=2" not in shown(session.responses(last))


contents = st.dictionaries(st.sampled_from("abc"), st.sampled_from("123"), max_size=3)
states = st.builds(lambda cds, eds, lds, rds: snapshot(cds=cds, eds=eds, lds=lds, rds=rds), *[contents] * 4)


class Client:
    """Has what it was sent, and answers when it likes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.has: dict[str, dict[str, str]] = {each: {} for each in ORDER}
        self.waiting: list[Response] = []
        for type_url in ORDER:
            ask(session, type_url, *self.names(type_url))

    @staticmethod
    def names(type_url: str) -> tuple[str, ...]:
        return () if type_url in {CLUSTERS, LISTENERS} else ("a", "b", "c")

    def take(self, responses: Sequence[Response]) -> None:
        for each in responses:
            kept = self.has[each.type_url]
            if isinstance(self.session, StateOfTheWorld) and each.type_url in {CLUSTERS, LISTENERS}:
                kept.clear()
            kept.update((found.name, found.body.decode()) for found in each.resources)
            for name in each.removed:
                kept.pop(name, None)
            self.waiting.append(each)

    def reply(self) -> None:
        each = self.waiting.pop(0)
        if isinstance(self.session, StateOfTheWorld):
            self.session.take(Request(each.type_url, self.names(each.type_url), each.nonce))
        else:
            answer(self.session, each)


@given(st.sampled_from([StateOfTheWorld, Delta]), st.lists(states, min_size=1, max_size=5), st.data())
def test_a_client_that_answers_ends_with_the_last_state(
    kind: type[Session], history: list[Snapshot], data: st.DataObject
) -> None:
    """Whatever it was told on the way, and however late it answered."""
    session = kind()
    client = Client(session)
    for state in history:
        client.take(session.responses(state))
        for _ in range(data.draw(st.integers(0, len(client.waiting)))):
            client.reply()

    client.take(session.responses(history[-1]))
    while client.waiting:
        client.reply()
        client.take(session.responses(history[-1]))

    last = {each: {name: found.body.decode() for name, found in history[-1].of(each).items()} for each in ORDER}
    complete = ORDER if kind is Delta else (CLUSTERS, LISTENERS)
    assert {each: client.has[each] for each in complete} == {each: last[each] for each in complete}
    assert all(client.has[each].items() >= last[each].items() for each in ORDER)
