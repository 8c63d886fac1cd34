"""Kubernetes' quantities, from text to exact numbers and back to text.

The rules are those of staging/src/k8s.io/apimachinery/pkg/api/resource/{quantity,suffix}.go.
"""

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

# `binary` is written 1536Mi and `decimal` 1500m.
Notation = Literal["binary", "decimal"]

_QUANTITY: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_DECIMAL: Final = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS: Final = {
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(_DECIMAL, start=-3)},
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(_BINARY) if suffix},
}
_NANO: Final = 10**9
_LARGEST_BINARY: Final = 2**63 - 1

# Kubernetes has neither bound, but a text of a few bytes must not cost a second of arithmetic.
_LONGEST: Final = 64
_LARGEST_EXPONENT: Final = 60
_LONGEST_SHOWN: Final = 60


class QuantityError(ValueError):
    """What is written is not a quantity."""


def parse(quantity: str | float) -> Fraction:
    """The exact amount, as Kubernetes rounds it: away from zero to billionths, and binary ones capped at 63 bits.

    Raises:
        QuantityError: It is not a quantity, or one beyond all that is ever counted.
    """
    return _parsed(str(quantity))


def milli(quantity: str | float) -> int:
    """In thousandths, rounded away from zero, as the API server rounds whatever a container requests."""
    return _away_from_zero(parse(quantity) * 1000)


def written(amount: Fraction, notation: Notation) -> str:
    """Without fraction and with the largest suffix; what binary suffixes cannot say, or is below 1024, is decimal."""
    if notation == "binary" and amount.denominator == 1 and abs(amount) >= 1024:
        number, power = _reduced(amount.numerator, 1024, 0, len(_BINARY) - 1)
        return f"{number}{_BINARY[power]}"
    number, power = _reduced(_away_from_zero(amount * _NANO), 1000, -3, len(_DECIMAL) - 4)
    return f"{number}{_DECIMAL[power + 3]}" if number else "0"


def _reduced(number: int, base: int, power: int, most: int) -> tuple[int, int]:
    """Equal to `number * base**power`, with the largest power up to `most`."""
    while number and power < most and number % base == 0:
        number, power = number // base, power + 1
    return number, power


def _away_from_zero(amount: Fraction) -> int:
    return math.ceil(amount) if amount > 0 else math.floor(amount)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Fraction:
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise QuantityError(f"{_shown(text)} is not a quantity such as 2, 500m or 1Gi")
    number, exponent, suffix = match.groups()
    power = int(exponent or 0)
    if abs(power) > _LARGEST_EXPONENT:
        raise QuantityError(f"{_shown(text)} is beyond all that is ever counted")
    exact = Fraction(number) * Fraction(10) ** power * _FACTORS[suffix or ""]
    amount = Fraction(_away_from_zero(exact * _NANO), _NANO)
    if suffix in _BINARY[1:]:
        return max(-Fraction(_LARGEST_BINARY), min(amount, Fraction(_LARGEST_BINARY)))
    return amount


def _shown(text: str) -> str:
    quoted = repr(text)
    return quoted if len(quoted) <= _LONGEST_SHOWN else f"{quoted[: _LONGEST_SHOWN - 1]}…"
