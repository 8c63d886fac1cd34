"""Which names and amounts Kubernetes accepts."""

import re
from typing import Final

from tasuki.kube import quantity as quantities

_NATIVE: Final = "kubernetes.io/"
_QUOTA_PREFIX: Final = "requests."
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS_SUBDOMAIN_LENGTH: Final = 253
_NAME_LENGTH: Final = 63

_LARGEST_AMOUNT: Final = 2**63 - 1


class QuantityError(ValueError):
    """An amount that the API server would not accept for an extended resource."""


def is_subdomain(text: str) -> bool:
    """Whether a text is a DNS-1123 subdomain, as the names of pods are."""
    return len(text) <= _DNS_SUBDOMAIN_LENGTH and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether a text is a DNS-1123 label, as the names of containers and namespaces are."""
    return len(text) <= _NAME_LENGTH and "." not in text and _DNS_SUBDOMAIN.fullmatch(text) is not None


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
    return is_subdomain(domain) and len(name) <= _NAME_LENGTH and _NAME.fullmatch(name) is not None


def whole_amount(quantity: str | float) -> int:
    """The value of a Kubernetes quantity that must be a whole number: `2`, `2k` and `2000m` are."""
    try:
        amount = quantities.parse(quantity)
    except quantities.QuantityError as error:
        raise QuantityError(f"{error}; write a whole number") from None
    if amount < 0:
        raise QuantityError(f"{quantity} is negative; it must be 0 or more")
    if amount.denominator != 1:
        raise QuantityError(f"{quantity} is not a whole number; devices are not divisible")
    if amount > _LARGEST_AMOUNT:
        raise QuantityError(f"{quantity} is more than {_LARGEST_AMOUNT}, the most that Kubernetes counts")
    return int(amount)
