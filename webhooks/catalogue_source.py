"""The catalogue of environment modules: read from its file, if there is one, and again whenever that is replaced."""

from collections.abc import Callable
from pathlib import Path

from tasuki.process.file_source import DEFAULT_PACE, FileSource, Pace
from webhooks.catalogue import Catalogue, read_catalogue


class CatalogueSource(FileSource[Catalogue | None]):
    """None without a file: then every module is taken for one that exists."""

    def __init__(
        self,
        file: Path,
        changed: Callable[[Catalogue | None], None],
        report: Callable[[str], None],
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        super().__init__(file, _catalogue, changed, report, pace)


def _catalogue(content: bytes | None) -> Catalogue | None:
    if content is None:
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from None
    return read_catalogue(text)
