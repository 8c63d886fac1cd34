"""What the policy's sections are made of, and how their globs match."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase, translate
from functools import lru_cache

import msgspec

from webhooks.policy.values import Glob, LabelGlob, LabelKey


class KeyProblemError(ValueError):
    """A key has a value that is possible by itself, but not beside the others.

    Attributes:
        key: As in the file.
        problem: To follow the key.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key
        self.problem = problem


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A mapping of the file; keys that it does not know are errors."""


class NamespaceRule(Section, frozen=True, kw_only=True):
    """Which namespaces a rule is for: those whose name matches and that have all of the labels (globs).

    An empty list of names matches every name.

    Attributes:
        namespaces: Names of namespaces. Globs.
        namespace_labels: All of these labels must suit. Globs.
    """

    namespaces: tuple[Glob, ...] = ()
    namespace_labels: Mapping[LabelKey, LabelGlob] = {}

    @property
    def matches_all(self) -> bool:
        return not self.namespace_labels and (not self.namespaces or "*" in self.namespaces)

    def matches_name(self, namespace: str) -> bool:
        return not self.namespaces or any_match(self.namespaces, namespace)

    def matches(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Whether the rule is certainly for the namespace, whose labels are None while they are not known."""
        if not self.matches_name(namespace):
            return False
        return not self.namespace_labels or (labels is not None and labels_match(self.namespace_labels, labels))


@lru_cache(maxsize=2_048)
def any_match(globs: tuple[Glob, ...], text: str) -> bool:
    """Whether one of the globs (`*`, `?`, `[...]`) is the whole text; upper and lower case differ."""
    return _pattern(globs).match(text) is not None


@lru_cache(maxsize=256)
def _pattern(globs: tuple[Glob, ...]) -> re.Pattern[str]:
    """One for all of them, which takes a fraction of the time of one after the other; none matches nothing."""
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")


def label_matches(glob: Glob, value: str | None) -> bool:
    """Whether a label's value, None if it is absent, suits the glob.

    A glob after `!` must not match, and so absence suits it. No label's value begins with `!`.
    """
    if glob.startswith("!"):
        return value is None or not fnmatchcase(value, glob[1:])
    return value is not None and fnmatchcase(value, glob)


def labels_match(wanted: Mapping[str, Glob], labels: Mapping[str, str]) -> bool:
    """Whether every wanted label suits its glob."""
    return all(label_matches(glob, labels.get(key)) for key, glob in wanted.items())
