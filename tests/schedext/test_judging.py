from collections.abc import Sequence

import pytest

from schedext import judging
from schedext.costs import DEFAULT_COSTS
from schedext.demand import Shape, Turn, Want
from schedext.judging import Cost, Judgements
from schedext.look import Look
from schedext.node import Node
from schedext.placement import Placement
from schedext.placing import place
from tasuki.kube.names import NVIDIA_GPU
from tests.schedext.looks import a_look

ONE = Shape(counts=((NVIDIA_GPU, 1),), largest=(1,))


def nodes_of(looks: Sequence[Look]) -> dict[str, Node]:
    return {f"n{number}": Node(f"n{number}", look) for number, look in enumerate(looks)}


def looks(count: int) -> list[Look]:
    return [a_look(replicas=1000, taken=[taken]) for taken in range(count)]


def shapes(count: int) -> list[Shape]:
    return [Shape(counts=((NVIDIA_GPU, 1),), largest=(1,), memory_bytes=1 + number) for number in range(count)]


def test_a_judgement_is_what_placing_says() -> None:
    judged = Judgements(DEFAULT_COSTS, {}).of(ONE)
    free, full = a_look(), a_look(taken=[1] * 8)
    placed = place(ONE, (Want("main", Turn.MAIN, NVIDIA_GPU, 1),), free, DEFAULT_COSTS)

    assert isinstance(placed, Placement)
    assert judged.judge(free) == Cost(placed.total_seconds, placed.watts)
    assert judged.judge(full) == place(ONE, (), full, DEFAULT_COSTS)
    assert judged.judge(free) is judged.by_look[free]


def test_looks_that_no_node_has_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_FEWEST_JUDGEMENTS", 10)
    came = looks(100)
    nodes = nodes_of(came[:3])
    judged = Judgements(DEFAULT_COSTS, nodes).of(ONE)

    for look in came:
        judged.judge(look)

    assert len(judged.by_look) <= 10
    assert judged.by_look.keys() >= set(came[:3])


def test_of_too_many_judgements_the_shapes_asked_about_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_FEWEST_JUDGEMENTS", 10)
    monkeypatch.setattr(judging, "_MOST_JUDGEMENTS", 40)
    here = looks(10)
    judgements = Judgements(DEFAULT_COSTS, nodes_of(here))
    all_judged = [judgements.of(shape) for shape in shapes(50)]

    for judged in all_judged:
        for look in here:
            judged.judge(look)
    kept = [judged for judged, shape in zip(all_judged, shapes(50), strict=True) if judgements.of(shape) is judged]

    assert all_judged[-1] in kept
    assert sum(len(judged.by_look) for judged in kept) <= 40


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_MOST_SHAPES", 3)
    judgements = Judgements(DEFAULT_COSTS, {})
    first, *_, last = [judgements.of(shape) for shape in shapes(4)]

    assert judgements.of(shapes(4)[-1]) is last
    assert judgements.of(shapes(4)[0]) is not first
