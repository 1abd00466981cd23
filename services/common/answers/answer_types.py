"""Types of reference answers, which select the rules of comparison.

The type is inferred once per data file, from the text. A row with an ambiguous reference answer
(`(1,2)` is a point or an interval) can set it with its field `gold_type`.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Final

from services.common.answers.candidates import extract_reference
from services.common.answers.normalisation import Normalised, normalise
from services.common.answers.rationals import parse_rational
from services.common.answers.sequences import UNORDERED, parse_sequence
from services.common.linear_patterns import LinearPattern


class AnswerType(StrEnum):
    """Types of reference answers."""

    INTEGER = "integer"
    RATIONAL = "rational"
    """Fractions, decimals, mixed numbers, powers of ten."""
    PERCENT = "percent"
    TIME = "time"
    """Times of day, durations and ratios: numbers between colons."""
    BASE_N = "base_n"
    """Numbers with a base, such as `52_8`."""
    CHOICE = "choice"
    """A letter from A to J."""
    TUPLE = "tuple"
    """Points and vectors, whose order matters."""
    LIST = "list"
    """Several values as a list or set: unordered, with multiplicity."""
    INTERVAL = "interval"
    """Intervals and unions of them."""
    INEQUALITY = "inequality"
    EQUATION = "equation"
    MATRIX = "matrix"
    TEXT = "text"
    """Words."""
    EXPRESSION = "expression"
    """Everything else."""


_CHOICE: Final = LinearPattern(r"\(?[A-J]\)?")
_WORDS: Final = LinearPattern(r"[a-zA-Z][a-zA-Z' -]+[a-zA-Z]")
_TWO_LETTERS: Final = LinearPattern("[a-zA-Z]{2}")
_ROMAN: Final = LinearPattern(r"[IVX]{2,}")
_BASED: Final = LinearPattern(r"\(?[0-9A-F]*\d[0-9A-F]*\)? ?_ ?\{? ?\d+ ?\}?")
_CLOCK: Final = LinearPattern(r"\d+(?: ?: ?\d+)+(?: ?[ap]\.?m\.?)?", ignore_case=True)
_MATRIX: Final = LinearPattern(r"\\begin ?\{(?:[pbvBV]?matrix|array)")
_RELATION: Final = LinearPattern(r"<|>|\\(?:le|ge|ne|neq|lt|gt)(?![a-z])")
_EQUALS: Final = LinearPattern(r"(?<![\\<>!])=")
_MEMBER: Final = LinearPattern(r"[a-z] ?\\in |[a-z] ?\\in(?![a-z])")
_HALF_OPEN: Final = LinearPattern(r"\\infty|\\cup|\\cap")


@lru_cache(4096)  # many rows have the same answer, and several readers infer its type
def infer_answer_type(reference: str) -> AnswerType:
    """Infer the type from the text of the reference answer."""
    normal = normalise(extract_reference(reference))
    return next((kind for kind, fits in _TESTS if fits(normal)), AnswerType.EXPRESSION)


def _is_words(normal: Normalised) -> bool:
    """Whether the answer is words, of which a Roman numeral is one."""
    if normal.is_text and normal.text.isalpha() and len(normal.text) > 1:
        return True
    words = _WORDS.fullmatch(normal.text) and _TWO_LETTERS.search(normal.text)
    return bool(words or _ROMAN.fullmatch(normal.text))


def _is_interval(normal: Normalised) -> bool:
    sequence = parse_sequence(_MEMBER.sub("", normal.text))
    if sequence is None or sequence.brackets == UNORDERED or len(sequence.elements) > 2:
        return sequence is None and r"\cup" in normal.text
    return sequence.brackets != "()" or bool(_HALF_OPEN.search(normal.text))


def _matches(pattern: LinearPattern) -> Callable[[Normalised], object]:
    return lambda normal: pattern.fullmatch(normal.text)


def _contains(pattern: LinearPattern) -> Callable[[Normalised], object]:
    return lambda normal: pattern.search(normal.text)


# The first match decides: `5%` is a percentage before it is a rational, `(1,2)` a point before a list.
_TESTS: Final[tuple[tuple[AnswerType, Callable[[Normalised], object]], ...]] = (
    (AnswerType.PERCENT, lambda normal: normal.unit == "%"),
    (AnswerType.CHOICE, _matches(_CHOICE)),
    (
        AnswerType.INTEGER,
        lambda normal: (number := parse_rational(normal.text)) and number.is_integer,
    ),
    (AnswerType.RATIONAL, lambda normal: parse_rational(normal.text)),
    (AnswerType.TEXT, _is_words),
    (AnswerType.BASE_N, _matches(_BASED)),
    (AnswerType.TIME, _matches(_CLOCK)),
    (AnswerType.MATRIX, _contains(_MATRIX)),
    (AnswerType.INTERVAL, _is_interval),
    (
        AnswerType.TUPLE,
        lambda normal: (found := parse_sequence(normal.text)) and found.brackets != UNORDERED,
    ),
    (AnswerType.LIST, lambda normal: parse_sequence(normal.text)),
    (AnswerType.INEQUALITY, _contains(_RELATION)),
    (AnswerType.EQUATION, _contains(_EQUALS)),
)
