r"""Static cost guard of math-verify: rejects expressions that would take sympy much time or memory.

Few texts get here: the formulas decide the others. The rules read only the text, in linear time.
Their limits are generous: no reference answer of MATH, GSM8K, AIME, AMC or OlympiadBench
breaks one. An expensive expression that they miss is stopped by the deadline and the memory limit of the worker.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from services.common.linear_patterns import LinearPattern

MAX_CHARS: Final = 1500
_MAX_DEPTH: Final = 12
_MAX_COMMAS: Final = 120
_MAX_TERMS: Final = 60
_MAX_MATRIX_CELLS: Final = 36
_MAX_EXPONENT: Final = 20_000
_MAX_EXPONENT_CHARS: Final = 200
"""Later digits stand after a further sign of a power, which is read on its own."""
_MAX_REPEATED: Final = {"=": 12, "|": 24, "_": 60, r"\cup": 12}
_MAX_EXPONENT_FACTORIAL: Final = 7
_MAX_FACTORIAL: Final = 5000
_MAX_BINOMIAL: Final = 100_000
_MAX_BOUND: Final = 2000
_MAX_LONE_BOUND: Final = 200
_MAX_OPERATORS: Final = 20
_MAX_SYMBOLIC_CELLS: Final = 16

_LONG_NUMBER: Final = LinearPattern(r"\d{400}")
_EXPONENT: Final = LinearPattern(r"(?:\^|\*\*)\s*")
_NUMBER: Final = LinearPattern(r"\d+")
_FACTORIAL_NUMBER: Final = LinearPattern(r"(\d+)\s*!")
_NESTED_FACTORIAL: Final = LinearPattern(
    r"!\s*!\s*!|!\s*[})\]]+\s*!|\^\s*\{?\d+\}?\s*!|\^\s*\{?\d+\}?\s*[})\]]\s*!"
)
_PRODUCT_FACTORIAL: Final = LinearPattern(r"[)}\]]\s*!")
_TOWER: Final = LinearPattern(r"\d+(?:\s*(?:\^|\*\*)\s*[{(]?\s*\d+)+")
_BINOMIAL: Final = LinearPattern(r"\\[dt]?binom|\\choose|\\tbinom")
_BIG_OPERATOR: Final = LinearPattern(r"\\(?:sum|prod)(?![a-z])")
_BOUNDS: Final = LinearPattern(
    r"\s*(?:_\s*(?:\{\s*(?P<index>[a-zA-Z])?[^{}]*\}|\S))?\s*\^\s*(?P<upper>\{(?:[^{}]|\{[^{}]*\})*\}|\d+)"
)
_COMMAND: Final = LinearPattern(r"\\[a-zA-Z]+")
_LETTER: Final = LinearPattern("[a-zA-Z]")
_DETERMINANT: Final = LinearPattern(r"\\det(?![a-z])|vmatrix")
_MATRIX_NAME: Final = LinearPattern(r"\{[a-zA-Z]*matrix\}|\\[a-zA-Z]+")
_MATRIX_POWER: Final = LinearPattern(r"matrix\}\s*\)?\s*\^\s*\{?\s*[-+]?\d")
_GAMMA: Final = LinearPattern(r"\\(?:Gamma|zeta)(?![a-z])")
_FUNCTION: Final = LinearPattern(r"\\(?:sin|cos|tan|cot|sec|csc|arc[a-z]+|log|ln|exp)(?![a-z])")
_CHAINED_POWERS: Final = LinearPattern(r"(?:\^\s*\w\s*){6}")
_POWER: Final = LinearPattern(r"\s*(?:\^|\*\*)\s*[{(]?\s*(\d{1,9})")
_SMALL_EXPONENT: Final = LinearPattern(r"(?:\^|\*\*)\s*[{(]?\s*(\d{1,9})")
_BARE_EXPONENT: Final = LinearPattern(r"[^\s,;(){}\[\]+=<>]*(?:\^\{[^{}]*\})?")
_POWER_OF_NUMBER: Final = LinearPattern(r"\d\s*\^")
_MULTIPLIED: Final = LinearPattern(r"\\cdot|\\times|\*|\)\s*\(")
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"


_Rule = Callable[[str], object]
_RULES: Final[dict[str, _Rule]] = {}
"""Predicates by the reason that a verdict shows, in the order in which they are checked."""


def find_violation(text: str) -> str:
    """Return the name of the rule that the expression breaks, or "" if it may be evaluated."""
    # Checked before all others: the length bounds the time of the rules themselves.
    if len(text) > MAX_CHARS:
        return "too_long"
    return next((name for name, breaks in _RULES.items() if breaks(text)), "")


def rule(reason: str) -> Callable[[_Rule], _Rule]:
    """Add a predicate to the rules."""

    def add(breaks: _Rule) -> _Rule:
        _RULES[reason] = breaks
        return breaks

    return add


@rule("too_deep")
def is_too_deep(text: str) -> bool:
    # Parsers recurse once per bracket, and sympy several times per level.
    depth = deepest = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH


@rule("too_many_terms")
def has_too_many_terms(text: str) -> bool:
    return text.count(",") > _MAX_COMMAS or text.count("+") + text.count("-") > _MAX_TERMS


@rule("long_number")
def has_long_number(text: str) -> bool:
    # CPython converts decimal strings in quadratic time.
    return bool(_LONG_NUMBER.search(text))


@rule("too_repetitive")
def is_too_repetitive(text: str) -> bool:
    # The parser takes a second for 40 bars, and the time doubles with a few more.
    return any(text.count(sign) > limit for sign, limit in _MAX_REPEATED.items())


@rule("large_matrix")
def has_large_matrix(text: str) -> bool:
    # A symbolic determinant of n rows has n! terms before simplification.
    if "matrix}" not in text:
        return False
    cells = text.count("&") + text.count(r"\\") + 1
    symbolic = _DETERMINANT.search(text) and _LETTER.search(_MATRIX_NAME.sub("", text))
    return bool(_MATRIX_POWER.search(text)) or cells > (
        _MAX_SYMBOLIC_CELLS if symbolic else _MAX_MATRIX_CELLS
    )


@rule("large_exponent")
def has_large_exponent(text: str) -> bool:
    if _CHAINED_POWERS.search(text) or _tallest_power(text) > _MAX_EXPONENT:
        return True
    return any(_magnitude(exponent) > _MAX_EXPONENT for exponent in _iterate_exponents(text))


def _iterate_exponents(text: str) -> Iterator[str]:
    """Yield the exponent after each `^` or `**`: the content of a group, or the text up to a blank or
    bracket.
    """
    for match in _EXPONENT.finditer(text):
        start = match.end()
        if text[start : start + 1] in ("{", "("):
            yield text[start + 1 : _group_end(text, start)]
        else:
            yield _BARE_EXPONENT.match(text[start : start + _MAX_EXPONENT_CHARS]).group()  # type: ignore[union-attr]


def _magnitude(exponent: str) -> int:
    """Return an upper bound for the numbers in an exponent, exact below the limit; symbols count 0."""
    if "!" in exponent and any(
        int(number[:9]) > _MAX_EXPONENT_FACTORIAL for number in _NUMBER.findall(exponent)
    ):
        return _MAX_EXPONENT + 1
    numbers = [int(number[:9]) for number in _NUMBER.findall(exponent)]
    if _MULTIPLIED.search(exponent):
        numbers.append(math.prod(numbers))
    return max(numbers + [_tower_value(tower) for tower in _TOWER.findall(exponent)], default=0)


def _tower_value(tower: str) -> int:
    """Return the value of a^b^c, capped above the limit."""
    # Evaluated from the top, as powers associate to the right. Capping each level keeps the numbers small.
    value = 1
    for number in reversed(_NUMBER.findall(tower)):
        value = min(int(number[:9]) ** min(value, 64), _MAX_EXPONENT + 1)
    return value


@rule("large_factorial")
def has_large_factorial(text: str) -> bool:
    if _GAMMA.search(text) and (r"^" in text or _has_number_above(text, _MAX_FACTORIAL)):
        return True
    if "!" not in text:
        return False
    if _NESTED_FACTORIAL.search(text) or (
        _PRODUCT_FACTORIAL.search(text) and _has_number_above(text, _MAX_FACTORIAL // 10)
    ):
        return True
    return any(int(number[:9]) > _MAX_FACTORIAL for number in _FACTORIAL_NUMBER.findall(text))


def _has_number_above(text: str, limit: int) -> bool:
    return any(int(number[:9]) > limit for number in _NUMBER.findall(text))


@rule("large_binomial")
def has_large_binomial(text: str) -> bool:
    if not _BINOMIAL.search(text):
        return False
    return "^" in text or _has_number_above(text, _MAX_BINOMIAL)


@rule("large_range")
def has_large_range(text: str) -> bool:
    """Sums and products of many terms, or of hundreds without a closed form.

    The numbers of terms of nested ones are multiplied.
    """
    terms = 1
    operators = list(_BIG_OPERATOR.finditer(text))
    if len(operators) > _MAX_OPERATORS:
        return True
    for match in operators:
        after = text[match.end() :]
        bounds = _BOUNDS.match(after)
        if bounds is None:
            continue
        upper, term = bounds.group("upper"), after[bounds.end() :]
        # A power as the bound may be astronomical, so it is rejected without its value.
        if _POWER_OF_NUMBER.search(upper):
            return True
        terms *= max([1, *(int(number[:9]) for number in _NUMBER.findall(upper))])
        # Functions, factorials and variables besides the index have no closed form: sympy has to
        # compute every term.
        letters = set(_LETTER.findall(_COMMAND.sub("", term))) - {bounds.group("index"), "e", "i"}
        is_closed = not (_FUNCTION.search(term) or "!" in term or letters)
        if terms > (_MAX_BOUND if is_closed else _MAX_LONE_BOUND):
            return True
    return False


def _tallest_power(text: str) -> int:
    """Return the largest exponent; exponents of nested powers are multiplied."""
    tallest = max((int(number) for number in _SMALL_EXPONENT.findall(text)), default=1)
    place = 0
    while place < len(text):
        if text[place] in _OPENING:
            end = _group_end(text, place)
            power = _POWER.match(text[end + 1 :])
            outer = int(power.group(1)) if power else 1
            tallest = max(tallest, outer * _tallest_power(text[place + 1 : end]))
            place = end
        place += 1
    return tallest


def _group_end(text: str, start: int) -> int:
    """Return the offset of the bracket that closes the one at `start`, or the length of the text."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        if depth == 0:
            return place
    return len(text)
