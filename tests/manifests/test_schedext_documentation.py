"""docs/scheduling.md says of settings, metrics and causes what the extender has."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from schedext import settings
from schedext.costs import CAUSES
from schedext.metrics import BIND_OUTCOMES, OUTCOMES, Metrics

Table = Callable[..., list[list[str]]]
PAGE: Final = "scheduling.md"


def test_settings_are_those_of_the_documentation(table: Table) -> None:
    documented = [(row[0], row[1]) for row in table("Settings", PAGE)]

    assert documented == [(f"--{each.name}", each.variable) for each in settings._OPTIONS]


def test_metrics_are_those_of_the_documentation(table: Table) -> None:
    documented = {row[0] for row in table("Metrics", PAGE)}
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in Metrics().registry.collect()}

    assert documented == names


def test_every_outcome_is_explained(repository: Path) -> None:
    page = (repository / "docs" / PAGE).read_text()

    assert [each for each in (*OUTCOMES, *BIND_OUTCOMES) if f"`{each}`" not in page] == []


def test_causes_are_those_of_the_documentation(table: Table) -> None:
    assert {row[0] for row in table("How places are ranked", PAGE)} == set(CAUSES)
