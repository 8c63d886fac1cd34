"""Frames between the keeper and its workers: cut anywhere, large, and with descriptors."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.link import (
    LENGTH_BYTES,
    MOST_FRAME_BYTES,
    Abandon,
    BucketRules,
    Done,
    Drain,
    Frames,
    FromKeeper,
    FromWorker,
    LinkError,
    List,
    NewIndex,
    Rules,
    Sum,
    frame,
)
from objectcache.serving.keeper_link import KeeperGoneError, KeeperLink

RULES = Rules.of(
    tuple(
        BucketRules(
            f"bucket-{number}", number, 2**30, 0, 1.0, None, frozenset(f"namespace-{each}" for each in range(10))
        )
        for number in range(10_000)
    )
)


@given(
    messages=st.lists(
        st.one_of(
            st.builds(Abandon, st.integers(0, 2**62)),
            st.builds(Sum, st.integers(0, 9), st.lists(st.text(max_size=30), max_size=30).map(tuple)),
            st.builds(
                List, st.integers(0, 9), st.text(max_size=9), st.binary(max_size=9), st.binary(), st.integers(0, 9)
            ),
        ),
        max_size=20,
    ),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=20),
)
def test_messages_come_out_as_they_went_in_wherever_they_are_cut(messages: list[FromWorker], cuts: list[int]) -> None:
    frames, stream, found = Frames(FromWorker), b"".join(map(frame, messages)), []
    turn = 0
    while stream:
        cut = cuts[turn % len(cuts)]
        found += frames.feed(stream[:cut])
        stream = stream[cut:]
        turn += 1

    assert found == messages


def test_a_frame_beyond_all_is_refused_before_it_is_read() -> None:
    with pytest.raises(LinkError, match=str(MOST_FRAME_BYTES)):
        Frames(FromWorker).feed((MOST_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "big"))


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x91\xa3abc"], ids=["nothing", "no msgpack", "no message"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(LinkError):
        Frames(FromWorker).feed(len(content).to_bytes(LENGTH_BYTES, "big") + content)


def test_ten_thousand_rules_come_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    told: list[FromKeeper] = []
    with ours, theirs:
        theirs.setblocking(False)
        link = KeeperLink(theirs, lambda message, _: told.append(message))
        left = memoryview(frame(RULES) + frame(Drain(1.0, 2.0)))
        while left:
            left = left[ours.send(left[: 2**16]) :]
            link.receive()

    assert told == [RULES, Drain(1.0, 2.0)]


def test_what_the_socket_does_not_take_is_sent_later_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(FromWorker)
    heard: list[FromWorker | FromKeeper] = []
    messages = [Sum(number, ("x" * 10_000,) * 10) for number in range(40)]
    with ours, theirs:
        theirs.setblocking(False)
        ours.setblocking(False)
        link = KeeperLink(theirs, lambda *_: None)
        for message in messages:
            link.tell(message)
            link.flush()
        assert link.wants_to_write
        while len(heard) < len(messages):
            heard += frames.feed(ours.recv(2**16))
            link.flush()

        assert heard == messages
        assert not link.wants_to_write


def test_a_descriptor_comes_with_its_message_however_the_frame_is_cut() -> None:
    ours, theirs = socket.socketpair()
    told: list[tuple[FromKeeper, int]] = []
    read, write = os.pipe()
    with ours, theirs:
        theirs.setblocking(False)
        link = KeeperLink(theirs, lambda message, descriptor: told.append((message, descriptor)))
        first, second = frame(NewIndex(1)), frame(NewIndex(2))
        socket.send_fds(ours, [first[:1]], [read])
        link.receive()
        ours.send(first[1:])
        socket.send_fds(ours, [second], [write])
        for _ in range(3):
            link.receive()

    assert [message for message, _ in told] == [NewIndex(1), NewIndex(2)]
    (_, mine_to_read), (_, mine_to_write) = told
    os.write(mine_to_write, b"same")
    assert os.read(mine_to_read, 9) == b"same"
    for each in (read, write, mine_to_read, mine_to_write):
        os.close(each)


def test_an_answer_goes_to_who_asked_and_to_nobody_twice() -> None:
    ours, theirs = socket.socketpair()
    answered: list[object] = []
    with ours, theirs:
        theirs.setblocking(False)
        link = KeeperLink(theirs, lambda *_: None)
        first, second = link.ticket(lambda answer: answered.append((1, answer))), link.ticket(answered.append)
        ours.send(frame(Done(second)) + frame(Done(first)) + frame(Done(first)) + frame(Done(99)))
        link.receive()

    assert answered == [Done(second), (1, Done(first))]


def test_the_end_of_the_keeper_is_noticed_either_way() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        link = KeeperLink(theirs, lambda *_: None)
        ours.close()

        with pytest.raises(KeeperGoneError):
            link.receive()
        link.tell(Abandon(1))
        with pytest.raises(KeeperGoneError):
            link.flush()
