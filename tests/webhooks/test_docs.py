"""What the pages say of the webhooks' settings."""

import re
from pathlib import Path

from webhooks import settings

PAGE = Path(__file__).parents[2] / "docs/admission.md"


def test_every_setting_has_its_row_on_the_page() -> None:
    rows = re.findall(r"^\| `--([a-z-]+)` \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)

    assert rows == [(option.name, option.variable) for option in settings._OPTIONS]
