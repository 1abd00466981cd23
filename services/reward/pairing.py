"""Gold and answer side by side: what one says and the other need not say is taken away before they
are compared.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from services.common.answers.gold_types import GoldType
from services.common.answers.normalisation import Normalised
from services.common.answers.rationals import parse_rational
from services.common.answers.sequences import UNORDERED, as_interval, parse_sequence, split_outside
from services.reward.extraction import Profile

_SPACE_BESIDE_SIGN: Final = re.compile(r" ?([^\w ]) ?")
_NAME: Final = (
    r"(?:[a-zA-Z]|\\[a-zA-Z]+) ?(?:_ ?(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}))? ?(?:\(\\?[a-zA-Z]+ ?\))?"
)
_LABEL: Final = re.compile(
    rf"(?:(?:{_NAME}|\([a-z](?: ?, ?[a-z])+\)) ?=|[a-z] ?\\in(?![a-z])) ?(?=[^=<>]+$)"
)
_LABEL_LAST: Final = re.compile(
    rf"^([-\d.,/ ]+|\\frac ?\{{ ?\d+ ?\}} ?\{{ ?\d+ ?\}}) ?= ?({_NAME})$"
)
_POINT_NAME: Final = re.compile(r"^[A-Z]'? ?(?=\()")
_BARE_LIST: Final = re.compile(r"(?!\\\{)[^()\[\]=<>,;]+(?:,[^()\[\]=<>,;]+)+")
_COMBINATIONS: Final = re.compile(r"(?<![a-zA-Z\\_])C ?\(([^(),]+),([^(),]+)\)")
_EITHER_SIGN: Final = re.compile(r"\\(pm|mp)(?![a-z])")
_PLUS: Final = {"pm": "+", "mp": "-"}
_MINUS: Final = {"pm": "-", "mp": "+"}
_EQUALS: Final = re.compile(r"(?<![\\<>!])=")
_DIVISOR: Final = re.compile(r"\\(gcd|lcm) ?\((?=[^()]*[a-z])([^()\\]*)\)")
_MAYBE_INTERVALS: Final = (GoldType.INTERVAL, GoldType.TUPLE)
"""`(0,1)` is typed as a point unless the row says otherwise; no inequality solves for a point."""


@dataclass(frozen=True)
class Pair:
    """Gold and answer, normalised."""

    gold: Normalised
    answer: Normalised
    profile: Profile
    kind: GoldType


def alike(pair: Pair) -> Pair:
    """Both sides in the form in which they can be compared."""
    for step in _STEPS:
        pair = step(pair)
    return pair


def squeeze(text: str) -> str:
    """Without the blanks that mean nothing."""
    return _SPACE_BESIDE_SIGN.sub(r"\1", text)


def _without_label(pair: Pair) -> Pair:
    r"""`x = 5` against `5`, `x \in [0,1]` against `[0,1]`: the name before the only `=` or `\in`
    says nothing.
    """
    pair = _with_answer(pair, _LABEL_LAST.sub(r"\2 = \1", pair.answer.text))
    gold, answer = (_LABEL.match(side.text) for side in (pair.gold, pair.answer))
    if gold and answer and squeeze(gold.group()) != squeeze(answer.group()):
        return pair
    if (not gold and _EQUALS.search(pair.gold.text)) or (
        not answer and _EQUALS.search(pair.answer.text)
    ):
        return pair
    return replace(pair, gold=_after(gold, pair.gold), answer=_after(answer, pair.answer))


def _after(label: re.Match[str] | None, side: Normalised) -> Normalised:
    return replace(side, text=side.text[label.end() :]) if label else side


def _as_point(pair: Pair) -> Pair:
    """`1,2` and `A(1,2)` against `(1,2)`: who is asked for a point may leave its brackets out, or
    name it.
    """
    if pair.kind is not GoldType.TUPLE:
        return pair
    text = _POINT_NAME.sub("", pair.answer.text)
    return _with_answer(pair, f"({text})" if _BARE_LIST.fullmatch(text) else text)


def _as_interval(pair: Pair) -> Pair:
    r"""`0 \le x < 1` solves for an interval; one that is still to be solved does not, and is left
    to the comparator.
    """
    solved = as_interval(pair.answer.text) if pair.kind in _MAYBE_INTERVALS else None
    return pair if solved is None else _with_answer(pair, solved)


def _with_binomials(pair: Pair) -> Pair:
    """`C(n,k)`, unless it names a point."""
    if pair.kind in _MAYBE_INTERVALS:
        return pair
    return _rewritten(pair, lambda text: _COMBINATIONS.sub(r"\\binom{\1}{\2}", text))


def _with_both_signs(pair: Pair) -> Pair:
    r"""`\frac{3\pm\sqrt{5}}{2}` as two values."""
    return _rewritten(pair, _both_signs)


def _both_signs(text: str) -> str:
    if r"\pm" not in text:
        return text
    sequence = parse_sequence(text)
    elements = (
        sequence.elements if sequence and sequence.brackets == UNORDERED else split_outside(text)
    )
    return ",".join(value for element in elements for value in _signed(element))


def _signed(text: str) -> list[str]:
    """The values that one sign stands for; several that may vary on their own stay as they are."""
    if text.count(r"\pm") != 1:
        return [text]
    plus = _EITHER_SIGN.sub(lambda sign: _PLUS[sign.group(1)], text)
    minus = _EITHER_SIGN.sub(lambda sign: _MINUS[sign.group(1)], text)
    return [plus.removeprefix("+").strip(), minus.strip()]


def _as_exact_as_asked(pair: Pair) -> Pair:
    r"""Of `\frac{11}{18} \approx 0.611` the decimal when the gold is one, else what is exact."""
    exact, sign, decimal = pair.answer.text.rpartition(r"\approx")
    gold = parse_rational(pair.gold.text)
    if not sign or not exact.strip() or gold is None:
        return pair
    named = re.fullmatch(_NAME, exact.strip())
    return _with_answer(pair, (decimal if gold.places or named else exact).strip())


def _with_divisors_named(pair: Pair) -> Pair:
    r"""`\gcd(m,n)` as a symbol of its own: the comparator takes the greatest common divisor of two
    letters for 1.
    """
    names: dict[tuple[str, ...], str] = {}

    def name(match: re.Match[str]) -> str:
        parts = sorted(part.strip() for part in match.group(2).split(","))
        return names.setdefault((match.group(1), *parts), f"d_{{{len(names) + 1}{len(names) + 1}}}")

    return _rewritten(pair, lambda text: _DIVISOR.sub(name, text))


def _with_answer(pair: Pair, text: str) -> Pair:
    return replace(pair, answer=replace(pair.answer, text=text))


def _rewritten(pair: Pair, change: Callable[[str], str]) -> Pair:
    gold, answer = (replace(side, text=change(side.text)) for side in (pair.gold, pair.answer))
    return replace(pair, gold=gold, answer=answer)


_STEPS: Final[tuple[Callable[[Pair], Pair], ...]] = (
    _without_label, _as_point, _as_interval, _with_binomials, _with_divisors_named, _with_both_signs,
    _as_exact_as_asked,
)  # fmt: skip
