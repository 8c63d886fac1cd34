"""Which requests the API server brings to the webhooks, and that it can never be kept from admitting its own parts."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

Json = dict[str, Any]
Objects = list[Json]
Components = tuple[str, ...]
Evaluate = Callable[[str, Mapping[str, Any]], Any]

CONFIGURATIONS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
NAME_LABEL: Final = "kubernetes.io/metadata.name"
SYSTEM: Final = ("kube-system", "kube-public", "kube-node-lease", "tasuki-system")
OPERATORS: Final[Mapping[str, Callable[[str | None, list[str]], bool]]] = {
    "In": lambda value, values: value is not None and value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}
MIRROR: Final = {"metadata": {"annotations": {"kubernetes.io/config.mirror": "1"}}}
NODE: Final = {"username": "system:node:worker-1", "groups": ["system:nodes", "system:authenticated"]}


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """As apimachinery's labels.Selector: an operator that excludes holds for a label that is absent."""
    return all(
        OPERATORS[each["operator"]](labels.get(each["key"]), each.get("values", []))
        for each in selector["matchExpressions"]
    )


def called(objects: Objects, *kinds: str) -> list[Json]:
    found = [each for each in objects if each["kind"] in (kinds or CONFIGURATIONS)]
    return [webhook for each in found for webhook in each["webhooks"]]


def namespace(name: str, labels: Mapping[str, str] | None = None) -> dict[str, str]:
    """The labels of a namespace; the API server writes the one with its name."""
    return {NAME_LABEL: name, **(labels or {})}


def failure_policies(objects: Objects, labels: Mapping[str, str], *kinds: str) -> list[str]:
    """Of the webhooks that are asked about a namespace's pods."""
    return [each["failurePolicy"] for each in called(objects, *kinds) if selects(each["namespaceSelector"], labels)]


def test_only_the_creation_of_pods_is_reviewed(webhooks: Objects) -> None:
    pods = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["pods"],
        "operations": ["CREATE"],
        "scope": "Namespaced",
    }

    assert all(each["rules"] == [pods] for each in called(webhooks))


def test_pods_cannot_opt_out(webhooks: Objects) -> None:
    assert not any("objectSelector" in each for each in called(webhooks))


def test_reviews_are_v1_quick_and_without_side_effects(webhooks: Objects) -> None:
    for each in called(webhooks):
        assert each["admissionReviewVersions"] == ["v1"]
        assert each["sideEffects"] == "None"
        assert each["matchPolicy"] == "Equivalent"
        assert each["timeoutSeconds"] == 5


def test_mutation_is_asked_again_after_others(webhooks: Objects) -> None:
    assert {each["reinvocationPolicy"] for each in called(webhooks, CONFIGURATIONS[0])} == {"IfNeeded"}


@pytest.mark.parametrize("name", SYSTEM)
def test_no_label_brings_the_clusters_own_namespaces_in(webhooks: Objects, name: str) -> None:
    values = {"tasuki.dev/admission": ("on", "off"), "tasuki.dev/protected": ("true", "false")}
    choices = itertools.product(*[[{}, *({key: value} for value in each)] for key, each in values.items()])
    for one, other in choices:
        assert failure_policies(webhooks, namespace(name, {**one, **other})) == []


def test_without_fail_closed_nothing_fails_closed(webhooks: Objects, chosen: Components) -> None:
    closed = [each["name"] for each in called(webhooks) if each["failurePolicy"] == "Fail"]

    shut = ["protected.pods.mutate.tasuki.dev", "protected.pods.validate.tasuki.dev"]
    assert closed == (shut if "fail-closed" in chosen else [])


def test_what_is_closed_differs_from_what_is_open_in_nothing_else(
    render_webhooks: Callable[[Components], Objects],
) -> None:
    """A field that changes in one of the two would else be forgotten in the other."""
    apart = ("name", "failurePolicy", "namespaceSelector")
    for kind in CONFIGURATIONS:
        opened, closed = (
            {key: value for key, value in each.items() if key not in apart}
            for each in called(render_webhooks(("fail-closed",)), kind)
        )

        assert closed == opened


@pytest.mark.parametrize(
    ("components", "labels", "mutating", "validating"),
    [
        pytest.param((), {}, ["Ignore"], ["Ignore"], id="an ordinary namespace"),
        pytest.param((), {"tasuki.dev/admission": "off"}, [], [], id="one that is excepted"),
        pytest.param((), {"tasuki.dev/protected": "true"}, ["Ignore"], ["Ignore"], id="protected, without fail-closed"),
        pytest.param(("fail-closed",), {}, ["Ignore"], ["Ignore"], id="not protected, with fail-closed"),
        pytest.param(("fail-closed",), {"tasuki.dev/protected": "true"}, ["Fail"], ["Fail"], id="protected"),
        pytest.param(
            ("fail-closed",),
            {"tasuki.dev/protected": "true", "tasuki.dev/admission": "off"},
            [],
            [],
            id="protected, and switched off in need",
        ),
        pytest.param(("labelled-namespaces",), {}, [], [], id="in a trial, without the label"),
        pytest.param(
            ("labelled-namespaces",), {"tasuki.dev/admission": "on"}, ["Ignore"], ["Ignore"], id="in a trial, labelled"
        ),
        pytest.param(("labelled-namespaces",), {"tasuki.dev/admission": "off"}, [], [], id="in a trial, excepted"),
        *(
            pytest.param(
                components,
                {"tasuki.dev/protected": "true", **labels},
                ["Fail"],
                ["Fail"],
                id=f"protected in a trial, {named}, {components[0]} first",
            )
            for components in itertools.permutations(("fail-closed", "labelled-namespaces"))
            for named, labels in {"without the trial's label": {}, "labelled": {"tasuki.dev/admission": "on"}}.items()
        ),
    ],
)
def test_a_namespaces_labels_decide(
    render_webhooks: Callable[[Components], Objects],
    components: Components,
    labels: Mapping[str, str],
    mutating: list[str],
    validating: list[str],
) -> None:
    """A pod is asked about at most once for each of the two."""
    objects = render_webhooks(components)
    mutate, validate = CONFIGURATIONS

    assert failure_policies(objects, namespace("research", labels), mutate) == mutating
    assert failure_policies(objects, namespace("research", labels), validate) == validating


@pytest.mark.parametrize(
    ("pod", "user", "expected"),
    [
        pytest.param({"metadata": {}}, {"username": "ana", "groups": ["research"]}, True, id="a user's pod"),
        pytest.param({"metadata": {"annotations": {"a": "b"}}}, {"username": "ana"}, True, id="a user without groups"),
        pytest.param(MIRROR, NODE, False, id="a node's copy of a static pod"),
        pytest.param(MIRROR, {"username": "ana", "groups": ["research"]}, True, id="a user who says that it is one"),
        pytest.param(MIRROR, {"username": "ana"}, True, id="who says so, without groups"),
        pytest.param({"metadata": {}}, NODE, True, id="another pod of a node's"),
        pytest.param({"metadata": {"annotations": {}}}, NODE, True, id="another pod, with empty annotations"),
    ],
)
def test_only_copies_of_static_pods_are_left_out(
    render_webhooks: Callable[[Components], Objects], evaluate: Evaluate, pod: Json, user: Json, expected: bool
) -> None:
    for each in called(render_webhooks(("fail-closed",))):
        [condition] = [one for one in each["matchConditions"] if one["name"] == "not-a-mirror-pod"]

        assert evaluate(condition["expression"], {"request": {"userInfo": user}, "object": pod}) == expected


def test_the_policies_have_the_webhooks_condition(webhooks: Objects, admission_policies: Objects) -> None:
    [condition] = called(webhooks, CONFIGURATIONS[0])[0]["matchConditions"]

    for policy in (each for each in admission_policies if each["kind"].endswith("Policy")):
        assert condition in policy["spec"]["matchConditions"]


@pytest.mark.parametrize("name", SYSTEM)
def test_the_policies_leave_the_clusters_own_namespaces_alone(admission_policies: Objects, name: str) -> None:
    labels = {"tasuki.dev/protected": "true", "tasuki.dev/maximum-priority": "0"}
    for policy in (each for each in admission_policies if each["kind"].endswith("Policy")):
        selector = policy["spec"]["matchConstraints"]["namespaceSelector"]

        assert not selects(selector, namespace(name, labels))
        assert selects(selector, namespace("research", labels))
        assert not selects(selector, namespace("research", labels | {"tasuki.dev/admission": "off"}))
