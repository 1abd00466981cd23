"""Is the answer the gold? What text and exact arithmetic can decide is decided here; the rest is
left to sympy.

This module runs in the serving process and never imports sympy. The type of the gold says which
rules apply (`_BY_TYPE`); each decides or passes on. They settle about half of real traffic, and
close the gaps of the symbolic comparator: counts in lists, bases, ellipses, unevaluated operators
and expressions that would take very long.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from services.common.answers.gold_types import GoldType, gold_type
from services.common.answers.normalisation import Normalised, normalise
from services.common.answers.rationals import (
    Rational,
    parse_decimal_comma,
    parse_rational,
    same_number,
)
from services.common.answers.sequences import parse_sequence, same_sequence
from services.common.answers.statements import gold_answer
from services.common.answers.units import canonical, units_conflict
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction, Profile
from services.reward.guard import MAX_CHARS, refuse
from services.reward.pairing import Pair, alike, squeeze

_CHOICE: Final = re.compile(r"\(?([A-J])\)?")
_STATED_CHOICE: Final = re.compile(
    r"(?:\\(?:text|math)\w*)? ?\{? ?(?:(?i:option|choice|answer) )?"
    r"(?:\(([A-J])\) ?\}?(?=$|[ .:])|([A-J]) ?\}?(?=$|[.:)]| +\d))"
)
_PARENTHESISED_LETTER: Final = re.compile(r"\([A-J]\)")
_BASED: Final = re.compile(r"\(?([0-9A-F]*\d[0-9A-F]*)\)? ?_ ?\{? ?(\d+) ?\}?")
_CLOCK: Final = re.compile(r"(\d+(?: ?: ?\d+)+)(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_HOUR: Final = re.compile(r"^(\d+) ?([ap]\.?m\.?)$", re.IGNORECASE)
_TO: Final = re.compile(r"(?<=\d) ?(?:\\text ?\{ ?to ?\}|to) ?(?=\d)")
_RATIO: Final = re.compile(r": ?\d(?!\d)")
_ELLIPSIS: Final = re.compile(r"\\[lcd]?dots|\.\.\.|…")
_ARTICLE: Final = re.compile(r"^(?:an?|the) (?=\w\w)", re.IGNORECASE)
_GUESSED_UNIT: Final = re.compile(
    r"^([\d.,]+|.*10 ?\^ ?\{? ?-?\d+ ?\}?) ?([mghsJNWVKLACTF]|\\Omega)$"
)
_RELATION: Final = re.compile(r"[<>=:]|\\(?:in|equiv|approx|sim|le|ge|ne)(?![a-z])")
_PLAIN_WORD: Final = re.compile(
    r"\\[a-zA-Z]+|(?<![a-zA-Z])(?:sqrt|sin|cos|tan|log|ln|exp|pi|or|and|mod|gcd|lcm|min|max)(?![a-zA-Z])"
)
_VARIABLE: Final = re.compile(r"[a-df-hj-zA-Z]")
_EQUALS: Final = re.compile(r"(?<![\\<>!])=")
_FACTORS: Final = {
    "%": Fraction(1, 100), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9),
}  # fmt: skip
_BRACKETS: Final = ("{}", "()", "[]")
_OPERATOR: Final = re.compile(
    r"\\(sum|prod|int|lim|d?binom|choose|det|gcd|lcm|max|min|[bp]?mod)(?![a-z])|(!)|\\(log) ?_|\\frac ?\{ ?(d) ?\}"
)


@dataclass(frozen=True)
class Comparison:
    """What is known without sympy; `outcome` is None when sympy has to decide."""

    outcome: Outcome | None
    path: str
    """string | integer | rational | sympy | none"""
    gold: str = ""
    """Normalised gold."""
    answer: str = ""
    """Normalised answer."""
    reason: str = ""


_Decision = tuple[Outcome, str, str]
"""Outcome, path, reason."""
_Rule = Callable[[Pair], _Decision | None]


def compare(
    gold: str, extraction: Extraction, profile: Profile, kind: GoldType | None = None
) -> Comparison:
    """Judge an extracted answer as far as text and exact arithmetic go; without `kind` the gold's
    text says it.
    """
    gold = gold_answer(gold)
    normal_gold = normalise(gold) if len(gold) <= MAX_CHARS else Normalised("")
    if not normal_gold.text or refuse(normal_gold.text):
        return Comparison(Outcome.UNVERIFIABLE, "none", normal_gold.text, reason="gold_invalid")
    kind = kind or gold_type(gold)
    text = extraction.listed if extraction.listed and kind is GoldType.LIST else extraction.text
    if len(text) > MAX_CHARS:
        return Comparison(Outcome.TOO_COMPLEX, "none", normal_gold.text, reason="too_long")
    return _decide(alike(Pair(normal_gold, normalise(text), profile, kind)))


def _decide(pair: Pair) -> Comparison:
    for rule in (*_FIRST, *_BY_TYPE.get(pair.kind, _ANY_TYPE), *_LAST):
        decision = rule(pair)
        if decision is not None:
            outcome, path, reason = decision
            return Comparison(outcome, path, pair.gold.text, pair.answer.text, reason)
    return Comparison(None, "sympy", pair.gold.text, pair.answer.text)


def _judged(equal: bool, path: str = "string", reason: str = "") -> _Decision:
    return (Outcome.CORRECT, path, "") if equal else (Outcome.INCORRECT, path, reason)


def _units(pair: Pair) -> _Decision | None:
    answer_unit = pair.answer.unit or _guessed_unit(pair)
    return (
        _judged(False, reason="unit_differs")
        if units_conflict(pair.gold.unit, answer_unit)
        else None
    )


def _guessed_unit(pair: Pair) -> str:
    """`5 m` is a length when the gold has a unit; without one m may be a variable."""
    guess = _GUESSED_UNIT.match(pair.answer.text) if pair.gold.unit else None
    return canonical(guess.group(2)) if guess else ""


def _spelling(pair: Pair) -> _Decision | None:
    factors = {_factor(side.unit) for side in (pair.gold, pair.answer)} - {None}
    return (
        _judged(True)
        if len(factors) < 2 and squeeze(pair.gold.text) == squeeze(pair.answer.text)
        else None
    )


def _empty(pair: Pair) -> _Decision | None:
    return None if pair.answer.text else _judged(False, reason="answer_unparseable")


def _words(pair: Pair) -> _Decision | None:
    """Words are compared as words; the comparator would multiply their letters."""
    gold, answer = (
        _ARTICLE.sub("", side.text.strip("`'\"")).casefold() for side in (pair.gold, pair.answer)
    )
    return _judged(gold == answer)


def _choice(pair: Pair) -> _Decision | None:
    gold = _CHOICE.fullmatch(pair.gold.text)
    stated = gold and _STATED_CHOICE.match(pair.answer.text)
    if not gold or not stated or len(_PARENTHESISED_LETTER.findall(pair.answer.text)) > 1:
        return None
    return _judged(gold.group(1) in stated.groups())


def _based(pair: Pair) -> _Decision | None:
    """`52_8`: the comparator ignores the base."""
    gold = _BASED.fullmatch(pair.gold.text)
    if gold is None:
        return None
    answer = _BASED.fullmatch(pair.answer.text)
    return _judged(answer is not None and gold.groups() == answer.groups())


def _value_in_base(pair: Pair) -> _Decision | None:
    """`52_8` is 42."""
    based = _BASED.fullmatch(pair.answer.text)
    gold = parse_rational(pair.gold.text)
    if based is None or gold is None:
        return None
    try:
        return _judged(gold.value == int(based.group(1), int(based.group(2))), "integer")
    except ValueError:  # no digits of that base
        return _judged(False)


def _clock(pair: Pair) -> _Decision | None:
    """Times, part by part, and ratios: one with a part of a single digit, as no minutes are
    written.
    """
    gold, answer = (
        _CLOCK.fullmatch(_full_hour(_TO.sub(":", side.text))) for side in (pair.gold, pair.answer)
    )
    if gold is None or answer is None:
        return None
    halves = {match.group(2).lower() for match in (gold, answer) if match.group(2)}
    golds, answers = ([int(part) for part in match.group(1).split(":")] for match in (gold, answer))
    if _RATIO.search(pair.gold.text):
        return _judged(_lowest_terms(golds) == _lowest_terms(answers))
    return _judged(golds == answers and len(halves) < 2)


def _full_hour(text: str) -> str:
    """`10 AM` as `10:00 AM`."""
    return _HOUR.sub(r"\1:00 \2", text)


def _lowest_terms(ratio: list[int]) -> list[int]:
    divisor = math.gcd(*ratio) or 1
    return [part // divisor for part in ratio]


def _unordered(pair: Pair) -> _Decision | None:
    r"""`\\{1,2\\}` is no point."""
    return _judged(False) if pair.answer.text.startswith(r"\{") else None


def _ellipsis(pair: Pair) -> _Decision | None:
    """What dots stand for cannot be computed: equal spelling or nothing."""
    return (
        _judged(False)
        if _ELLIPSIS.search(pair.gold.text) or _ELLIPSIS.search(pair.answer.text)
        else None
    )


def _numbers(pair: Pair) -> _Decision | None:
    gold, answer = (
        parse_rational(pair.gold.text),
        parse_rational(_GUESSED_UNIT.sub(r"\1", pair.answer.text)),
    )
    if gold is not None and gold.places and answer is None:
        answer = parse_decimal_comma(pair.answer.text)
    elif answer is not None and answer.places and gold is None:
        gold = parse_decimal_comma(pair.gold.text)
    if gold is None or answer is None:
        return None
    path = "integer" if gold.is_integer and answer.is_integer else "rational"
    factors = _factor(pair.gold.unit), _factor(pair.answer.unit)
    golds, answers = (
        _readings(number, factor, scaled=None not in factors)
        for number, factor in zip((gold, answer), factors, strict=True)
    )
    return _judged(any(same_number(one, other) for one in golds for other in answers), path)


def _readings(number: Rational, factor: Fraction | None, scaled: bool) -> list[Rational]:
    """`28%` answers both 28 (a question for percent) and 0.28, `3.5 million` both 3.5 and 3500000."""
    read = [] if scaled else [number]
    return [*read, Rational(number.value * factor, number.places)] if factor else [number]


def _factor(unit: str) -> Fraction | None:
    return next((_FACTORS[name] for name in unit.split() if name in _FACTORS), None)


def _symbols(pair: Pair) -> _Decision | None:
    """`42x` is no number: what has free variables is not computed. Nor is `42:1`."""
    text = pair.answer.text
    if pair.kind is GoldType.INTEGER and _CLOCK.fullmatch(text):  # the comparator divides ratios
        return _judged(False)
    if (
        _RELATION.search(text)
        or _operators(text)
        or not _VARIABLE.search(_PLAIN_WORD.sub("", text))
    ):
        return None
    return _judged(False)


def _sequences(pair: Pair) -> _Decision | None:
    gold, answer = parse_sequence(pair.gold.text), parse_sequence(pair.answer.text)
    equal = same_sequence(gold, answer) if gold and answer else None
    return None if equal is None else _judged(equal, "rational")


def _unevaluated(pair: Pair) -> _Decision | None:
    """Repeating the question's operator (`\\sum_{k=1}^{100} k` for 5050) is no answer; benchmarks may accept it."""
    if pair.profile is Profile.EVAL:
        return None
    extra = _operators(_last_side(pair.answer.text)) - _operators(pair.gold.text)
    return _judged(False, reason="unevaluated") if extra else None


def _last_side(text: str) -> str:
    """What follows the last `=` that stands in no bracket."""
    ends = [match.end() for match in _EQUALS.finditer(text)]
    outside = (
        end
        for end in reversed(ends)
        if all(text.count(a, end) == text.count(b, end) for a, b in _BRACKETS)
    )
    return text[next(outside, 0) :]


def _operators(text: str) -> set[str]:
    return {name for names in _OPERATOR.findall(text) for name in names if name}


def _cost(pair: Pair) -> _Decision | None:
    rule = refuse(pair.answer.text)
    return (Outcome.TOO_COMPLEX, "none", rule) if rule else None


_FIRST: Final[tuple[_Rule, ...]] = (_empty, _units, _spelling)
_ANY_TYPE: Final[tuple[_Rule, ...]] = (_ellipsis, _numbers, _sequences)
_BY_TYPE: Final[Mapping[GoldType, tuple[_Rule, ...]]] = {
    GoldType.TEXT: (_words,),
    GoldType.CHOICE: (_choice, _ellipsis),
    GoldType.BASE_N: (_based,),
    GoldType.TIME: (_clock, *_ANY_TYPE),
    GoldType.INTEGER: (_value_in_base, *_ANY_TYPE, _symbols),
    GoldType.RATIONAL: (*_ANY_TYPE, _symbols),
    GoldType.PERCENT: (*_ANY_TYPE, _symbols),
    GoldType.TUPLE: (_unordered, *_ANY_TYPE),
}
_LAST: Final[tuple[_Rule, ...]] = (_cost, _unevaluated)
