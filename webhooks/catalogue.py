"""The environment modules that users may load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What `module -t avail` or `module -t spider` listed.

    Attributes:
        versions: By module name, its versions in the order of the listing; empty for a module without versions.
    """

    versions: Mapping[str, Sequence[str]]
