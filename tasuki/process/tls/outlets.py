"""Where a certificate's keeper tells how it stands."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outlets:
    """An empty text takes the last one back.

    Attributes:
        report: Why clients cannot be served.
        note: What is wrong while they are.
    """

    report: Callable[[str], None]
    note: Callable[[str], None]

    def tell(self, problem: str, *, serving: bool) -> None:
        self.report("" if serving else problem)
        self.note(problem if serving else "")
