"""Who may do what with which bucket."""

from collections.abc import Mapping
from typing import Final, Literal

from objectcache.link import BucketRules, Identity
from tasuki.process.sentences import shortened

Verb = Literal["read", "write"]

_FORBIDDEN: Final = 403
_LONGEST_SHOWN: Final = 80


def may(rules: Mapping[str, BucketRules], identity: Identity, bucket: str, verb: Verb) -> tuple[int, str] | None:
    """None if it may; else the answer's status and reason.

    The same whether there is no such bucket or it is another's: who may not use a bucket must not learn of it.

    Args:
        rules: By the bucket's name.
        identity: Who asks.
        bucket: As the client sent it.
        verb: `write` also stands for removing.
    """
    found = rules.get(bucket)
    if found is not None:
        allowed = found.readers if verb == "read" else found.writers
        if allowed is None or identity.namespace in allowed:
            return None
    shown = shortened(ascii(bucket), _LONGEST_SHOWN)
    return _FORBIDDEN, f"namespace {identity.namespace!r} may not {verb} bucket {shown}, or there is no such bucket"
