"""What kind of answer a gold is; how answers are compared with it hangs on that.

Typed once, when a data file comes in, from the text alone. A row whose gold can be read in two ways
(`(1,2)` is a point and an interval) says which with its field `answer_type`.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from services.common.answers.normalisation import Normalised, normalise
from services.common.answers.rationals import parse_rational
from services.common.answers.sequences import UNORDERED, parse_sequence
from services.common.answers.statements import gold_answer


class GoldType(StrEnum):
    """Kinds of gold answer."""

    INTEGER = "integer"
    RATIONAL = "rational"
    """Fractions, decimals, mixed numbers, powers of ten."""
    PERCENT = "percent"
    TIME = "time"
    """Times of day, durations and ratios: numbers between colons."""
    BASE_N = "base_n"
    """`52_8`."""
    CHOICE = "choice"
    """One letter of A-J."""
    TUPLE = "tuple"
    """Points and vectors: ordered."""
    LIST = "list"
    """Several values, as a list or set: unordered, counted."""
    INTERVAL = "interval"
    """Intervals and unions of them."""
    INEQUALITY = "inequality"
    EQUATION = "equation"
    MATRIX = "matrix"
    TEXT = "text"
    """Words."""
    EXPRESSION = "expression"
    """Everything else."""


_CHOICE: Final = re.compile(r"\(?[A-J]\)?")
_WORDS: Final = re.compile(r"(?=.*[a-zA-Z]{2})[a-zA-Z][a-zA-Z' -]+[a-zA-Z]")
_BASED: Final = re.compile(r"\(?[0-9A-F]*\d[0-9A-F]*\)? ?_ ?\{? ?\d+ ?\}?")
_CLOCK: Final = re.compile(r"\d+(?: ?: ?\d+)+(?: ?[ap]\.?m\.?)?", re.IGNORECASE)
_MATRIX: Final = re.compile(r"\\begin ?\{(?:[pbvBV]?matrix|array)")
_RELATION: Final = re.compile(r"<|>|\\(?:le|ge|ne|neq|lt|gt)(?![a-z])")
_EQUALS: Final = re.compile(r"(?<![\\<>!])=")
_MEMBER: Final = re.compile(r"[a-z] ?\\in(?![a-z]) ?")
_HALF_OPEN: Final = re.compile(r"\\infty|\\cup|\\cap")


def gold_type(gold: str) -> GoldType:
    """The type that the gold's text suggests."""
    normal = normalise(gold_answer(gold))
    return next((kind for kind, fits in _TESTS if fits(normal)), GoldType.EXPRESSION)


def _is_integer(normal: Normalised) -> bool:
    number = parse_rational(normal.text)
    return number is not None and number.is_integer


def _is_interval(normal: Normalised) -> bool:
    sequence = parse_sequence(_MEMBER.sub("", normal.text))
    if sequence is None or sequence.brackets == UNORDERED or len(sequence.elements) > 2:
        return sequence is None and r"\cup" in normal.text
    return sequence.brackets != "()" or bool(_HALF_OPEN.search(normal.text))


def _is_ordered(normal: Normalised) -> bool:
    sequence = parse_sequence(normal.text)
    return sequence is not None and sequence.brackets != UNORDERED


def _matches(pattern: re.Pattern[str]) -> Callable[[Normalised], object]:
    return lambda normal: pattern.fullmatch(normal.text)


def _contains(pattern: re.Pattern[str]) -> Callable[[Normalised], object]:
    return lambda normal: pattern.search(normal.text)


_TESTS: Final[tuple[tuple[GoldType, Callable[[Normalised], object]], ...]] = (
    (GoldType.PERCENT, lambda normal: normal.unit == "%"),
    (GoldType.CHOICE, _matches(_CHOICE)),
    (GoldType.INTEGER, _is_integer),
    (GoldType.RATIONAL, lambda normal: parse_rational(normal.text)),
    (GoldType.TEXT, _matches(_WORDS)),
    (GoldType.BASE_N, _matches(_BASED)),
    (GoldType.TIME, _matches(_CLOCK)),
    (GoldType.MATRIX, _contains(_MATRIX)),
    (GoldType.INTERVAL, _is_interval),
    (GoldType.TUPLE, _is_ordered),
    (GoldType.LIST, lambda normal: parse_sequence(normal.text)),
    (GoldType.INEQUALITY, _contains(_RELATION)),
    (GoldType.EQUATION, _contains(_EQUALS)),
)
