"""What people and programs read about a pod's places."""

import json
from random import Random

import pytest

from schedext.explanation import Explanation, NodeExplanation, as_json, as_text

FITTING = (
    NodeExplanation(
        "gpu-2", "zone-a", seconds={"sharing": 900.0, "cache": 12.345}, watts=700, score=3, devices=("GPU-1", "GPU-2")
    ),
    NodeExplanation("gpu-1", seconds={"edges": 0.0001}, score=10, devices=("GPU-9",)),
    NodeExplanation("gpu-3", seconds={"cache": 2.0}, score=3),
)
BUSY = tuple(NodeExplanation(f"busy-{each}", fits=False, reason="wants 2 slices, 1 is free") for each in range(5))
NEVER = (NodeExplanation("cpu-1", fits=False, reason="has no GPU", never=True),)
WHOLE = Explanation("research/train", "performance", ("a chain plans it",), FITTING + BUSY + NEVER)


def test_people_see_a_table_with_the_best_first() -> None:
    assert as_text(WHOLE, 0) == (
        "pod research/train, placed for performance\n"
        "note: a chain plans it\n"
        "\n"
        "fits on 3 of 9 nodes\n"
        "  seconds: lost in an hour of the pod's run, by cause; fewer are better\n"
        "  watts: of all devices that the pod would use; 0 where that is not known\n"
        "  score: from 0 to 10, as the scheduler is told; higher is better\n"
        "\n"
        "NODE   ZONE    SCORE  SECONDS   EDGES  CACHE  SHARING  WATTS  DEVICES\n"
        "gpu-1  -          10   <0.001  <0.001      0        0      0  GPU-9\n"
        "gpu-3  -           3        2       0      2        0      0  -\n"
        "gpu-2  zone-a      3      912       0   12.3      900    700  GPU-1,GPU-2\n"
        "\n"
        "does not fit on 6 nodes\n"
        "  5 nodes, not now: wants 2 slices, 1 is free (busy-0, busy-1, busy-2, …)\n"
        "  1 node, never: has no GPU (cpu-1)\n"
    )


def test_a_limit_leaves_out_what_is_worst_and_says_so() -> None:
    text = as_text(WHOLE, 1)

    assert "gpu-1" in text
    assert "gpu-2" not in text
    assert "… and 2 more nodes; a limit of 0 shows all" in text
    assert "… and 1 more reason; a limit of 0 shows all" in text


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        pytest.param((), "fits on 0 of 0 nodes", id="no node"),
        pytest.param(NEVER, "fits on 0 of 1 node\n\ndoes not fit on 1 node", id="none that fits"),
        pytest.param(FITTING[:1], "fits on 1 of 1 node", id="all fit"),
    ],
)
def test_what_is_empty_is_left_out(nodes: tuple[NodeExplanation, ...], told: str) -> None:
    text = as_text(Explanation("a/b", "efficiency", nodes=nodes), 20)

    assert told in text
    assert ("NODE" in text) == any(node.fits for node in nodes)
    assert ("does not fit" in text) == any(not node.fits for node in nodes)


def test_programs_get_every_number() -> None:
    document = json.loads(as_json(WHOLE, 0))

    assert document["pod"] == "research/train"
    assert (document["fitting"], document["refused"]) == (3, 6)
    assert set(document["units"]) == {"seconds", "watts", "score"}
    assert [node["name"] for node in document["nodes"]][:4] == ["gpu-1", "gpu-3", "gpu-2", "busy-0"]
    assert document["nodes"][2] == {
        "name": "gpu-2",
        "zone": "zone-a",
        "fits": True,
        "seconds": {"cache": 12.345, "sharing": 900.0},
        "totalSeconds": 912.345,
        "watts": 700,
        "score": 3,
        "devices": ["GPU-1", "GPU-2"],
    }
    assert document["nodes"][-1] == {
        "name": "cpu-1", "zone": "", "fits": False, "reason": "has no GPU", "never": True,
    }  # fmt: skip


def test_a_limit_counts_each_half_for_programs() -> None:
    document = json.loads(as_json(WHOLE, 1))

    assert [node["name"] for node in document["nodes"]] == ["gpu-1", "busy-0"]
    assert (document["fitting"], document["refused"]) == (3, 6)


def test_the_order_of_the_nodes_changes_nothing() -> None:
    nodes = list(WHOLE.nodes)
    Random(1).shuffle(nodes)
    shuffled = Explanation(WHOLE.pod, WHOLE.objective, WHOLE.notes, tuple(nodes))

    assert as_text(shuffled, 2) == as_text(WHOLE, 2)
    assert as_json(shuffled, 2) == as_json(WHOLE, 2)
