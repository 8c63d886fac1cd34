"""Quantities, against the rules and the examples of Kubernetes' own apimachinery."""

import re
from decimal import ROUND_UP, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasuki.kube.quantity import Notation, QuantityError, milli, parse, written

_EXACT = Context(prec=300)
# 10 ** and 2 ** of each suffix (suffix.go).
_TENS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_TWOS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}

# As quantity.go documents it, with the suffixes that suffix.go adds.
_GRAMMAR = re.compile(
    r"[-+]?([0-9]+|[0-9]+[.][0-9]+|[0-9]+[.]|[.][0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m||k|M|G|T|P|E|[eE][-+]?[0-9]+)"
)

_digits = st.text("0123456789", min_size=1, max_size=12)
_numbers = st.one_of(
    _digits, st.builds("{}.{}".format, _digits, _digits), st.builds("{}.".format, _digits), _digits.map(".{}".format)
)
_suffixes = st.sampled_from([*_TENS, *_TWOS]) | st.builds(
    "{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 25)
)
_quantities = st.builds("{}{}{}".format, st.sampled_from(["", "+", "-"]), _numbers, _suffixes)


def as_kubernetes_counts(text: str) -> Decimal:
    """ParseQuantity, in decimal arithmetic."""
    match = re.fullmatch(r"([-+]?[0-9.]+)(.*)", text)
    assert match is not None
    number, suffix = Decimal(match[1].rstrip(".") if match[1].count(".") else match[1]), match[2]
    if suffix in _TWOS:
        amount = _EXACT.multiply(number, Decimal(2 ** _TWOS[suffix]))
    else:
        amount = number.scaleb(_TENS[suffix] if suffix in _TENS else int(suffix[1:]), _EXACT)
    rounded = amount.quantize(Decimal("1e-9"), rounding=ROUND_UP, context=_EXACT)
    if suffix in _TWOS:
        return min(max(rounded, Decimal(1 - 2**63)), Decimal(2**63 - 1))
    return rounded


@settings(max_examples=300)
@given(_quantities)
def test_every_quantity_is_the_amount_that_kubernetes_counts(text: str) -> None:
    assert parse(text) == Fraction(as_kubernetes_counts(text))


@settings(max_examples=300)
@given(_quantities)
def test_the_decimal_form_is_the_same_amount_with_the_largest_suffix(text: str) -> None:
    form = written(parse(text), "decimal")

    match = re.fullmatch(r"(-?)(0|[1-9][0-9]*)([numkMGTPE]?)", form)
    assert match is not None
    assert parse(form) == parse(text)
    assert int(match[2]) % 1000 or match[3] == "E" or form == "0"


# Kubernetes caps what has a binary suffix, so that more than this has no binary form.
@settings(max_examples=300)
@given(_quantities.filter(lambda text: abs(parse(text)) < 2**63))
def test_the_binary_form_is_the_same_amount_with_the_largest_suffix(text: str) -> None:
    form = written(parse(text), "binary")

    match = re.fullmatch(r"(-?)(0|[1-9][0-9]*)([numk]|[KMGTPE]i)?", form)
    assert match is not None
    assert parse(form) == parse(text)
    if match[3] in _TWOS:
        assert int(match[2]) % 1024 or match[3] == "Ei"


@given(st.text(max_size=80) | st.from_regex(r"[-+]?[0-9.]*[eEinumkKMGTP]*[-+]?[0-9]*", fullmatch=True))
def test_nothing_is_taken_for_a_quantity_that_kubernetes_grammar_does_not_have(text: str) -> None:
    try:
        parse(text)
    except QuantityError:
        return

    assert _GRAMMAR.fullmatch(text)


@pytest.mark.parametrize(
    ("text", "notation", "form"),
    [
        pytest.param("1.5", "decimal", "1500m", id="a fraction"),
        pytest.param("1.5Gi", "binary", "1536Mi", id="a fraction of a binary unit"),
        pytest.param("1500Mi", "binary", "1500Mi", id="already as it is written"),
        pytest.param("1024Mi", "binary", "1Gi", id="a larger binary unit"),
        pytest.param("1Ki", "binary", "1Ki", id="the smallest binary unit"),
        pytest.param("0.5Ki", "binary", "512", id="too small for a binary unit"),
        pytest.param("0.0001Ki", "binary", "102400u", id="a binary fraction below one"),
        pytest.param("1000m", "decimal", "1", id="whole"),
        pytest.param("1000000", "decimal", "1M", id="a million"),
        pytest.param("15e5", "decimal", "1500k", id="an exponent"),
        pytest.param("100E2", "decimal", "10k", id="an exponent with a large letter"),
        pytest.param("1E", "decimal", "1E", id="exa is no exponent"),
        pytest.param("1000E", "decimal", "1000E", id="nothing is larger than exa"),
        pytest.param("0.1n", "decimal", "1n", id="rounded up"),
        pytest.param("1.1n", "decimal", "2n", id="rounded up to billionths"),
        pytest.param("-1.1n", "decimal", "-2n", id="rounded away from zero"),
        pytest.param("9Ei", "binary", "9223372036854775807", id="capped"),
        pytest.param("-0Mi", "binary", "0", id="nothing"),
        pytest.param(2, "decimal", "2", id="a number"),
        pytest.param(0.1, "decimal", "100m", id="a number with a fraction"),
    ],
)
def test_a_quantity_is_written_as_the_api_server_answers_with_it(
    text: str | float, notation: Notation, form: str
) -> None:
    assert written(parse(text), notation) == form


@pytest.mark.parametrize(
    ("quantity", "thousandths"),
    [
        pytest.param("250m", 250, id="exact"),
        pytest.param("1", 1000, id="whole"),
        pytest.param("1u", 1, id="rounded up"),
        pytest.param("-1u", -1, id="rounded away from zero"),
    ],
)
def test_milli(quantity: str, thousandths: int) -> None:
    assert milli(quantity) == thousandths


@pytest.mark.parametrize(
    ("amount", "notation", "text"),
    [
        pytest.param(Fraction(3 * 2**30), "binary", "3Gi", id="gibibytes"),
        pytest.param(Fraction(128_000_000), "binary", "125000Ki", id="megabytes as kibibytes"),
        pytest.param(Fraction(3001), "binary", "3001", id="not divisible"),
        pytest.param(Fraction(2049, 2), "binary", "1024500m", id="a fraction has no binary form"),
        pytest.param(Fraction(3, 2), "decimal", "1500m", id="thousandths"),
        pytest.param(Fraction(1, 3), "decimal", "333333334n", id="not finite"),
        pytest.param(Fraction(0), "decimal", "0", id="nothing"),
    ],
)
def test_written(amount: Fraction, notation: Notation, text: str) -> None:
    assert written(amount, notation) == text


# The first eight are quantity_test.go's.
@pytest.mark.parametrize(
    "text",
    [
        "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01e-",
        "", "-", ".", " 1", "1 ", "1_000", "0x10", "1KI", "1Kim", "\uff11", "inf", "nan", "1" * 65, "1e400000000",
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


def test_a_refusal_shows_no_more_than_one_can_read() -> None:
    with pytest.raises(QuantityError, match=r"^'111+… is not a quantity such as 2, 500m or 1Gi$") as caught:
        parse("1" * 10_000)

    assert len(str(caught.value)) < 120
