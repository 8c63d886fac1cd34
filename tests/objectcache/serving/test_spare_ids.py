"""Ids that a worker has in store: asked for in time, and not kept until they are old."""

import socket
from collections.abc import Iterator

import pytest

from objectcache.link import Frames, FromWorker, Granted, Refused, TakeIds, frame
from objectcache.serving.keeper_link import KeeperLink
from objectcache.serving.spare_ids import SpareIds


class Keeper:
    """The other end of the link."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.socket.setblocking(False)
        self.link = KeeperLink(theirs, lambda *_: None)
        self._frames = Frames(FromWorker)

    def heard(self) -> list[TakeIds]:
        self.link.flush()
        try:
            found = self._frames.feed(self.socket.recv(2**16))
        except BlockingIOError:
            return []
        asked = [each for each in found if isinstance(each, TakeIds)]
        assert asked == found
        return asked

    def say(self, answer: Granted | Refused) -> None:
        self.socket.send(frame(answer))
        self.link.receive()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    found = Keeper()
    yield found
    found.socket.close()
    found.link.socket.close()


def test_ids_are_asked_for_once_before_there_are_none(keeper: Keeper) -> None:
    spare = SpareIds(keeper.link)

    assert (spare.take(0.0), spare.take(0.0)) == (0, 0)
    [asked] = keeper.heard()
    keeper.say(Granted(asked.ticket, tuple(range(1, 65))))
    assert [spare.take(1.0) for _ in range(32)] == list(range(1, 33))
    assert keeper.heard() == []
    assert spare.take(1.0) == 33
    [again] = keeper.heard()
    keeper.say(Granted(again.ticket, (101, 102)))
    assert [spare.take(1.0) for _ in range(33)] == [*range(34, 65), 101, 102]


def test_where_none_are_granted_the_next_asks_again(keeper: Keeper) -> None:
    spare = SpareIds(keeper.link)
    spare.take(0.0)
    [asked] = keeper.heard()
    keeper.say(Refused(asked.ticket, 507, "the disk is full"))

    assert spare.take(0.0) == 0
    assert len(keeper.heard()) == 1


def test_what_was_not_used_for_long_is_given_back(keeper: Keeper) -> None:
    spare = SpareIds(keeper.link)
    spare.take(0.0)
    [asked] = keeper.heard()
    keeper.say(Granted(asked.ticket, tuple(range(1, 65))))
    spare.take(5.0)

    assert spare.take(100.0) == 0
    [again] = keeper.heard()
    assert again.unused == tuple(range(2, 65))
    keeper.say(Granted(again.ticket, (201,)))
    assert spare.take(101.0) == 201
