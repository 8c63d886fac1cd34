"""What is asked for all the time is kept at hand: small objects whole, larger ones by an open file."""

from typing import Final

from objectcache.serving.open_file import OpenFile

# What was asked for so often in a turn stays at hand during the next one.
OFTEN: Final = 100
# In all. Clients ask for few objects all the time, and of a million in turn nothing is worth being kept.
MOST_BYTES: Final = 4 * 2**20
# Each may be of an object that was removed, whose space is free only when it is let go.
MOST_FILES: Final = 32


class Popular:
    """What may come to be asked for all the time.

    Attributes:
        content: What is kept of it, or of an answer that ends with it; empty for nothing.
        file: What is kept of a larger one; None for nothing.
        asked: How often, in the turn `turn`.
    """

    __slots__ = ("asked", "content", "file", "turn")

    def __init__(self) -> None:
        self.content = b""
        self.file: OpenFile | None = None
        self.asked = 0
        self.turn = 0


class AtHand:
    """Counts what is asked for, turn by turn, and keeps what was asked for often, as far as there is room."""

    def __init__(self) -> None:
        self._turn = 1
        # With the bytes that it takes.
        self._kept: Final[dict[Popular, int]] = {}
        self._bytes = 0
        self._files = 0

    def ask(self, popular: Popular) -> bool:
        """Count that it is asked for; whether that was often enough just now."""
        if popular.turn != self._turn:
            popular.turn, popular.asked = self._turn, 0
        popular.asked += 1
        return popular.asked == OFTEN

    def keep_content(self, popular: Popular, content: bytes) -> None:
        """Keep it if there is room."""
        if popular not in self._kept and self._bytes + len(content) <= MOST_BYTES:
            popular.content = content
            self._kept[popular] = len(content)
            self._bytes += len(content)

    def keep_file(self, popular: Popular, file: OpenFile) -> None:
        """Keep it if there is room."""
        if popular not in self._kept and self._files < MOST_FILES:
            file.hold()
            popular.file = file
            self._kept[popular] = 0
            self._files += 1

    def let_go(self, popular: Popular) -> None:
        """Of what was kept, if it was."""
        self._bytes -= self._kept.pop(popular, 0)
        popular.content = b""
        if popular.file is not None:
            popular.file.let_go()
            popular.file = None
            self._files -= 1

    def end_turn(self) -> None:
        """Let go of all that was not asked for often; call it once a second."""
        for popular in [*self._kept]:
            if popular.turn != self._turn or popular.asked < OFTEN:
                self.let_go(popular)
            elif popular.file is not None:
                popular.file.warmed = 0
        self._turn += 1
