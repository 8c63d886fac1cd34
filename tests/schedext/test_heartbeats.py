"""Which caches count: those of which one has heard lately."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import pytest

from schedext.heartbeats import SILENT_SECONDS, Heartbeats
from tasuki.kube.cache_node import HEARTBEAT_SECONDS, CacheNodeStatus
from tests.schedext.caches import holds

NOON: Final = datetime(2026, 1, 31, 12, tzinfo=UTC)


@dataclass
class Watch:
    """Heartbeats, and a clock of our own beside those of the nodes."""

    seconds: float = 0.0
    heartbeats: Heartbeats = field(init=False)

    def __post_init__(self) -> None:
        self.heartbeats = Heartbeats(lambda: self.seconds, lambda: NOON + timedelta(seconds=self.seconds))

    def hear(self, node: str, observed_at: float, *, used: int = 1) -> CacheNodeStatus | None:
        return self.heartbeats.take(node, report(observed_at, used))


def report(observed_at: float, used: int = 1) -> CacheNodeStatus:
    text = f"{NOON + timedelta(seconds=observed_at):%Y-%m-%dT%H:%M:%SZ}"
    return msgspec.structs.replace(holds("z", b=used), observed_time=text)


def test_a_cache_may_miss_a_heartbeat_or_two() -> None:
    watch = Watch()
    assert watch.hear("n", 0.0) is not None

    watch.seconds = 2.9 * HEARTBEAT_SECONDS

    assert watch.heartbeats.fallen_silent() == []


def test_a_cache_that_died_without_a_word_falls_silent_once() -> None:
    watch = Watch()
    watch.hear("m", 0.0)
    watch.hear("n", 0.0)
    watch.seconds = 1.0
    watch.hear("alive", 1.0)

    watch.seconds = SILENT_SECONDS

    assert watch.heartbeats.fallen_silent() == ["m", "n"]
    assert watch.heartbeats.fallen_silent() == []


def test_a_cache_that_is_back_counts_again() -> None:
    watch = Watch()
    watch.hear("n", 0.0)
    watch.seconds = SILENT_SECONDS
    watch.heartbeats.fallen_silent()

    assert watch.hear("n", SILENT_SECONDS) is not None
    watch.seconds += SILENT_SECONDS - 1
    assert watch.heartbeats.fallen_silent() == []


def test_what_was_silent_before_we_began_does_not_count() -> None:
    watch = Watch()

    assert watch.hear("n", -SILENT_SECONDS) is None
    assert watch.heartbeats.fallen_silent() == []


def test_what_was_said_before_we_began_is_as_old_as_it_says() -> None:
    watch = Watch()
    watch.hear("n", -SILENT_SECONDS + 10)

    watch.seconds = 10.0

    assert watch.heartbeats.fallen_silent() == ["n"]


def test_a_change_of_something_else_is_no_heartbeat() -> None:
    watch = Watch()
    watch.hear("n", 0.0)
    watch.seconds = SILENT_SECONDS - 1
    watch.hear("n", 0.0)

    watch.seconds = SILENT_SECONDS

    assert watch.heartbeats.fallen_silent() == ["n"]


@pytest.mark.parametrize("off_seconds", [-7200.0, 7200.0], ids=["behind", "ahead"])
def test_a_node_whose_clock_is_wrong_counts_while_it_is_heard(off_seconds: float) -> None:
    watch = Watch()
    watch.hear("n", off_seconds)
    watch.seconds = HEARTBEAT_SECONDS
    assert watch.hear("n", off_seconds + HEARTBEAT_SECONDS) is not None

    watch.seconds += SILENT_SECONDS
    assert watch.heartbeats.fallen_silent() == ["n"]


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-31T12:00:00"], ids=["none", "no time", "no zone"])
def test_a_time_that_cannot_be_read_counts_from_now(text: str) -> None:
    watch = Watch()
    found = msgspec.structs.replace(holds("z", b=1), observed_time=text)

    assert watch.heartbeats.take("n", found) == found
    watch.seconds = SILENT_SECONDS
    assert watch.heartbeats.fallen_silent() == ["n"]


def test_a_cache_that_is_gone_or_never_reported_is_forgotten() -> None:
    watch = Watch()
    watch.hear("n", 0.0)

    assert watch.heartbeats.take("n", None) is None
    assert list(watch.heartbeats.known) == []
    watch.seconds = SILENT_SECONDS
    assert watch.heartbeats.fallen_silent() == []
