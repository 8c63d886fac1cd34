"""What the metrics tell of a store, from what the store lets others know."""

from collections.abc import Iterable

from objectcache.link import BucketRules
from objectcache.room.accounts import AGE_BOUNDS, Account
from objectcache.service.metrics import BucketState, State
from objectcache.store import View

_NOTHING = Account()


def state_of(view: View, rules: Iterable[BucketRules]) -> State:
    """Of all buckets that there are, and of those that are gone but whose objects still lie here."""
    quotas = {each.number: each.quota_bytes for each in rules}
    names = {**view.names, **{each.number: each.name for each in rules}}
    evicted: dict[int, dict[str, int]] = {}
    for (number, reason), count in view.evicted.items():
        evicted.setdefault(number, {})[reason] = count
    numbers = sorted({*quotas, *view.accounts, *evicted} & names.keys())
    return State(
        capacity_bytes=view.capacity_bytes,
        used_bytes=view.used_bytes,
        usable_bytes=view.usable_bytes,
        disk=view.problem,
        damaged=view.damaged,
        buckets={
            names[number]: _bucket_state(number, view.accounts.get(number, _NOTHING), quotas, evicted.get(number, {}))
            for number in numbers
        },
        age_bounds=tuple(map(float, AGE_BOUNDS)),
        evicted_ages={"put": (view.put_ages, view.put_seconds), "read": (view.read_ages, view.read_seconds)},
    )


def _bucket_state(number: int, account: Account, quotas: dict[int, int], evicted: dict[str, int]) -> BucketState:
    return BucketState(
        number=number,
        bytes=account.kept_bytes,
        objects=account.objects,
        pinned_bytes=account.pinned_bytes,
        quota_bytes=quotas.get(number, 0),
        evicted=evicted,
    )
