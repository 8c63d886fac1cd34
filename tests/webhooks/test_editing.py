"""What mutations do again and again: only what is still needed, and never over what is the user's."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene
from webhooks.editing import (
    ReservedNameError,
    add_missing_env,
    add_mounts,
    add_tolerations,
    add_volumes,
    includes,
    require,
    set_annotations,
    set_env,
    set_labels,
    set_node_selector,
)
from webhooks.nodes import Taint, tolerated
from webhooks.patch import Operations
from webhooks.pod import EnvVar, Pod, Requirement, Toleration, Volume, VolumeMount, places
from webhooks.scene import Change


def edited(before: Json, edit: Any, *wanted: Any) -> Json:
    """The pod after the edit, which finds nothing left to do; an edit of containers is done to all of them."""

    def mutation(pod: Pod, _: object) -> Change:
        if edit in {set_env, add_missing_env, add_mounts}:
            return Change(tuple(operation for place in places(pod) for operation in edit(place, *wanted)))
        return Change(edit(pod, *wanted))

    return admit(mutation, before, scene()).pod


def env(after: Json, kind: str = "containers") -> list[Json]:
    found: list[Json] = after["spec"][kind][0]["env"]
    return found


def test_environment_is_added_to_containers_without_any_and_of_every_kind() -> None:
    after = edited(pod(container(), init=(container("first"),)), set_env, [EnvVar(name="A", value="1")])

    assert env(after) == env(after, "initContainers") == [{"name": "A", "value": "1"}]


def test_environment_is_replaced_where_it_stands() -> None:
    after = edited(pod(container(env={"A": "old", "B": "2"})), set_env, [EnvVar(name="A", value="1"), EnvVar(name="C")])

    assert env(after) == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C"}]


def test_of_a_name_that_is_set_twice_the_last_counts() -> None:
    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]

    after = edited(pod(container(env=twice)), set_env, [EnvVar(name="A", value="3")])

    assert env(after) == [{"name": "A", "value": "1"}, {"name": "A", "value": "3"}]


def test_a_reference_that_the_api_server_completed_is_left() -> None:
    completed = {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}
    before = pod(container(env=[{"name": "A", "valueFrom": completed}]))

    after = edited(before, set_env, [EnvVar(name="A", value_from={"fieldRef": {"fieldPath": "metadata.name"}})])

    assert after == before


def test_missing_environment_leaves_what_the_user_set() -> None:
    before = pod(container(env={"A": "mine"}))

    after = edited(before, add_missing_env, [EnvVar(name="A", value="1"), EnvVar(name="B", value="2")])

    assert env(after) == [{"name": "A", "value": "mine"}, {"name": "B", "value": "2"}]


def test_mounts_and_volumes_are_added_once() -> None:
    before = pod(container(volumeMounts=[{"name": "other", "mountPath": "/other"}]), volumes=[{"name": "other"}])

    mounted = edited(before, add_mounts, [VolumeMount(name="apps", mount_path="/apps", read_only=True)])
    after = edited(mounted, add_volumes, [Volume(name="apps", empty_dir={})])

    assert after["spec"]["containers"][0]["volumeMounts"][1:] == [
        {"name": "apps", "mountPath": "/apps", "readOnly": True}
    ]
    assert after["spec"]["volumes"] == [{"name": "other"}, {"name": "apps", "emptyDir": {}}]


def test_a_mount_at_the_same_place_with_a_slash_more_is_the_same() -> None:
    before = pod(container(volumeMounts=[{"name": "apps", "mountPath": "/apps/"}]), volumes=[{"name": "apps"}])

    assert edited(before, add_mounts, [VolumeMount(name="apps", mount_path="/apps")]) == before


def test_another_volume_at_our_place_is_refused() -> None:
    before = pod(container(volumeMounts=[{"name": "mine", "mountPath": "/apps"}]))

    with pytest.raises(
        ReservedNameError, match=r"container 'main' mounts 'mine' at /apps.*mount yours at another path"
    ):
        edited(before, add_mounts, [VolumeMount(name="apps", mount_path="/apps")])


def test_another_volume_of_our_name_is_refused() -> None:
    with pytest.raises(ReservedNameError, match="volume name 'apps' is Tasuki's here; give yours another name"):
        edited(pod(volumes=[{"name": "apps", "emptyDir": {}}]), add_volumes, [Volume(name="apps", projected={})])


def test_a_volume_that_the_api_server_completed_is_left() -> None:
    before = pod(volumes=[{"name": "token", "projected": {"sources": [], "defaultMode": 420}}])

    assert edited(before, add_volumes, [Volume(name="token", projected={"sources": []})]) == before


def test_labels_annotations_and_selectors_are_set() -> None:
    labelled = edited(pod(labels={"a": "1"}), set_labels, {"a": "2", "example.com/b": "3"})
    annotated = edited(labelled, set_annotations, {"c": "4"})
    after = edited(annotated, set_node_selector, {"d": "5"})

    assert after["metadata"]["labels"] == {"a": "2", "example.com/b": "3"}
    assert after["metadata"]["annotations"] == {"c": "4"}
    assert after["spec"]["nodeSelector"] == {"d": "5"}


GPU = Toleration(key="gpu", operator="Exists", effect="NoSchedule")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        pytest.param([], 1, id="none"),
        pytest.param([{"key": "other", "operator": "Exists"}], 2, id="of another key"),
        pytest.param([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], 2, id="of another effect"),
        pytest.param([{"key": "gpu", "value": "present"}], 2, id="of one value"),
        pytest.param([{"key": "gpu", "operator": "Exists", "tolerationSeconds": 9}], 2, id="for a while"),
        pytest.param([{"key": "gpu", "operator": "Exists"}], 1, id="of every effect"),
        pytest.param([{"operator": "Exists"}], 1, id="of everything"),
    ],
)
def test_tolerations_are_added_unless_included(there: list[Json], expected: int) -> None:
    before = pod(tolerations=there) if there else pod()

    after = edited(before, add_tolerations, [GPU, GPU])

    assert len(after["spec"]["tolerations"]) == expected


TAINT_KEYS = st.sampled_from(["gpu", "fpga"])
TAINT_VALUES = st.sampled_from(["", "1", "2"])
EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
TOLERATIONS = st.builds(
    Toleration,
    key=TAINT_KEYS | st.just(""),
    operator=st.sampled_from(["", "Equal", "Exists", "Gt", "Lt"]),
    value=TAINT_VALUES,
    effect=st.sampled_from(["", *EFFECTS]),
)
TAINTS = st.builds(Taint, key=TAINT_KEYS, value=TAINT_VALUES, effect=st.sampled_from(EFFECTS))


@settings(max_examples=300, deadline=None)
@given(wide=TOLERATIONS, narrow=TOLERATIONS, taint=TAINTS)
def test_what_is_included_tolerates_nothing_more(wide: Toleration, narrow: Toleration, taint: Taint) -> None:
    assert not includes(wide, narrow) or set(tolerated([narrow], [taint])) <= set(tolerated([wide], [taint]))


@settings(max_examples=50, deadline=None)
@given(TOLERATIONS)
def test_a_toleration_includes_itself(toleration: Toleration) -> None:
    assert includes(toleration, toleration)


def terms(after: Json) -> list[Json]:
    required = after["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    found: list[Json] = required["nodeSelectorTerms"]
    return found


def with_terms(*wanted: Json) -> Json:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(wanted)}}
    return pod(affinity={"nodeAffinity": required})


def among(key: str, *values: str) -> Requirement:
    return Requirement(key=key, operator="In", values=values)


ZONE_A = {"key": "zone", "operator": "In", "values": ["a"]}
EITHER = {"key": "model", "operator": "In", "values": ["A100", "H100"]}


def test_one_value_becomes_part_of_the_node_selector() -> None:
    after = edited(pod(nodeSelector={"zone": "a"}), require, [among("model", "A100")])

    assert after["spec"]["nodeSelector"] == {"zone": "a", "model": "A100"}
    assert "affinity" not in after["spec"]


@pytest.mark.parametrize(
    "affinity",
    [
        pytest.param(None, id="no affinity"),
        pytest.param({}, id="empty affinity"),
        pytest.param({"podAffinity": {}}, id="affinity to pods only"),
        pytest.param({"nodeAffinity": {}}, id="preferred nodes only"),
    ],
)
def test_several_values_become_affinity_beside_what_is_there(affinity: Json | None) -> None:
    before = pod(affinity=affinity) if affinity is not None else pod()

    after = edited(before, require, [among("model", "A100", "H100")])

    assert terms(after) == [{"matchExpressions": [EITHER]}]
    assert (affinity or {}).keys() <= after["spec"]["affinity"].keys()


def test_every_term_of_the_pods_own_affinity_is_narrowed() -> None:
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
    before = with_terms({"matchExpressions": [ZONE_A]}, by_name)

    after = edited(before, require, [among("model", "A100", "H100")])

    assert terms(after) == [{"matchExpressions": [ZONE_A, EITHER]}, by_name | {"matchExpressions": [EITHER]}]


def test_a_term_that_matches_no_node_stays_so() -> None:
    before: Json = with_terms({}, {"matchExpressions": [ZONE_A]})

    after = edited(before, require, [among("model", "A100", "H100")])

    assert terms(after) == [{}, {"matchExpressions": [ZONE_A, EITHER]}]


def test_affinity_without_terms_is_left_to_the_api_server_to_refuse() -> None:
    before = msgspec.convert(with_terms(), Pod)

    assert require(before, [among("model", "A100", "H100")]) == ()


def test_other_requirements_become_affinity_in_their_order() -> None:
    wanted = [
        Requirement(key="shared", operator="DoesNotExist"),
        Requirement(key="zone", operator="In", values=("a",)),
        Requirement(key="model", operator="NotIn", values=("T4",)),
    ]

    after = edited(pod(), require, wanted)

    assert after["spec"]["nodeSelector"] == {"zone": "a"}
    assert terms(after) == [
        {
            "matchExpressions": [
                {"key": "shared", "operator": "DoesNotExist"},
                {"key": "model", "operator": "NotIn", "values": ["T4"]},
            ]
        }
    ]


def test_nothing_required_makes_nothing() -> None:
    nothing: Operations = require(Pod(), [])

    assert nothing == ()
