"""Which rule is for a namespace, also while its labels are not known."""

from collections.abc import Mapping

import pytest

from webhooks.policy.model import Protection, Team, protection_for, rule_for

GOLD = Team(namespace_labels={"tier": "gold"}, default_priority_class="gold")
NOT_GOLD = Team(namespace_labels={"tier": "!gold"}, default_priority_class="other")
RESEARCH = Team(namespaces=("research-*",), default_priority_class="research")
ANY = Team(default_priority_class="standard")


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        pytest.param("web", {"tier": "gold"}, GOLD, id="its labels suit"),
        pytest.param("web", {}, NOT_GOLD, id="it has no labels"),
        pytest.param("web", None, None, id="its labels are not known and would decide"),
    ],
)
def test_the_first_rule_for_a_namespace_counts(
    namespace: str, labels: Mapping[str, str] | None, expected: Team | None
) -> None:
    assert rule_for((GOLD, NOT_GOLD, ANY), namespace, labels) is expected


def test_labels_that_decide_nothing_need_not_be_known() -> None:
    assert rule_for((RESEARCH, GOLD, ANY), "research-1", None) is RESEARCH
    assert rule_for((RESEARCH, ANY), "web", None) is ANY


PROTECTED = Protection(namespace_labels={"protected": "true"}, visible_devices="deny", hides_unrequested=False)
TRUSTED = Protection(namespace_labels={"trusted": "true"}, visible_devices="allow", privileged="allow")
OPERATORS = Protection(namespaces=("gpu-operator",), visible_devices="allow", host_devices="allow")
STRIPPING = Protection(privileged="strip", hides_daemon_sets=True)


@pytest.mark.parametrize(
    ("rules", "namespace", "expected"),
    [
        pytest.param((PROTECTED, TRUSTED, STRIPPING), "web", STRIPPING, id="rules by labels"),
        pytest.param((OPERATORS, STRIPPING), "gpu-operator", OPERATORS, id="rules by names"),
        pytest.param((OPERATORS,), "web", None, id="no rule"),
    ],
)
def test_labels_that_are_known_to_be_absent_suit_no_rule_that_wants_them(
    rules: tuple[Protection, ...], namespace: str, expected: Protection | None
) -> None:
    assert protection_for(rules, namespace, {}) is expected


@pytest.mark.parametrize(
    ("rules", "namespace", "expected"),
    [
        pytest.param(
            (PROTECTED, STRIPPING),
            "web",
            Protection(visible_devices="deny", privileged="strip", hides_daemon_sets=True),
            id="each verdict from the rule that is strictest in it",
        ),
        pytest.param((TRUSTED, Protection()), "web", Protection(), id="trust that is not certain"),
        pytest.param(
            (TRUSTED,), "web", Protection(visible_devices="allow", privileged="allow"), id="no rule that is certain"
        ),
        pytest.param((OPERATORS, PROTECTED), "gpu-operator", OPERATORS, id="a rule by name before all"),
        pytest.param((OPERATORS,), "web", None, id="no rule at all"),
        pytest.param(
            (Protection(namespaces=("other",), namespace_labels={"a": "b"}, privileged="deny"), STRIPPING),
            "web",
            STRIPPING,
            id="a rule for another name",
        ),
    ],
)
def test_while_the_labels_are_not_known_the_strictest_of_the_possible_rules_holds(
    rules: tuple[Protection, ...], namespace: str, expected: Protection | None
) -> None:
    assert protection_for(rules, namespace, None) == expected
