"""Plain text tables."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

# What a terminal takes as a change of colour, which takes up no room.
_COLOUR: Final = re.compile(r"\x1b\[\d+m")
_GAP: Final = "  "

Cell = Sequence[str]


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns as wide as their widest line, under their heads; a cell has any number of lines."""
    lines: list[Sequence[str]] = [heads]
    for row in rows:
        lines.extend(zip_longest(*row, fillvalue=""))
    widths = [max(_width(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(_joined(line, widths) for line in lines)


def _joined(line: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _width(text: str) -> int:
    return len(_COLOUR.sub("", text))
