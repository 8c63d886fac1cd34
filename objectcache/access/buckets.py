"""Buckets: how they are defined, in a file as PFN's talk spells them or by a CacheBucket, and what rules follow.

A bucket's `BucketQuota` is what it may hold on one node. Namespaces that are allowed, by name or by a selector, may
read and write it. Every namespace may read a public one, and write it too unless it says whom it allows; an empty list
allows nobody to write.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from objectcache.access.namespace_selector import SELECTOR, LabelledNamespaces, NamespaceSelector, read_selector
from objectcache.link import BucketRules
from tasuki.kube.names import CACHE_BUCKET_KIND, CACHE_BUCKET_PATTERN
from tasuki.kube.quantity import QuantityError, parse
from tasuki.process import document
from tasuki.process.document import ConfigError, Node
from tasuki.process.keys import Key, Table, converted, described, each, fail, fields, items
from tasuki.process.sentences import shown

MOST_BUCKETS: Final = 10_000

LONGEST_NAME: Final = 63
_NAME: Final = re.compile(CACHE_BUCKET_PATTERN)
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")

_LEAST_WEIGHT: Final = 0.01
_MOST_WEIGHT: Final = 100.0
_LARGEST_BYTES: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Bucket:
    """One definition.

    Attributes:
        quota_bytes: What it may hold on one node.
        public: Whether every namespace may read it.
        namespaces: That are allowed by their names, sorted; None if it says nothing of them.
        selector: Of others that are allowed; None selects none.
        weight: Of its share where buckets compete.
        pinned_bytes: How much of the quota may be pinned.
    """

    name: str
    quota_bytes: int
    public: bool = False
    namespaces: tuple[str, ...] | None = None
    selector: NamespaceSelector | None = None
    weight: float = 1.0
    pinned_bytes: int = 0

    @property
    def needs_labels(self) -> bool:
        """Whether who may use it depends on namespaces' labels."""
        return self.selector is not None and bool(self.selector.requirements)


def rules(
    buckets: Mapping[str, Bucket],
    namespaces: Mapping[str, Mapping[str, str]],
    number_of: Callable[[str], int],
) -> tuple[BucketRules, ...]:
    """What workers go by, sorted by the buckets' names.

    Args:
        buckets: By name.
        namespaces: The labels of each; a selector that asks for any label chooses none that is not here.
        number_of: The number of the bucket of this name in the store.
    """
    labelled = LabelledNamespaces(namespaces)
    # Many buckets have the same few selectors.
    chosen: dict[NamespaceSelector, frozenset[str]] = {}
    made = []
    for name in sorted(buckets):
        bucket = buckets[name]
        allowed: frozenset[str] | None = frozenset(bucket.namespaces or ())
        if bucket.selector is not None and not bucket.needs_labels:
            allowed = None
        elif bucket.selector is not None:
            if bucket.selector not in chosen:
                chosen[bucket.selector] = labelled.chosen(bucket.selector)
            allowed = chosen[bucket.selector]
            if bucket.namespaces:
                allowed = allowed.union(bucket.namespaces)
        says_whom = bucket.selector is not None or bucket.namespaces is not None
        made.append(
            BucketRules(
                name=name,
                number=number_of(name),
                quota_bytes=bucket.quota_bytes,
                pinned_bytes=bucket.pinned_bytes,
                weight=bucket.weight,
                readers=None if bucket.public else allowed,
                writers=allowed if says_whom or not bucket.public else None,
            )
        )
    return tuple(made)


def read_buckets(content: bytes) -> Mapping[str, Bucket]:
    """The buckets of a YAML or JSON file, by name: a list of them, or one under `buckets`; an empty file has none.

    Raises:
        ConfigError: With its problems, of many only the first.
    """
    root = document.read(content)
    if root.value is None:
        return {}
    if isinstance(root.value, tuple):
        return _listed(root, "buckets")
    buckets: Mapping[str, Bucket] = fields(_FILE, _FILE, root, "").get("buckets", {})
    return buckets


def read_cache_bucket(name: str, spec: bytes) -> Bucket:
    """What a CacheBucket says, given its `spec` as JSON.

    Raises:
        ConfigError: With its problems; each begins with the object's kind and name.
    """
    try:
        _check_name(Node(name), "metadata.name")
        node = _tree(msgspec.json.decode(spec))
        return _bucket({**fields(_SPEC, _SPEC_ROOT, node, "spec"), "name": name}, node, "spec.pinnedQuota")
    except ConfigError as error:
        raise ConfigError(*(f"{CACHE_BUCKET_KIND} {shown(name)}: {each}" for each in error.problems)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{CACHE_BUCKET_KIND} {shown(name)}: spec is no JSON: {error}") from None


def _listed(node: Node, path: str) -> Mapping[str, Bucket]:
    listed = items(node, path)
    if len(listed) > MOST_BUCKETS:
        raise fail(node, path, f"has {len(listed)} items; there may be at most {MOST_BUCKETS}")
    found = converted(listed, _listed_bucket)
    first: dict[str, tuple[Bucket, str]] = {}
    problems: list[str] = []
    for (item, here), bucket in zip(listed, found, strict=True):
        if bucket.name in first:
            problem = f"is {bucket.name!r} again, as in {first[bucket.name][1]}; each bucket is defined once"
            problems.extend(fail(item, f"{here}.Name", problem).problems)
        first.setdefault(bucket.name, (bucket, here))
    if problems:
        raise ConfigError(*problems)
    return {name: bucket for name, (bucket, _) in first.items()}


def _listed_bucket(node: Node, path: str) -> Bucket:
    return _bucket(fields(_BUCKET, _FILE, node, path), node, f"{path}.PinnedQuota")


def _bucket(found: dict[str, Any], node: Node, pinned_path: str) -> Bucket:
    bucket = Bucket(**found)
    if bucket.pinned_bytes > bucket.quota_bytes:
        problem = f"is {bucket.pinned_bytes} bytes, more than the bucket's quota of {bucket.quota_bytes}; lower it"
        raise fail(node, pinned_path, problem)
    return bucket


def _check_name(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or _NAME.fullmatch(node.value) is None:
        must = "lower-case letters, digits, '-' and '.', a letter or digit at both ends"
        quotes = "; put it in quotes" if isinstance(node.value, bool | int | float) else ""
        raise fail(node, path, f"{described(node)}; it must be at most {LONGEST_NAME} {must}{quotes}")
    return node.value


def _truth(node: Node, path: str) -> bool:
    if not isinstance(node.value, bool):
        raise fail(node, path, f"{described(node)}; it must be true or false")
    return node.value


def _quota_bytes(node: Node, path: str) -> int:
    count = _bytes(node, path)
    if count < 1:
        raise fail(node, path, f"{described(node)}, which holds nothing; it must be an amount such as 100Gi")
    return count


def _bytes(node: Node, path: str) -> int:
    """A quantity, rounded down to whole bytes."""
    value = node.value
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise fail(node, path, f"{described(node)}; it must be an amount such as 100Gi")
    try:
        amount = parse(value)
    except QuantityError as error:
        raise fail(node, path, f"cannot be read: {error}; it must be an amount such as 100Gi") from None
    if not 0 <= amount <= _LARGEST_BYTES:
        raise fail(node, path, f"{described(node)}; it must be from 0 to 2^63-1 bytes, such as 100Gi")
    return int(amount)


def _namespaces(node: Node, path: str) -> tuple[str, ...]:
    return tuple(sorted(set(each(node, path, _namespace))))


def _namespace(node: Node, path: str) -> str:
    if isinstance(node.value, bool | int | float):
        raise fail(node, path, f"{described(node)}; it must be a namespace's name, put it in quotes")
    if not isinstance(node.value, str) or _NAMESPACE.fullmatch(node.value) is None:
        remedy = "for every namespace write the selector {}"
        raise fail(node, path, f"{described(node)}; it must be a namespace's name; {remedy}")
    return node.value


def _weight(node: Node, path: str) -> float:
    number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if not number or not _LEAST_WEIGHT <= float(node.value) <= _MOST_WEIGHT:  # type: ignore[arg-type]
        must = f"a number from {_LEAST_WEIGHT} to {_MOST_WEIGHT:.0f}, 1 being every bucket's own"
        raise fail(node, path, f"{described(node)}; it must be {must}")
    return float(node.value)  # type: ignore[arg-type]


def _tree(value: object) -> Node:
    """JSON as what a file is read to; it has no lines."""
    if isinstance(value, dict):
        return Node({str(key): _tree(below) for key, below in value.items()})
    if isinstance(value, list):
        return Node(tuple(_tree(below) for below in value))
    assert value is None or isinstance(value, str | int | float)
    return Node(value)


_SPEC: Final = Table(
    {
        "public": Key("public", _truth),
        "bucketQuota": Key("quota_bytes", _quota_bytes, nullable=False),
        "allowNamespaces": Key("namespaces", _namespaces),
        "namespaceSelector": Key("selector", read_selector, table=SELECTOR),
        "weight": Key("weight", _weight),
        "pinnedQuota": Key("pinned_bytes", _bytes),
    },
    required=("bucketQuota",),
)
_SPEC_ROOT: Final = Table({"spec": Key("", _truth, table=_SPEC)})

# As Go reads the talk's JSON, a key may be written in another case.
_BUCKET: Final = Table(
    {
        "Name": Key("name", _check_name, nullable=False),
        "Public": Key("public", _truth),
        "BucketQuota": Key("quota_bytes", _quota_bytes, nullable=False),
        "AllowNamespaces": Key("namespaces", _namespaces),
        "AllowNamespaceSelector": Key("selector", read_selector, table=SELECTOR),
        "Weight": Key("weight", _weight),
        "PinnedQuota": Key("pinned_bytes", _bytes),
    },
    folds_case=True,
    required=("Name", "BucketQuota"),
)
_FILE: Final = Table({"buckets": Key("buckets", _listed, table=_BUCKET)}, folds_case=True)
