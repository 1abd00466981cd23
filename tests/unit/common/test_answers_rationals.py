from fractions import Fraction

import pytest

from services.common.answers.rationals import (
    Rational,
    is_same_number,
    parse_decimal_comma,
    parse_rational,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42), ("+7", 7), ("-3", -3), ("007", 7), ("1,080", 1080), ("1,000.5", Fraction(2001, 2)),
        (".5", Fraction(1, 2)), ("27.0", 27), ("3.", 3), (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\frac{3}{4}", Fraction(-3, 4)), ("3/12", Fraction(1, 4)),
        (r"918\frac{1}{2}", Fraction(1837, 2)), ("1 1/2", Fraction(3, 2)), (r"7.8\times 10^{2}", 780), ("10^3", 1000),
        ("10^{-2}", Fraction(1, 100)),
    ],
)  # fmt: skip
def test_plain_numbers_have_exact_values(text: str, value: Fraction) -> None:
    number = parse_rational(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,22",
        "0,111",
        "1/0",
        r"\frac{1}{0}",
        "10^{999999}",
        "2^3",
        "1 2",
        "9" * 500,
        "1.2.3",
        r"\sqrt{4}",
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert parse_rational(text) is None


@pytest.mark.parametrize(
    ("reference_answer", "answer", "same"),
    [
        ("1/3", "0.333333", True),
        ("2/3", "0.666666", True),
        ("2/3", "0.666667", True),
        ("1/3", "0.33333", False),
        ("1/2", "0.5000001", False),
        ("5", "5.0000001", False),
        ("0.066666793", "0.0666668", True),
        ("1/432", r"2.314814814815 \times 10^{-3}", True),
        ("10^{-20}", "10^{-21}", False),
        ("0.5", "0.46", False),
        ("3.14", "22/7", False),
    ],
)
def test_decimals_must_be_the_number_to_six_places(
    reference_answer: str, answer: str, same: bool
) -> None:
    first, second = parse_rational(reference_answer), parse_rational(answer)
    assert first is not None
    assert second is not None
    assert is_same_number(first, second) is same
    assert is_same_number(second, first) is same


def test_a_decimal_comma_is_read_on_request() -> None:
    assert parse_decimal_comma("1000,99") == Rational(Fraction(100099, 100), 2)
    assert parse_decimal_comma("1,2,3") is None
