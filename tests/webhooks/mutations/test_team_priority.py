"""A team's default and its maximum, also beside the class of CPU-only pods."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Admitted, Json, admit, container, pod, scene
from tests.webhooks.priority_admission import CPU, OPEN_NODES, admit_priority, cluster_of, pods_in, scenes
from webhooks.cluster import Cluster
from webhooks.mutations.cpu_only import cpu_only
from webhooks.mutations.team_priority import check_team_priority, team_priority
from webhooks.pod import Pod
from webhooks.policy.model import CpuOnly, Policy, Team
from webhooks.scene import NOTHING, RefusedError, Scene

CLASSES = {CPU: -10, "low": 10, "normal": 100, "high": 1000}
TEAM = Team(namespaces=("research",), default_priority_class="low", maximum_priority_class="normal")


def where(team: Team = TEAM, *, default: str = "", **fields: Any) -> Scene:
    return scene(Policy(teams=(team,)), cluster=cluster_of(CLASSES, default), **fields)


def admitted_in(place: Scene, before: Json) -> Admitted:
    """As it goes in a cluster: the API server's own admission comes first, and comes again after us."""
    admitted = admit(team_priority, admit_priority(before, place.cluster), place)
    after = admit_priority(admitted.pod, place.cluster)
    return Admitted(pod=after, change=admitted.change, operations=admitted.operations)


def check(before: Json, place: Scene) -> None:
    assert check_team_priority(msgspec.convert(before, Pod), place) is NOTHING


@pytest.mark.parametrize("default", [pytest.param("", id="none"), pytest.param("normal", id="the cluster's default")])
def test_a_pod_that_names_no_class_gets_the_teams(default: str) -> None:
    admitted = admitted_in(where(default=default), pod())

    assert admitted.pod["spec"]["priorityClassName"] == "low"
    assert admitted.pod["spec"]["priority"] == 10
    assert admitted.change.warnings == ()


@pytest.mark.parametrize("name", ["low", "normal", CPU])
def test_a_class_up_to_the_maximum_is_kept(name: str) -> None:
    assert admitted_in(where(), pod(priorityClassName=name)).operations == []


@pytest.mark.parametrize(
    ("name", "value"), [("high", 1000), ("system-cluster-critical", 2_000_000_000)], ids=["a user's", "the system's"]
)
def test_a_class_above_the_maximum_is_refused_with_the_allowed_ones(name: str, value: int) -> None:
    told = (
        f"priority class '{name}' ({value}) is above 'normal' (100), the highest that namespace 'research' may ask "
        f"for; set priorityClassName to normal, low, {CPU}"
    )

    with pytest.raises(RefusedError, match=f"^{re.escape(told)}$"):
        admitted_in(where(), pod(priorityClassName=name))
    with pytest.raises(RefusedError, match=f"^{re.escape(told)}$"):
        check(pod(priorityClassName=name), where())


EVERY_NAMESPACE = [
    pytest.param(Team(maximum_priority_class="normal"), id="without names"),
    pytest.param(Team(namespaces=("a", "*"), maximum_priority_class="normal"), id="with every name"),
]
CHOSEN_NAMESPACES = [
    pytest.param(Team(namespaces=("research",), maximum_priority_class="normal"), id="by name"),
    pytest.param(Team(namespaces=("*re*",), maximum_priority_class="normal"), id="by a part of the name"),
    pytest.param(Team(namespace_labels={"team": "*"}, maximum_priority_class="normal"), id="by label"),
]


@pytest.mark.parametrize("team", EVERY_NAMESPACE)
@pytest.mark.parametrize("name", ["system-cluster-critical", "system-node-critical"])
def test_a_rule_for_every_namespace_keeps_no_part_of_the_cluster_from_coming_up(team: Team, name: str) -> None:
    place = where(team, namespace="calico-system")

    admitted = admitted_in(place, pod(priorityClassName=name))

    assert admitted.operations == []
    [told] = admitted.change.warnings
    assert told.startswith(f"priority class '{name}' (20000")
    assert "is above 'normal' (100), the highest that the policy has for every namespace" in told
    assert len(told) < 200
    check(admitted.pod, place)


@pytest.mark.parametrize("team", EVERY_NAMESPACE)
def test_a_rule_for_every_namespace_refuses_what_is_not_the_systems(team: Team) -> None:
    with pytest.raises(RefusedError, match=r"^priority class 'high'"):
        admitted_in(where(team), pod(priorityClassName="high"))
    with pytest.raises(RefusedError, match=r"^priority class 'high'"):
        check(pod(priorityClassName="high"), where(team))


@pytest.mark.parametrize("team", CHOSEN_NAMESPACES)
def test_a_rule_that_chooses_its_namespaces_refuses_the_systems_classes(team: Team) -> None:
    place = where(team, labels={"team": "vision"})

    with pytest.raises(RefusedError, match=r"^priority class 'system-node-critical'"):
        admitted_in(place, pod(priorityClassName="system-node-critical"))
    with pytest.raises(RefusedError, match=r"^priority class 'system-node-critical'"):
        check(pod(priorityClassName="system-node-critical"), place)


def test_of_many_allowed_classes_the_highest_are_named() -> None:
    many = {f"class-{value:02}": value for value in range(25)}
    place = scene(Policy(teams=(Team(maximum_priority_class="class-20"),)), cluster=cluster_of(many))

    with pytest.raises(RefusedError, match="set priorityClassName to class-20, class-19, ") as caught:
        admit(team_priority, pod(priorityClassName="class-24"), place)

    assert str(caught.value).endswith("class-12, class-11 or one of 11 below")


def test_a_maximum_below_the_clusters_default_lowers_pods_that_name_no_class() -> None:
    place = where(Team(maximum_priority_class="normal"), default="high")

    admitted = admitted_in(place, pod())

    assert admitted.pod["spec"]["priorityClassName"] == "normal"
    check(admitted.pod, place)


def test_a_default_above_the_maximum_does_not_exceed_it() -> None:
    place = where(Team(default_priority_class="high", maximum_priority_class="low"))

    assert admitted_in(place, pod()).pod["spec"]["priorityClassName"] == "low"


def test_the_final_pod_may_not_have_a_default_above_the_maximum_either() -> None:
    place = where(Team(maximum_priority_class=CPU))

    with pytest.raises(RefusedError, match=r"^the priority of pods without a class \(0\) is above "):
        check(pod(priority=0), place)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(scene(cluster=cluster_of(CLASSES)), id="no team"),
        pytest.param(where(namespace="other"), id="another namespace"),
        pytest.param(where(Team(namespace_labels={"team": "vision"}), labels={"team": "nlp"}), id="other labels"),
        pytest.param(where(Team()), id="a team without classes"),
        pytest.param(where(Team(default_priority_class="low"), default="low"), id="the default is the cluster's"),
    ],
)
@pytest.mark.parametrize("before", [pod(), pod(priority=0), pod(container(gpus=1), priorityClassName="low")])
def test_pods_are_left_alone(place: Scene, before: Json) -> None:
    assert admitted_in(place, before | {"spec": before["spec"] | {"priority": _value(before, place)}}).operations == []
    check(before, place)


def _value(before: Json, place: Scene) -> int:
    """What the API server has computed."""
    without = {name: value for name, value in before["spec"].items() if name != "priority"}
    return int(admit_priority(before | {"spec": without}, place.cluster)["spec"]["priority"])


def test_the_first_team_that_matches_counts() -> None:
    teams = (Team(namespace_labels={"team": "vision"}, default_priority_class="high"), TEAM)
    place = scene(Policy(teams=teams), cluster=cluster_of(CLASSES), labels={"team": "vision"})

    assert admitted_in(place, pod()).pod["spec"]["priorityClassName"] == "high"


def test_nobody_is_refused_while_the_classes_are_not_known() -> None:
    place = scene(Policy(teams=(TEAM,)), cluster=Cluster())

    admitted = admit(team_priority, pod(priorityClassName="high", priority=1000), place)

    assert admitted.operations == []
    assert admitted.change.notes == {"team-priority": "not applied: no PriorityClass is known yet"}
    check(pod(priorityClassName="high", priority=1000), place)


def test_classes_that_the_cluster_lacks_are_noted_and_refuse_nobody() -> None:
    place = where(Team(default_priority_class="lo", maximum_priority_class="norm"))

    admitted = admitted_in(place, pod(priorityClassName="high"))

    assert admitted.operations == []
    assert admitted.change.notes == {"team-priority": "not wholly applied: there is no PriorityClass lo or norm"}
    check(pod(priorityClassName="high"), place)


def test_a_class_that_is_new_to_us_has_the_priority_that_the_api_server_computed() -> None:
    with pytest.raises(RefusedError, match=r"'brand-new' \(5000\) is above 'normal'"):
        admit(team_priority, pod(priorityClassName="brand-new", priority=5000), where())


def test_a_class_of_which_nothing_is_known_is_left_to_the_api_server() -> None:
    assert admit(team_priority, pod(priorityClassName="brand-new"), where()).operations == []


def test_what_the_api_server_computed_from_the_former_class_goes_with_it() -> None:
    admitted = admit(team_priority, pod(priority=0, preemptionPolicy="PreemptLowerPriority"), where())

    assert admitted.operations == [
        {"op": "add", "path": "/spec/priorityClassName", "value": "low"},
        {"op": "remove", "path": "/spec/priority"},
        {"op": "remove", "path": "/spec/preemptionPolicy"},
    ]


def test_cpu_only_pods_keep_their_class_where_it_is_the_clusters_default_too() -> None:
    policy = Policy(cpu_only=CpuOnly(), teams=(TEAM,))
    place = scene(policy, cluster=cluster_of(CLASSES, default=CPU), nodes=OPEN_NODES)

    assert admitted_in(place, pod()).operations == []
    assert admitted_in(place, pod(container(gpus=1))).pod["spec"]["priorityClassName"] == "low"


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_both_together_agree_in_every_cluster(choices: st.DataObject) -> None:
    place = choices.draw(scenes())
    before = choices.draw(pods_in(place))
    try:
        after = _both(before, place)
    except RefusedError:
        after = None

    if after is None:
        # Only what somebody chose is refused, and what the pod itself is told to write is admitted.
        assert before["spec"]["priorityClassName"]
        without = {key: value for key, value in before["spec"].items() if not key.startswith(("priority", "preempt"))}
        after = _both(admit_priority(before | {"spec": without}, place.cluster), place)
    check(after, place)
    assert _both(after, place) == after


def _both(before: Json, place: Scene) -> Json:
    """As the pipeline does it, with the API server's admission after it; it never objects, and cpu_only has its way."""
    lowered = admit(cpu_only, before, place)
    given = admit(team_priority, lowered.pod, place)
    assert not (lowered.operations and given.operations)
    return admit_priority(given.pod, place.cluster)
