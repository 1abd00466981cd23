"""Compare an answer with the reference answer by text and exact arithmetic; a worker decides the rest.

This module runs in the serving process, so it only does what takes linear time. The type of the
reference answer selects the rules (`_BY_TYPE`); each one decides or passes to the next. They decide
about half of real traffic. Everything that has to be parsed as a formula goes to a worker.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.answers.candidates import extract_reference
from services.common.answers.normalisation import Normalised, normalise
from services.common.answers.rationals import (
    Rational,
    is_same_number,
    parse_decimal_comma,
    parse_rational,
)
from services.common.answers.sequences import is_same_sequence, parse_sequence
from services.common.answers.units import canonical, has_unit_conflict
from services.common.linear_patterns import LinearPattern, Match
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction
from services.reward.guard import MAX_CHARS
from services.reward.letter_case import adopt_case
from services.reward.unit_conversion import find_conversion

_CHOICE: Final = LinearPattern(r"\(?([A-J])\)?")
_LETTER: Final = LinearPattern(r"\(?([A-Ja-j])\)?")
_BEFORE_CHOICE: Final = r"(?:\\(?:text|math)\w*)? ?\{? ?(?:(?i:option|choice|answer) )?"
_STATED_CHOICE: Final = LinearPattern(
    rf"{_BEFORE_CHOICE}\(([A-J])\) ?\}}?(?=$|[ .:])|{_BEFORE_CHOICE}([A-J]) ?\}}?(?=$|[.:)]| +\d)"
)
_PARENTHESISED_LETTER: Final = LinearPattern(r"\([A-J]\)")
_BASED: Final = LinearPattern(r"\(?([0-9A-Fa-f]*\d[0-9A-Fa-f]*)\)? ?_ ?\{? ?(\d+) ?\}?")
_CLOCK: Final = LinearPattern(r"(\d+(?: ?: ?\d+)+)(?: ?([ap])\.?m\.?)?", ignore_case=True)
_HOUR: Final = LinearPattern(r"^(\d+) ?([ap]\.?m\.?)$", ignore_case=True)
_TO: Final = LinearPattern(r"(?<=\d) ?(?:\\text ?\{ ?to ?\}|to) ?(?=\d)")
_RATIO: Final = LinearPattern(r": ?\d(?!\d)")
_ELLIPSIS: Final = LinearPattern(r"\\[lcd]?dots|\.\.\.|…")
_ARTICLE: Final = LinearPattern(r"^(?:an?|the) (?=\w\w)", ignore_case=True)
_GUESSED_UNIT: Final = LinearPattern(
    r"^([\d.,]+|.*10 ?\^ ?\{? ?-?\d+ ?\}?) ?([mghsJNWVKLACTF]|\\Omega)$"
)
_FACTORS: Final = {
    "%": Fraction(1, 100), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9),
}  # fmt: skip
_SPACE_BESIDE_SIGN: Final = LinearPattern(r" ?([^\w ]) ?")
_BASES: Final = range(2, 37)


@dataclass(frozen=True)
class Pair:
    """Reference answer and answer, normalised."""

    reference: Normalised
    answer: Normalised


@dataclass(frozen=True)
class Comparison:
    """Result of the rules; `outcome` is None when a worker has to decide."""

    outcome: Outcome | None
    path: str
    """string | integer | rational | none"""
    reference: str = ""
    """Normalised reference answer."""
    answer: str = ""
    """Normalised answer."""
    reason: str = ""


_Decision = tuple[Outcome, str, str]
"""Outcome, path, reason."""
_Rule = Callable[[Pair], _Decision | None]


def compare(
    reference: str, extraction: Extraction, kind: AnswerType | None = None, problem: str = ""
) -> Comparison:
    """Compare an extracted answer with the reference answer; without `kind` its type is inferred.

    `problem` is the text of the prompt, which tells whether letter case matters.
    """
    reference = extract_reference(reference)
    normal_reference = normalise(reference) if len(reference) <= MAX_CHARS else Normalised("")
    if not normal_reference.text:
        return Comparison(Outcome.UNVERIFIABLE, "none", reason="reference_answer_invalid")
    kind = kind or infer_answer_type(reference)
    text = extraction.listed if extraction.listed and kind is AnswerType.LIST else extraction.text
    if len(text) > MAX_CHARS:
        return Comparison(Outcome.TOO_COMPLEX, "none", normal_reference.text, reason="too_long")
    answer = normalise(text)
    cased = adopt_case(answer.text, normal_reference.text, problem)
    pair = _share_unit(_read_units(Pair(normal_reference, replace(answer, text=cased))))
    for rule in (*_FIRST, *_BY_TYPE.get(kind, _ANY_TYPE)):
        decision = rule(pair)
        if decision is not None:
            outcome, path, reason = decision
            return Comparison(outcome, path, pair.reference.text, pair.answer.text, reason)
    return Comparison(
        None, "none", _join_digits(pair.reference.text), _join_digits(pair.answer.text)
    )


def _join_digits(text: str) -> str:
    """Remove the separators of `12,500`, which a formula would read as a list."""
    return text.replace(",", "") if parse_rational(text) else text


def squeeze(text: str) -> str:
    """Remove blanks beside signs, which have no meaning."""
    return _SPACE_BESIDE_SIGN.sub(r"\1", text)


def _to_decision(equal: bool, path: str = "string", reason: str = "") -> _Decision:
    return (Outcome.CORRECT, path, "") if equal else (Outcome.INCORRECT, path, reason)


def _read_units(pair: Pair) -> Pair:
    """Read `5 m` as a length if the other side has a unit; otherwise m may be a variable."""
    return Pair(
        _guess_unit(pair.reference, pair.answer.unit), _guess_unit(pair.answer, pair.reference.unit)
    )


def _guess_unit(side: Normalised, other_unit: str) -> Normalised:
    guess = _GUESSED_UNIT.match(side.text) if other_unit and not side.unit else None
    return Normalised(guess.group(1), canonical(guess.group(2))) if guess else side


def _share_unit(pair: Pair) -> Pair:
    """Convert the answer to the unit of the reference answer, if it has another one of its dimension."""
    reference, answer = pair.reference, pair.answer
    if answer.unit == reference.unit or not (answer.unit and reference.unit):
        return pair
    conversion = find_conversion(answer.unit, reference.unit)
    if conversion is None:
        return pair
    number = parse_rational(answer.text)
    if number is not None:
        text = _to_fraction(number.value * conversion.factor + conversion.offset)
    elif conversion.offset:
        return pair
    else:
        text = rf"{_to_fraction(conversion.factor)}\cdot({answer.text})"
    return Pair(reference, Normalised(text, reference.unit))


def _to_fraction(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _compare_units(pair: Pair) -> _Decision | None:
    return (
        _to_decision(False, reason="unit_differs")
        if has_unit_conflict(pair.reference.unit, pair.answer.unit)
        else None
    )


def _compare_spelling(pair: Pair) -> _Decision | None:
    # `5%` and `5` are spelt alike without their units, but differ by a factor of 100.
    factors = {_unit_factor(side.unit) for side in (pair.reference, pair.answer)} - {None}
    return (
        _to_decision(True)
        if len(factors) < 2 and squeeze(pair.reference.text) == squeeze(pair.answer.text)
        else None
    )


def _reject_empty(pair: Pair) -> _Decision | None:
    return None if pair.answer.text else _to_decision(False, reason="answer_unparseable")


def _compare_words(pair: Pair) -> _Decision | None:
    """Compare words as text, because the comparator would read them as products of letters."""
    reference, answer = (
        _ARTICLE.sub("", side.text.strip("`'\"")).casefold()
        for side in (pair.reference, pair.answer)
    )
    return _to_decision(reference == answer)


def _compare_choice(pair: Pair) -> _Decision | None:
    reference = _CHOICE.fullmatch(pair.reference.text)
    stated = reference and _STATED_CHOICE.match(pair.answer.text)
    if not reference or not stated or len(_PARENTHESISED_LETTER.findall(pair.answer.text)) > 1:
        return None
    return _to_decision(reference.group(1) in stated.groups())


def _compare_letter(pair: Pair) -> _Decision | None:
    """Accept `(b)` for the choice B."""
    reference, answer = (_LETTER.fullmatch(side.text) for side in (pair.reference, pair.answer))
    if reference is None or answer is None:
        return None
    return _to_decision(reference.group(1).upper() == answer.group(1).upper())


def _compare_based_numbers(pair: Pair) -> _Decision | None:
    """Compare `52_8` digit by digit, because the comparator ignores the base."""
    reference = _BASED.fullmatch(pair.reference.text)
    if reference is None:
        return None
    answer = _BASED.fullmatch(pair.answer.text)
    return _to_decision(answer is not None and _digits(reference) == _digits(answer))


def _digits(based: Match) -> tuple[str, int]:
    return based.group(1).lstrip("0").upper(), int(based.group(2)[:9])


def _compare_value_in_base(pair: Pair) -> _Decision | None:
    """Accept `52_8` for 42."""
    based = _BASED.fullmatch(pair.answer.text)
    reference = parse_rational(pair.reference.text)
    if based is None or reference is None:
        return None
    digits, base = _digits(based)
    if base not in _BASES:
        return _to_decision(False)
    try:
        return _to_decision(reference.value == int(digits or "0", base), "integer")
    except ValueError:  # a digit that the base does not have
        return _to_decision(False)


def _compare_clock(pair: Pair) -> _Decision | None:
    """Compare times part by part, and ratios in lowest terms.

    Minutes always have two digits, so a part of one digit means a ratio.
    """
    reference, answer = (
        # `10 AM` is `10:00 AM`.
        _CLOCK.fullmatch(_HOUR.sub(r"\1:00 \2", _TO.sub(":", side.text)))
        for side in (pair.reference, pair.answer)
    )
    if reference is None or answer is None:
        return None
    halves = {match.group(2).lower() for match in (reference, answer) if match.group(2)}
    references, answers = (
        [int(part) for part in match.group(1).split(":")] for match in (reference, answer)
    )
    if _RATIO.search(pair.reference.text):
        return _to_decision(_lowest_terms(references) == _lowest_terms(answers))
    return _to_decision(references == answers and len(halves) < 2)


def _lowest_terms(ratio: list[int]) -> list[int]:
    divisor = math.gcd(*ratio) or 1
    return [part // divisor for part in ratio]


def _compare_ellipsis(pair: Pair) -> _Decision | None:
    """Reject an ellipsis unless the spelling is equal, because its elements cannot be computed."""
    return (
        _to_decision(False)
        if _ELLIPSIS.search(pair.reference.text) or _ELLIPSIS.search(pair.answer.text)
        else None
    )


def _compare_numbers(pair: Pair) -> _Decision | None:
    reference, answer = (
        parse_rational(pair.reference.text),
        parse_rational(_GUESSED_UNIT.sub(r"\1", pair.answer.text)),
    )
    if reference is not None and reference.places and answer is None:
        answer = parse_decimal_comma(pair.answer.text)
    elif answer is not None and answer.places and reference is None:
        reference = parse_decimal_comma(pair.reference.text)
    if reference is None or answer is None:
        return None
    path = "integer" if reference.is_integer and answer.is_integer else "rational"
    factors = _unit_factor(pair.reference.unit), _unit_factor(pair.answer.unit)
    references, answers = (
        _to_readings(number, factor, scaled=None not in factors)
        for number, factor in zip((reference, answer), factors, strict=True)
    )
    return _to_decision(
        any(is_same_number(one, other) for one in references for other in answers), path
    )


def _to_readings(number: Rational, factor: Fraction | None, scaled: bool) -> list[Rational]:
    """Return the values that `28%` may mean: 28 (if the question asks for percent) and 0.28."""
    read = [] if scaled else [number]
    return [*read, Rational(number.value * factor, number.places)] if factor else [number]


def _unit_factor(unit: str) -> Fraction | None:
    return next((_FACTORS[name] for name in unit.split() if name in _FACTORS), None)


def _reject_ratio(pair: Pair) -> _Decision | None:
    """Reject `42:1` for an integer."""
    return _to_decision(False) if _CLOCK.fullmatch(pair.answer.text) else None


def _compare_sequences(pair: Pair) -> _Decision | None:
    reference, answer = parse_sequence(pair.reference.text), parse_sequence(pair.answer.text)
    equal = is_same_sequence(reference, answer) if reference and answer else None
    return None if equal is None else _to_decision(equal, "rational")


# Units come before the spelling: `5 m` and `5 kg` have equal numbers.
_FIRST: Final[tuple[_Rule, ...]] = (_reject_empty, _compare_units, _compare_spelling)
# Ellipses come first, so that no other rule compares the few elements around them.
_ANY_TYPE: Final[tuple[_Rule, ...]] = (_compare_ellipsis, _compare_numbers, _compare_sequences)
_BY_TYPE: Final[Mapping[AnswerType, tuple[_Rule, ...]]] = {
    AnswerType.TEXT: (_compare_words,),
    AnswerType.CHOICE: (_compare_letter, _compare_choice, _compare_ellipsis),
    AnswerType.BASE_N: (_compare_based_numbers,),
    AnswerType.TIME: (_compare_clock, *_ANY_TYPE),
    AnswerType.INTEGER: (_compare_value_in_base, *_ANY_TYPE, _reject_ratio),
}
