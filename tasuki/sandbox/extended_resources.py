"""Which names and amounts of extended resources Kubernetes accepts."""

import re
from decimal import Decimal
from typing import Final

_NATIVE: Final = "kubernetes.io/"
_QUOTA_PREFIX: Final = "requests."
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS_SUBDOMAIN_LENGTH: Final = 253
_NAME_LENGTH: Final = 63

_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_SUFFIXES: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}


class QuantityError(ValueError):
    """An amount that the API server would not accept for an extended resource."""


def is_native(name: str) -> bool:
    """Whether a name is Kubernetes' own; one without a domain is (pkg/apis/core/v1/helper)."""
    return "/" not in name or _NATIVE in name


def is_extended(name: str) -> bool:
    """Whether a device plugin may offer a resource of this name.

    It must still be a qualified name with `requests.` before it, because quotas spell it so.
    """
    if is_native(name) or name.startswith(_QUOTA_PREFIX) or name.count("/") != 1:
        return False
    domain, name = f"{_QUOTA_PREFIX}{name}".split("/")
    return (
        len(domain) <= _DNS_SUBDOMAIN_LENGTH
        and _DNS_SUBDOMAIN.fullmatch(domain) is not None
        and len(name) <= _NAME_LENGTH
        and _NAME.fullmatch(name) is not None
    )


def whole_amount(quantity: str | float) -> int:
    """The value of a Kubernetes quantity that must be a whole number: `2`, `2k` and `2000m` are."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise QuantityError(f"{quantity!r} is not a quantity; write a whole number")
    number, exponent, suffix = match.groups()
    amount = Decimal(number + (exponent or "")) * _SUFFIXES.get(suffix, Decimal(1))
    if amount < 0:
        raise QuantityError(f"{quantity} is negative; it must be 0 or more")
    if amount != amount.to_integral_value():
        raise QuantityError(f"{quantity} is not a whole number; devices are not divisible")
    return int(amount)
