"""Bring answer and reference answer into comparable forms: labels, brackets and signs that one of
them may omit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from services.common.answers.answer_types import AnswerType
from services.common.answers.normalisation import Normalised
from services.common.answers.rationals import parse_rational
from services.common.answers.sequences import UNORDERED, parse_sequence, split_outside, to_interval
from services.common.linear_patterns import LinearPattern, Match
from services.reward.extraction import Profile

_SPACE_BESIDE_SIGN: Final = LinearPattern(r" ?([^\w ]) ?")
_NAME: Final = (
    r"(?:[a-zA-Z]|\\[a-zA-Z]+) ?(?:_ ?(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}))? ?(?:\(\\?[a-zA-Z]+ ?\))?"
)
_LABEL: Final = LinearPattern(
    rf"(?:{_NAME}|\([a-z](?: ?, ?[a-z])+\)) ?= ?(?=[^=<>]+$)"
    r"|[a-z] ?\\in (?=[^=<>]+$)|[a-z] ?\\in(?=[^=<>a-z][^=<>]*$)"
)
_LABEL_LAST: Final = LinearPattern(
    rf"^([-\d.,/ ]+|\\frac ?\{{ ?\d+ ?\}} ?\{{ ?\d+ ?\}}) ?= ?({_NAME})$"
)
_WHOLE_NAME: Final = LinearPattern(_NAME)
_POINT_NAME: Final = LinearPattern(r"^[A-Z]'? ?(?=\()")
_BARE_LIST: Final = LinearPattern(r"[^()\[\]=<>,;]+(?:,[^()\[\]=<>,;]+)+")
_COMBINATIONS: Final = LinearPattern(r"(?<![a-zA-Z\\_])C ?\(([^(),]+),([^(),]+)\)")
_EITHER_SIGN: Final = LinearPattern(r"\\(pm|mp)(?![a-z])")
_PLUS: Final = {"pm": "+", "mp": "-"}
_MINUS: Final = {"pm": "-", "mp": "+"}
_EQUALS: Final = LinearPattern(r"(?<![\\<>!])=")
_DIVISOR: Final = LinearPattern(r"\\(gcd|lcm) ?\(([^()\\]*[a-z][^()\\]*)\)")
_MAYBE_INTERVALS: Final = (AnswerType.INTERVAL, AnswerType.TUPLE)
"""`(0,1)` is typed as a point unless the row says otherwise. No inequality describes a point, so reading one as an
interval is safe.
"""


@dataclass(frozen=True)
class Pair:
    """Reference answer and answer, normalised."""

    reference: Normalised
    answer: Normalised
    profile: Profile
    kind: AnswerType


def align(pair: Pair) -> Pair:
    """Bring both sides into a form in which they can be compared."""
    for step in _STEPS:
        pair = step(pair)
    return pair


def squeeze(text: str) -> str:
    """Remove blanks beside signs, which have no meaning."""
    return _SPACE_BESIDE_SIGN.sub(r"\1", text)


def _strip_labels(pair: Pair) -> Pair:
    r"""Strip the name before a single `=` or `\in`: `x = 5` equals `5`, `x \in [0,1]` equals `[0,1]`."""
    pair = _replace_answer(pair, _LABEL_LAST.sub(r"\2 = \1", pair.answer.text))
    reference, answer = (_LABEL.match(side.text) for side in (pair.reference, pair.answer))
    # `x = 5` does not answer `y = 5`: different names are part of the answers.
    if reference and answer and squeeze(reference.group()) != squeeze(answer.group()):
        return pair
    if (not reference and _EQUALS.search(pair.reference.text)) or (
        not answer and _EQUALS.search(pair.answer.text)
    ):
        return pair
    return replace(
        pair,
        reference=_cut_label(reference, pair.reference),
        answer=_cut_label(answer, pair.answer),
    )


def _cut_label(label: Match | None, side: Normalised) -> Normalised:
    return replace(side, text=side.text[label.end() :]) if label else side


def _to_point(pair: Pair) -> Pair:
    """Read `1,2` and `A(1,2)` as the point `(1,2)`, if the reference answer is a point."""
    if pair.kind is not AnswerType.TUPLE:
        return pair
    text = _POINT_NAME.sub("", pair.answer.text)
    is_list = not text.startswith(r"\{") and _BARE_LIST.fullmatch(text)
    return _replace_answer(pair, f"({text})" if is_list else text)


def _to_interval(pair: Pair) -> Pair:
    r"""Read a solved inequality such as `0 \le x < 1` as an interval.

    The comparator handles inequalities that are not solved for a variable.
    """
    solved = to_interval(pair.answer.text) if pair.kind in _MAYBE_INTERVALS else None
    return pair if solved is None else _replace_answer(pair, solved)


def _expand_combinations(pair: Pair) -> Pair:
    """Read `C(n,k)` as a binomial coefficient."""
    # In geometry, C(1,2) is a point with a name.
    if pair.kind in _MAYBE_INTERVALS:
        return pair
    return _rewrite(pair, lambda text: _COMBINATIONS.sub(r"\\binom{\1}{\2}", text))


def _expand_signs(text: str) -> str:
    r"""Expand `\frac{3\pm\sqrt{5}}{2}` to its two values."""
    if r"\pm" not in text:
        return text
    sequence = parse_sequence(text)
    elements = (
        sequence.elements if sequence and sequence.brackets == UNORDERED else split_outside(text)
    )
    return ",".join(value for element in elements for value in _expand_sign(element))


def _expand_sign(text: str) -> list[str]:
    r"""Return the values for `+` and for `-`; a text with several `\pm` is not expanded."""
    # Two signs may vary independently, which gives four values, or together, which gives two. The text
    # does not say, so the comparator decides. `\mp` always follows its `\pm`, so it is not counted.
    if text.count(r"\pm") != 1:
        return [text]
    plus = _EITHER_SIGN.sub(lambda sign: _PLUS[sign.group(1)], text)
    minus = _EITHER_SIGN.sub(lambda sign: _MINUS[sign.group(1)], text)
    return [plus.removeprefix("+").strip(), minus.strip()]


def _match_exactness(pair: Pair) -> Pair:
    r"""Take one side of `\frac{11}{18} \approx 0.611`: the decimal if the reference answer is one."""
    exact, sign, decimal = pair.answer.text.rpartition(r"\approx")
    reference = parse_rational(pair.reference.text)
    if not sign or not exact.strip() or reference is None:
        return pair
    named = _WHOLE_NAME.fullmatch(exact.strip())
    return _replace_answer(pair, (decimal if reference.places or named else exact).strip())


def _name_divisors(pair: Pair) -> Pair:
    r"""Replace `\gcd(m,n)` by a symbol, because sympy evaluates the gcd of two symbols to 1."""
    names: dict[tuple[str, ...], str] = {}

    def name(match: Match) -> str:
        parts = sorted(part.strip() for part in match.group(2).split(","))
        return names.setdefault((match.group(1), *parts), f"d_{{{len(names) + 1}{len(names) + 1}}}")

    return _rewrite(pair, lambda text: _DIVISOR.sub(name, text))


def _replace_answer(pair: Pair, text: str) -> Pair:
    return replace(pair, answer=replace(pair.answer, text=text))


def _rewrite(pair: Pair, change: Callable[[str], str]) -> Pair:
    reference, answer = (
        replace(side, text=change(side.text)) for side in (pair.reference, pair.answer)
    )
    return replace(pair, reference=reference, answer=answer)


_STEPS: Final[tuple[Callable[[Pair], Pair], ...]] = (
    _strip_labels, _to_point, _to_interval, _expand_combinations, _name_divisors,
    lambda pair: _rewrite(pair, _expand_signs), _match_exactness,
)  # fmt: skip
