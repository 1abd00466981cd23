r"""Estimate the size of an expression after expansion, from its text and in linear time.

A computer algebra system expands before it compares: `(x+y+z)^{200}` is 20,301 terms of work,
`(10^{9999})^{9999}` a number of 100 million digits.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.common.linear_patterns import LinearPattern

MAX_SIZE: Final = 100_000
"""Sizes are capped at this value."""
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"
_POWER: Final = LinearPattern(r"\s*(?:\^|\*\*)\s*[{(]?\s*(\d{1,9})")
_BARE_EXPONENT: Final = LinearPattern(r"(?:\^|\*\*)\s*[{(]?\s*(\d{1,9})")
_UNEXPANDED: Final = LinearPattern(
    r"(?:[\^_]|\\(?:text\w*|mathrm|sqrt(?:\[[^\]]*\])?|sin|cos|tan|cot|sec|csc|arc[a-z]+|log|ln|exp))\s*\Z"
)
_PREFIX_CHARS: Final = 24
_PLAIN_COMMAND: Final = LinearPattern(r"\\(?:[dtc]?frac|cdot|times|div|left|right)(?![a-z])")
_LETTER: Final = LinearPattern("[a-zA-Z]")


class _Group(NamedTuple):
    start: int
    end: int
    """Offset of the closing bracket."""
    content: str
    exponent: int
    """Exponent of the group; 1 if it has none."""


def group_end(text: str, start: int) -> int:
    """Return the offset of the bracket that closes the one at `start`, or the length of the text."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        if depth == 0:
            return place
    return len(text)


def expanded_terms(text: str) -> int:
    """Return an upper bound for the number of terms after expansion.

    Sums of plain numbers count as one term.
    """
    terms, factors, done = 0, 1, 0
    for group in _iterate_groups(text):
        terms, factors = _add_terms(terms, factors, text[done : group.start])
        before = text[max(0, group.start - _PREFIX_CHARS) : group.start]
        # Exponents and arguments of functions are not multiplied out, and numbers add up to one.
        if not _UNEXPANDED.search(before) and _LETTER.search(_PLAIN_COMMAND.sub("", group.content)):
            inner = expanded_terms(group.content)
            factors = min(MAX_SIZE, factors * _count_power_terms(inner, group.exponent))
        done = group.end + 1
    terms, factors = _add_terms(terms, factors, text[done:], at_start=done == 0)
    return min(MAX_SIZE, terms + factors)


def tallest_power(text: str) -> int:
    """Return the largest exponent; exponents of nested powers are multiplied."""
    bare = [int(number) for number in _BARE_EXPONENT.findall(text)]
    nested = [group.exponent * tallest_power(group.content) for group in _iterate_groups(text)]
    return max(bare + nested, default=1)


def _add_terms(
    terms: int, factors: int, between: str, *, at_start: bool = False
) -> tuple[int, int]:
    """Return the terms so far and the factors of the last one after a text without brackets."""
    signs = sum(between.count(sign) for sign in "+-,;=")
    signs -= at_start and between[:1] in ("+", "-")
    return (min(MAX_SIZE, terms + factors + signs - 1), 1) if signs else (terms, factors)


def _count_power_terms(terms: int, exponent: int) -> int:
    """Return the number of terms of a sum raised to a power (multinomial coefficient)."""
    if terms == 1:
        return 1
    if max(terms, exponent) > math.isqrt(MAX_SIZE):
        return MAX_SIZE
    return min(MAX_SIZE, math.comb(exponent + terms - 1, terms - 1))


def _iterate_groups(text: str) -> Iterator[_Group]:
    """Yield the outermost bracketed groups."""
    place = 0
    while place < len(text):
        if text[place] in _OPENING:
            end = group_end(text, place)
            power = _POWER.match(text[end + 1 :])
            yield _Group(place, end, text[place + 1 : end], int(power.group(1)) if power else 1)
            place = end
        place += 1
