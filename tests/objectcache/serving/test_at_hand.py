"""What is kept at hand, for how long, and how much of it."""

import os
from pathlib import Path

import pytest

from objectcache.serving.at_hand import MOST_BYTES, MOST_FILES, OFTEN, AtHand, Popular
from objectcache.serving.open_file import OpenFile


def ask(at_hand: AtHand, popular: Popular, times: int = OFTEN) -> bool:
    """Whether it was often enough in the end."""
    return [at_hand.ask(popular) for _ in range(times)][-1]


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return OpenFile(os.open(path, os.O_RDONLY))


def is_open(file: OpenFile) -> bool:
    return Path(f"/proc/self/fd/{file.fd}").exists()


def test_asks_count_within_one_turn_only() -> None:
    at_hand, popular = AtHand(), Popular()
    before = ask(at_hand, popular, OFTEN - 1)
    at_hand.end_turn()

    assert not before
    assert not ask(at_hand, popular, OFTEN - 1)
    assert at_hand.ask(popular)
    assert not at_hand.ask(popular)


def test_what_is_asked_for_often_stays_and_goes_when_it_is_not() -> None:
    at_hand, popular = AtHand(), Popular()
    ask(at_hand, popular)
    at_hand.keep_content(popular, b"content")
    at_hand.end_turn()
    ask(at_hand, popular)
    at_hand.end_turn()
    stayed = popular.content
    ask(at_hand, popular, OFTEN - 1)
    at_hand.end_turn()

    assert stayed == b"content"
    assert popular.content == b""


def test_there_is_room_for_so_many_bytes_and_what_is_let_go_makes_room() -> None:
    at_hand = AtHand()
    first, second = Popular(), Popular()
    at_hand.keep_content(first, bytes(MOST_BYTES - 1))
    at_hand.keep_content(second, b"12")
    refused = second.content
    at_hand.let_go(first)
    at_hand.keep_content(second, b"12")

    assert refused == b""
    assert (first.content, second.content) == (b"", b"12")


def test_there_is_room_for_so_many_files(tmp_path: Path) -> None:
    at_hand = AtHand()
    (tmp_path / "file").write_bytes(b"content")
    files = [OpenFile(os.open(tmp_path / "file", os.O_RDONLY)) for _ in range(MOST_FILES + 1)]
    all_asked = [Popular() for _ in files]
    for popular, file in zip(all_asked, files, strict=True):
        at_hand.keep_file(popular, file)
        file.let_go()

    assert [is_open(each) for each in files] == [True] * MOST_FILES + [False]
    at_hand.end_turn()
    assert not any(is_open(each) for each in files)


def test_a_file_is_closed_when_all_have_let_it_go(file: OpenFile) -> None:
    at_hand, popular = AtHand(), Popular()
    at_hand.keep_file(popular, file)
    file.let_go()
    file.hold()
    at_hand.end_turn()
    while_sent = is_open(file)
    file.let_go()

    assert while_sent
    assert not is_open(file)


def test_whether_a_file_is_in_memory_is_looked_at_each_turn(file: OpenFile) -> None:
    at_hand, popular = AtHand(), Popular()
    ask(at_hand, popular)
    at_hand.keep_file(popular, file)
    file.warmed = 7
    at_hand.end_turn()

    assert popular.file is file
    assert file.warmed == 0
    file.let_go()
    at_hand.let_go(popular)
