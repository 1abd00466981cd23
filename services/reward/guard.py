r"""Static cost guard: refuses expressions that a computer algebra system would take very long or
much memory for.

The rules look at the text only, in linear time. They are wide: none touches a gold of MATH, GSM8K,
AIME, AMC or OlympiadBench. What they miss meets the worker's deadline and memory limit.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Final

from services.reward.expansion import expanded_terms, group_end, tallest_power

MAX_CHARS: Final = 1500
_MAX_DEPTH: Final = 12
_MAX_COMMAS: Final = 120
_MAX_TERMS: Final = 60
_MAX_EXPANDED: Final = 256
_MAX_MATRIX_CELLS: Final = 36
_MAX_EXPONENT: Final = 20_000
_MAX_QUOTIENT_DEGREE: Final = 150
_MAX_ROOT_EXPONENT: Final = 300
_MAX_FUNCTIONS: Final = 20
_MAX_REPEATED: Final = {"=": 12, "|": 24, "_": 60, r"\cup": 12}
_MAX_EXPONENT_FACTORIAL: Final = 7
_MAX_FACTORIAL: Final = 5000
_MAX_BINOMIAL: Final = 100_000
_MAX_BOUND: Final = 2000
_MAX_LONE_BOUND: Final = 200
_MAX_INTEGRALS: Final = 2
_MAX_INTEGRATED_DEGREE: Final = 8
_MAX_SYMBOLIC_CELLS: Final = 16

_LONG_NUMBER: Final = re.compile(r"\d{400}")
_EXPONENT: Final = re.compile(r"(?:\^|\*\*)\s*")
_NUMBER: Final = re.compile(r"\d+")
_FACTORIAL_NUMBER: Final = re.compile(r"(\d+)\s*!")
_NESTED_FACTORIAL: Final = re.compile(
    r"!\s*!\s*!|!\s*[})\]]+\s*!|\^\s*\{?\d+\}?\s*!|\^\s*\{?\d+\}?\s*[})\]]\s*!"
)
_PRODUCT_FACTORIAL: Final = re.compile(r"[)}\]]\s*!")
_TOWER: Final = re.compile(r"\d+(?:\s*(?:\^|\*\*)\s*[{(]?\s*\d+)+")
_BINOMIAL: Final = re.compile(r"\\[dt]?binom|\\choose|\\tbinom")
_BIG_OPERATOR: Final = re.compile(r"\\(?:sum|prod)(?![a-z])")
_BOUNDS: Final = re.compile(
    r"\s*(?:_\s*(?:\{\s*(?P<index>[a-zA-Z])?[^{}]*\}|\S))?\s*\^\s*(?P<upper>\{(?:[^{}]|\{[^{}]*\})*\}|\d+)"
)
_INTEGRAL: Final = re.compile(r"\\i{0,3}int(?![a-z])")
_COMMAND: Final = re.compile(r"\\[a-zA-Z]+")
_LETTER: Final = re.compile("[a-zA-Z]")
_DETERMINANT: Final = re.compile(r"\\det(?![a-z])|vmatrix")
_MATRIX_NAME: Final = re.compile(r"\{[a-zA-Z]*matrix\}|\\[a-zA-Z]+")
_MATRIX_POWER: Final = re.compile(r"matrix\}\s*\)?\s*\^\s*\{?\s*[-+]?\d")
_GAMMA: Final = re.compile(r"\\(?:Gamma|zeta)(?![a-z])")
_FUNCTION: Final = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|arc[a-z]+|log|ln|exp)(?![a-z])")
_NESTED_FUNCTIONS: Final = re.compile(r"(?:\\[a-zA-Z]+\s*\(\s*){6}")
_CHAINED_POWERS: Final = re.compile(r"(?:\^\s*\w\s*){6}")
_LONG_WORD: Final = re.compile(r"[a-zA-Z]{30}")
_ROOT: Final = re.compile(r"\\sqrt(?![a-z])|\^\s*[{(][^{}()]*(?:/|\\frac)")
_SIGN: Final = re.compile(r"[-+]")
_NUMBER_TO: Final = re.compile(r"\d\s*\^\s*\{?\s*(\d{1,9})")
_LETTER_TO: Final = re.compile(r"[a-zA-Z]\s*\^\s*\{?\s*(\d{1,9})")
_MULTIPLIED: Final = re.compile(r"\\cdot|\\times|\*|\)\s*\(")
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"


def refuse(text: str) -> str:
    """The rule that the expression breaks, or "" when it may be evaluated."""
    if len(text) > MAX_CHARS:
        return "too_long"
    return next((name for name, breaks in _RULES if breaks(text)), "")


def _too_deep(text: str) -> bool:
    depth = deepest = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH


def _too_many_terms(text: str) -> bool:
    return text.count(",") > _MAX_COMMAS or text.count("+") + text.count("-") > _MAX_TERMS


def _repeats_too_often(text: str) -> bool:
    return any(text.count(sign) > limit for sign, limit in _MAX_REPEATED.items())


def _expands_too_far(text: str) -> bool:
    return expanded_terms(text) > _MAX_EXPANDED


def _quotient_too_high(text: str) -> bool:
    """Polynomials of high degree in a fraction: their common divisor is sought."""
    if "/" not in text and "frac" not in text:
        return False
    return any(int(exponent) > _MAX_QUOTIENT_DEGREE for exponent in _LETTER_TO.findall(text))


def _root_too_large(text: str) -> bool:
    """Roots of large numbers that are sums: they are factored."""
    if not _ROOT.search(text) or not _SIGN.search(text):
        return False
    return any(int(exponent) > _MAX_ROOT_EXPONENT for exponent in _NUMBER_TO.findall(text))


def _too_many_functions(text: str) -> bool:
    return bool(_NESTED_FUNCTIONS.search(text)) or len(_FUNCTION.findall(text)) > _MAX_FUNCTIONS


def _matrix_too_large(text: str) -> bool:
    if "matrix}" not in text:
        return False
    cells = text.count("&") + text.count(r"\\") + 1
    symbolic = _DETERMINANT.search(text) and _LETTER.search(_MATRIX_NAME.sub("", text))
    return bool(_MATRIX_POWER.search(text)) or cells > (
        _MAX_SYMBOLIC_CELLS if symbolic else _MAX_MATRIX_CELLS
    )


def _exponent_too_large(text: str) -> bool:
    if _CHAINED_POWERS.search(text) or tallest_power(text) > _MAX_EXPONENT:
        return True
    return any(_magnitude(exponent) > _MAX_EXPONENT for exponent in _exponents(text))


def _exponents(text: str) -> Iterator[str]:
    """What stands after each `^` or `**`: a group without its brackets, or everything up to a blank
    or bracket.
    """
    for match in _EXPONENT.finditer(text):
        start = match.end()
        if text[start : start + 1] in ("{", "("):
            yield text[start + 1 : group_end(text, start)]
        else:
            yield re.match(r"[^\s,;(){}\[\]+=<>]*(?:\^\{[^{}]*\})?", text[start:]).group()  # type: ignore[union-attr]


def _magnitude(exponent: str) -> int:
    """An upper bound for the numbers in an exponent, exact below the limit; symbols count nothing."""
    if "!" in exponent and any(
        int(number[:9]) > _MAX_EXPONENT_FACTORIAL for number in _NUMBER.findall(exponent)
    ):
        return _MAX_EXPONENT + 1
    numbers = [int(number[:9]) for number in _NUMBER.findall(exponent)]
    if _MULTIPLIED.search(exponent):
        numbers.append(math.prod(numbers))
    return max(numbers + [_height(tower) for tower in _TOWER.findall(exponent)], default=0)


def _height(tower: str) -> int:
    """Value of a^b^c, capped above the limit."""
    value = 1
    for number in reversed(_NUMBER.findall(tower)):
        value = min(int(number[:9]) ** min(value, 64), _MAX_EXPONENT + 1)
    return value


def _factorial_too_large(text: str) -> bool:
    if _GAMMA.search(text) and (r"^" in text or _exceeds(text, _MAX_FACTORIAL)):
        return True
    if "!" not in text:
        return False
    if _NESTED_FACTORIAL.search(text) or (
        _PRODUCT_FACTORIAL.search(text) and _exceeds(text, _MAX_FACTORIAL // 10)
    ):
        return True
    return any(int(number[:9]) > _MAX_FACTORIAL for number in _FACTORIAL_NUMBER.findall(text))


def _exceeds(text: str, limit: int) -> bool:
    return any(int(number[:9]) > limit for number in _NUMBER.findall(text))


def _binomial_too_large(text: str) -> bool:
    if not _BINOMIAL.search(text):
        return False
    return "^" in text or _exceeds(text, _MAX_BINOMIAL)


def _range_too_large(text: str) -> bool:
    """Sums and products of many terms, or of hundreds that have no closed form; nested ones
    multiply.
    """
    terms = 1
    for match in _BIG_OPERATOR.finditer(text):
        bounds = _BOUNDS.match(text, match.end())
        terms *= max(1, _bound(bounds.group("upper"))) if bounds else 1
        limit = (
            _MAX_LONE_BOUND
            if bounds and _has_no_closed_form(text[bounds.end() :], bounds.group("index"))
            else _MAX_BOUND
        )
        if terms > limit:
            return True
    return False


def _has_no_closed_form(term: str, index: str | None) -> bool:
    """Functions, factorials and other variables than the index: every term is computed."""
    letters = set(_LETTER.findall(_COMMAND.sub("", term))) - {index, "e", "i"}
    return bool(_FUNCTION.search(term)) or "!" in term or bool(letters)


def _integral_too_hard(text: str) -> bool:
    """Triple integrals, and quotients of high degree under the sign."""
    if len(_INTEGRAL.findall(text)) > _MAX_INTEGRALS:
        return True
    if not _INTEGRAL.search(text) or ("/" not in text and "frac" not in text):
        return False
    return any(int(exponent) > _MAX_INTEGRATED_DEGREE for exponent in _LETTER_TO.findall(text))


def _bound(text: str) -> int:
    if "^" in text and re.search(r"\d\s*\^", text):
        return _MAX_BOUND + 1
    return max((int(number[:9]) for number in _NUMBER.findall(text)), default=0)


_RULES: Final[tuple[tuple[str, Callable[[str], object]], ...]] = (
    ("too_deep", _too_deep),
    ("too_many_terms", _too_many_terms),
    ("long_number", _LONG_NUMBER.search),
    ("too_repetitive", _repeats_too_often),
    ("long_word", _LONG_WORD.search),
    ("too_many_functions", _too_many_functions),
    ("large_matrix", _matrix_too_large),
    ("large_exponent", _exponent_too_large),
    ("large_expansion", _expands_too_far),
    ("large_quotient", _quotient_too_high),
    ("large_root", _root_too_large),
    ("large_factorial", _factorial_too_large),
    ("large_binomial", _binomial_too_large),
    ("large_range", _range_too_large),
    ("hard_integral", _integral_too_hard),
)
