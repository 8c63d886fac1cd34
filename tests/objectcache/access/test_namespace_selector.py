"""Which namespaces a LabelSelector chooses, against a plain reading of Kubernetes' rules."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from objectcache.access.namespace_selector import LabelledNamespaces, NamespaceSelector, Requirement

KEYS = st.sampled_from(["a", "b", "example.org/c"])
VALUES = st.sampled_from(["", "x", "y"])
NAMESPACES = st.dictionaries(st.sampled_from("klmno"), st.dictionaries(KEYS, VALUES, max_size=3), max_size=5)
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from(["In", "NotIn"]),
        st.lists(VALUES, min_size=1, max_size=2, unique=True).map(sorted).map(tuple),
    ),
    st.builds(Requirement, KEYS, st.sampled_from(["Exists", "DoesNotExist"])),
)


def meets(labels: Mapping[str, str], requirement: Requirement) -> bool:
    match requirement.operator:
        case "In":
            return requirement.key in labels and labels[requirement.key] in requirement.values
        case "NotIn":
            return requirement.key not in labels or labels[requirement.key] not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels


@given(NAMESPACES, st.lists(REQUIREMENTS, max_size=4))
def test_a_selector_chooses_the_namespaces_that_meet_all_of_it(
    namespaces: Mapping[str, Mapping[str, str]], requirements: list[Requirement]
) -> None:
    chosen = LabelledNamespaces(namespaces).chosen(NamespaceSelector(tuple(requirements)))

    expected = {name for name, labels in namespaces.items() if all(meets(labels, each) for each in requirements)}
    assert chosen == expected


def test_choosing_changes_nothing() -> None:
    labelled = LabelledNamespaces({"k": {"a": "x"}, "l": {"a": "y"}})
    narrow = NamespaceSelector((Requirement("a", "Exists"), Requirement("a", "NotIn", ("x",))))

    first = labelled.chosen(narrow)
    everything = labelled.chosen(NamespaceSelector((Requirement("a", "Exists"),)))

    assert (first, everything) == (frozenset({"l"}), frozenset({"k", "l"}))
