"""Which buckets there are by the rules of now; read `Ruled`."""

from collections.abc import Mapping, Sequence
from typing import Final

from objectcache.link import BucketRules
from objectcache.room.accounts import Account
from objectcache.room.victims import Holding

# A bucket that is gone from the rules by mistake keeps its objects for so long.
GRACE_SECONDS: Final = 600

# Of a bucket whose rules were not read yet: it is divided with as if it were like any other.
_UNREAD_WEIGHT: Final = 1.0
_NO_QUOTA: Final = 2**62


class Ruled:
    """All buckets: those in the rules, those that are gone, and those of which nobody can say yet.

    Until the rules were read from every source, a bucket that is not among them counts as not read: it keeps its
    objects and its pins, and has a share like any other. Only then one that is absent is gone.

    Attributes:
        names: Of all buckets that there ever were, by number.
        complete: Whether a bucket that is absent from the rules is gone.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.complete = False
        self._by_name: dict[str, BucketRules] = {}
        self._by_number: dict[int, BucketRules] = {}
        self._gone_since: dict[int, int] = {}

    def set(self, rules: Sequence[BucketRules], numbers: Mapping[str, int], now: int, *, complete: bool) -> None:
        """From now on these.

        Args:
            rules: Of all buckets that are known.
            numbers: Of all buckets that there ever were, by name.
            now: Seconds since 1970.
            complete: Whether all sources of rules were read.
        """
        self._by_name = {each.name: each for each in rules}
        self._by_number = {each.number: each for each in rules}
        self.names = {number: name for name, number in numbers.items()}
        self.complete = complete
        gone = self.names.keys() - self._by_number.keys() if complete else set()
        self._gone_since = {number: self._gone_since.get(number, now) for number in sorted(gone)}

    def learn(self, numbers: Mapping[str, int]) -> None:
        """The names of buckets, before there are rules."""
        self.names = {number: name for name, number in numbers.items()}

    def named(self, bucket: str) -> BucketRules | None:
        return self._by_name.get(bucket)

    def numbered(self, number: int) -> BucketRules | None:
        return self._by_number.get(number)

    def name_of(self, number: int) -> str:
        return self.names.get(number, f"number {number}")

    def is_gone(self, number: int) -> bool:
        """Its pins are void, and it has no share."""
        return self.complete and number not in self._by_number

    def is_over(self, number: int, now: int) -> bool:
        """Whether it is gone for so long that all it holds goes."""
        return self.is_gone(number) and now - self._gone_since.get(number, now) >= GRACE_SECONDS

    def holding(self, number: int, account: Account) -> Holding:
        rules = self._by_number.get(number)
        name = self.name_of(number)
        if rules is not None:
            return account.holding(name, rules.quota_bytes, rules.weight)
        if self.complete:
            return account.holding(name, 0, None)
        return account.holding(name, _NO_QUOTA, _UNREAD_WEIGHT)
