from fractions import Fraction

import pytest

from services.common.answers.units import canonical
from services.reward.unit_conversion import Conversion, find_conversion


@pytest.mark.parametrize(
    ("unit", "other", "factor"),
    [
        ("km/h", "m/s", Fraction(5, 18)),
        ("joules", "newton meters", Fraction(1)),
        ("mile", "m", Fraction(1609344, 1000)),
        ("liters", "cubic centimeters", Fraction(1000)),
        ("micro m", "mm", Fraction(1, 1000)),
        ("dollars per hour", "cents per minute", Fraction(10, 6)),
        ("km per apple", "m per apple", Fraction(1000)),
    ],
)
def test_units_of_one_dimension_are_converted_exactly(
    unit: str, other: str, factor: Fraction
) -> None:
    assert find_conversion(canonical(unit), canonical(other)) == Conversion(factor, Fraction(0))


def test_temperatures_have_an_offset() -> None:
    factor, offset = find_conversion("fahrenheit", "celsius") or (0, 0)
    assert 77 * factor + offset == 25


@pytest.mark.parametrize(
    ("unit", "other"),
    [
        ("m", "s"),
        ("J", "W"),
        ("degree", "radian"),
        ("apple", "pear"),
        ("km pear^-1", "m apple^-1"),
        ("celsius s^-1", "K"),
        ("__import__ m", "m"),
    ],
)
def test_other_units_are_not_converted(unit: str, other: str) -> None:
    assert find_conversion(unit, other) is None
