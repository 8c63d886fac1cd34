"""Tokens: renewed, and never shown."""

import pickle
from pathlib import Path

import pytest

from objectcache.client.errors import TokenError
from objectcache.client.tokens import Token


def test_a_file_is_read_again_after_a_second(tmp_path: Path) -> None:
    path, now = tmp_path / "token", [0.0]
    path.write_text("one\n")
    token = Token(path, monotonic=lambda: now[0])
    first = token.current()
    path.write_text("two")

    now[0] = 0.9
    kept = token.current()
    now[0] = 1.1

    assert (first, kept, token.current()) == ("one", "one", "two")


def test_a_refused_token_is_looked_up_at_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    token = Token(path, monotonic=lambda: 0.0)
    token.current()
    unchanged = token.changed_from("one")
    path.write_text("two")

    assert (unchanged, token.changed_from("one"), token.current()) == (False, True, "two")


def test_a_file_that_went_away_leaves_the_last_token(tmp_path: Path) -> None:
    path, now = tmp_path / "token", [0.0]
    path.write_text("one")
    token = Token(path, monotonic=lambda: now[0])
    token.current()
    path.unlink()
    now[0] = 5.0

    assert token.current() == "one"


def test_a_refused_token_whose_file_went_away_stays_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    token = Token(path, monotonic=lambda: 0.0)
    token.current()
    path.unlink()

    assert (token.changed_from("one"), token.current()) == (False, "one")


@pytest.mark.parametrize("content", [b"", b"two words", b"a\nb", b"\xff"])
def test_what_is_no_token_is_an_error_that_does_not_show_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)

    with pytest.raises(TokenError) as found:
        Token(path).current()

    assert "words" not in str(found.value)
    assert str(path) in str(found.value)


def test_no_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"tasuki\.dev/cache"):
        Token(tmp_path / "none").current()


def test_a_token_is_never_shown_and_survives_pickling() -> None:
    token = pickle.loads(pickle.dumps(Token(None, "secret")))

    assert "secret" not in repr(token)
    assert token.header() == {"Authorization": "Bearer secret"}
    assert Token(None).header() == {}


def test_both_a_token_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="give one"):
        Token(tmp_path / "token", "secret")
