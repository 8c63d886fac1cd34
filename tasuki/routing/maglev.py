"""Envoy's Maglev table: which host serves which hash; read `Maglev` first.

The algorithm is Envoy's (source/extensions/load_balancing_policies/maglev/maglev_lb.cc, after Eisenbud et al., Maglev,
NSDI 2016): hosts, sorted by key, take turns; at each turn a host takes the first slot of its own permutation that is
still free.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

Slots = npt.NDArray[np.int64]

DEFAULT_TABLE_SIZE: Final = 65_537
# Envoy's own bound (api/envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto).
LARGEST_TABLE_SIZE: Final = 5_000_011


class MaglevError(ValueError):
    """Of such hosts no table can be made."""


@dataclass(frozen=True, slots=True)
class Host:
    """One endpoint.

    Attributes:
        key: What it is hashed by: the endpoint's metadata `envoy.lb` `hash_key`, else its address and port.
        weight: Its load balancing weight.
        locality: Its locality's name; hosts of localities without weight are left out where localities are weighted.
    """

    key: str
    weight: int = 1
    locality: str = ""


class Maglev:
    """A table of slots, each of one host.

    Attributes:
        keys: Of the hosts, in Envoy's order.
        slots: By slot, the index of its host in `keys`.
    """

    def __init__(
        self,
        hosts: Iterable[Host | str],
        table_size: int = DEFAULT_TABLE_SIZE,
        locality_weights: Mapping[str, int] | None = None,
    ) -> None:
        """Build it.

        Args:
            hosts: The healthy ones of one priority, in any order; a name alone weighs 1.
            table_size: A prime.
            locality_weights: As the cluster's `locality_weighted_lb_config`; None where that is not set.

        Raises:
            MaglevError: A key is repeated or empty, a weight is not positive, or the size is no prime within Envoy's
                bounds.
        """
        found = [Host(host) if isinstance(host, str) else host for host in hosts]
        _check(found, table_size)
        weighted = sorted(_normalised(found, locality_weights), key=lambda each: each[0].key.encode())
        self.keys: Final = tuple(host.key for host, _ in weighted)
        self.table_size: Final = table_size
        self.slots: Final = _filled(self.keys, [weight for _, weight in weighted], table_size)

    def owner(self, key: bytes | str) -> str:
        """Whose this key is: of the request's hash key, after Envoy's route has rewritten it.

        Raises:
            MaglevError: There are no hosts.
        """
        return self.owner_of_hash(xxhash.xxh64_intdigest(_encoded(key)))

    def owner_of_hash(self, request_hash: int) -> str:
        if not self.keys:
            raise MaglevError("there are no hosts")
        return self.keys[int(self.slots[request_hash % self.table_size])]

    def owners(self, keys: Sequence[bytes | str]) -> npt.NDArray[np.int64]:
        """For each key, the index of its owner in `self.keys`."""
        if not self.keys:
            raise MaglevError("there are no hosts")
        digest = xxhash.xxh64_intdigest
        hashes = np.fromiter((digest(_encoded(key)) for key in keys), dtype=np.uint64, count=len(keys))
        owned: npt.NDArray[np.int64] = self.slots[(hashes % np.uint64(self.table_size)).astype(np.int64)]
        return owned

    def shares(self) -> dict[str, float]:
        """By host, the part of all hashes that it serves."""
        counts = np.bincount(self.slots, minlength=len(self.keys)) if self.keys else np.zeros(0, dtype=np.int64)
        return {key: int(count) / self.table_size for key, count in zip(self.keys, counts, strict=True)}


def combined_hash(hashes: Iterable[int]) -> int:
    """What several hash policies of a route come to, in their order; of none it is 0 (hash_policy.cc)."""
    combined = 0
    for each in hashes:
        combined = (((combined << 1) | (combined >> 63)) ^ each) & (2**64 - 1)
    return combined


def _encoded(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _check(hosts: Sequence[Host], table_size: int) -> None:
    if not 2 <= table_size <= LARGEST_TABLE_SIZE or not _is_prime(table_size):
        raise MaglevError(f"a table of {table_size} slots: the size must be a prime of at most {LARGEST_TABLE_SIZE}")
    seen: set[str] = set()
    for host in hosts:
        if not host.key or host.key in seen:
            # Envoy breaks ties by the address of the host in its memory, which nobody can know.
            raise MaglevError(f"the hash key {host.key!r} is empty or has been there before; give each host its own")
        if host.weight < 1:
            raise MaglevError(f"host {host.key!r} has the weight {host.weight}; it must be at least 1")
        seen.add(host.key)


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _normalised(hosts: Sequence[Host], locality_weights: Mapping[str, int] | None) -> list[tuple[Host, float]]:
    """In doubles, by the same operations in the same order as Envoy (thread_aware_lb_impl.cc, normalizeWeights)."""
    if locality_weights is None:
        total = sum(host.weight for host in hosts)
        return [(host, host.weight * 1.0 / total) for host in hosts]
    present = {host.locality for host in hosts}
    weighted = {name: weight for name, weight in locality_weights.items() if weight > 0 and name in present}
    all_weights = sum(weighted.values())
    found = []
    for locality, weight in weighted.items():
        inside = [host for host in hosts if host.locality == locality]
        share = weight / all_weights
        total = sum(host.weight for host in inside)
        found += [(host, host.weight * share / total) for host in inside]
    return found


def _filled(keys: Sequence[str], weights: Sequence[float], size: int) -> Slots:
    """One turn after the other, in doubles as Envoy's; half a million steps of plain Python are a few tens of ms."""
    if not keys:
        return np.full(size, -1, dtype=np.int64)
    digest = xxhash.xxh64_intdigest
    places = [digest(key.encode(), 0) % size for key in keys]
    skips = [digest(key.encode(), 1) % (size - 1) + 1 for key in keys]
    targets = [0.0] * len(keys)
    heaviest = max(weights)
    everyone = range(len(keys))
    owners = [-1] * size
    left, iteration = size, 0
    while left:
        iteration += 1
        for host in everyone:
            if iteration * weights[host] < targets[host]:
                continue
            targets[host] += heaviest
            place, skip = places[host], skips[host]
            while owners[place] >= 0:
                place = (place + skip) % size
            owners[place] = host
            places[host] = (place + skip) % size
            left -= 1
            if not left:
                break
    return np.array(owners, dtype=np.int64)
