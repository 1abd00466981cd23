r"""Exact values of plain numbers: integers, decimals, fractions, mixed numbers, powers of ten."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from services.common.linear_patterns import LinearPattern

_MAX_DIGITS: Final = 400
_MAX_POWER_OF_TEN: Final = 400
_INTEGER: Final = LinearPattern(r"\d+")
_GROUPED: Final = LinearPattern(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL: Final = LinearPattern(r"(\d*)\.(\d+)|(\d+)\.")
_REPEATING: Final = LinearPattern(
    r"(\d*)\.(\d*) ?(?:\\(?:overline|bar|dot|overset\{\\cdot\}) ?(?:\{ ?(\d+) ?\}|(\d))|\((\d+)\))"
)
_DECIMAL_COMMA: Final = LinearPattern(r"([-+]?\d+),(\d+)")
_FRACTION: Final = LinearPattern(
    r"\\frac ?\{ ?(-?\d+) ?\} ?\{ ?(-?\d+) ?\}|(\d+) ?/ ?(\d+)|\((-?\d+)\) ?/ ?\((-?\d+)\)"
)
_MIXED: Final = LinearPattern(r"(\d+)(?: ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}| (\d+) ?/ ?(\d+))")
_SCIENTIFIC: Final = LinearPattern(
    r"(?:(\d+(?:\.\d+)?) ?\\(?:times|cdot) ?)?10 ?\^ ?(?:\{ ?([-+]?\d+) ?\}|(\d))"
)
_MIN_PLACES: Final = 6
_RELATIVE: Final = Fraction(1, 10**6)


@dataclass(frozen=True)
class Rational:
    """A number and the number of decimal places with which it was written."""

    value: Fraction
    places: int | None = None
    """None if it was written exactly, as an integer or fraction."""

    @property
    def is_integer(self) -> bool:
        """Whether it was written as an integer."""
        return self.places is None and self.value.denominator == 1


def parse_rational(text: str) -> Rational | None:
    """Parse a normalised answer; None if it is not a plain number."""
    if len(text) > _MAX_DIGITS:
        return None
    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    number = _parse_unsigned(text[1:].lstrip() if text.startswith(("-", "+")) else text)
    return number and Rational(sign * number.value, number.places)


def is_same_number(reference: Rational, answer: Rational) -> bool:
    """Whether the numbers are equal, or one is a decimal of at least six places and the other
    rounded or truncated to it.

    The relative error must also be at most 1e-6, so that different tiny numbers are not equal.
    """
    difference = abs(reference.value - answer.value)
    if difference == 0:
        return True
    places = [number.places for number in (reference, answer) if number.places is not None]
    if not places or min(places) < _MIN_PLACES:
        return False
    return difference < Fraction(1, 10 ** min(places)) and difference <= _RELATIVE * max(
        abs(reference.value), abs(answer.value)
    )


def parse_decimal_comma(text: str) -> Rational | None:
    """Parse a decimal comma as in `1000,99`; None for anything else."""
    match = _DECIMAL_COMMA.fullmatch(text)
    return parse_rational(f"{match.group(1)}.{match.group(2)}") if match else None


def _parse_unsigned(text: str) -> Rational | None:
    if _INTEGER.fullmatch(text):
        return Rational(Fraction(int(text)))
    if _GROUPED.fullmatch(text):
        return _parse_unsigned(text.replace(",", ""))
    if match := _DECIMAL.fullmatch(text):
        whole, digits = match.group(1) or match.group(3) or "0", match.group(2) or ""
        value = Fraction(int(whole + digits), 10 ** len(digits))
        # `5.0` was not rounded to a place, so it is exact.
        return Rational(value, len(digits) if value.denominator != 1 else None)
    if match := _REPEATING.fullmatch(text):
        whole, fixed, *period = (group or "" for group in match.groups())
        repeated = "".join(period)
        tail = Fraction(int(repeated), 10 ** len(repeated) - 1)
        return Rational((int((whole or "0") + fixed) + tail) / 10 ** len(fixed))
    if match := _MIXED.fullmatch(text):
        units, above, below = (int(group) for group in match.groups() if group is not None)
        return _from_quotient(units * below + above, below)
    if match := _FRACTION.fullmatch(text):
        numerator, denominator = (int(group) for group in match.groups() if group is not None)
        return _from_quotient(numerator, denominator)
    if match := _SCIENTIFIC.fullmatch(text):
        return _from_scientific(match.group(1) or "1", int(match.group(2) or match.group(3)))
    return None


def _from_quotient(numerator: int, denominator: int) -> Rational | None:
    return Rational(Fraction(numerator, denominator)) if denominator != 0 else None


def _from_scientific(mantissa: str, power: int) -> Rational | None:
    if abs(power) > _MAX_POWER_OF_TEN:
        return None
    digits = len(mantissa.partition(".")[2])
    places = digits - power
    value = Fraction(mantissa) * Fraction(10) ** power
    return Rational(value, places if digits and places > 0 else None)
