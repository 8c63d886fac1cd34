"""Pauses between attempts."""

from tasuki.kube.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_start_anew() -> None:
    backoff = Backoff(1.0, 5.0, lambda _, most: most)

    pauses = [backoff.next_seconds() for _ in range(5)]
    backoff.reset()

    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.next_seconds() == 1.0


def test_a_pause_is_shortened_by_half_at_most() -> None:
    assert Backoff(4.0, 8.0, lambda least, _: least).next_seconds() == 2.0
