r"""The symbolic comparator, built on math-verify. Only the worker processes import it.

Both texts are wrapped in `\boxed{}`, because math-verify misreads bare LaTeX (`3\sqrt{13}` becomes
3), and passed by keyword, because its comparison is not symmetric. Its signal-based timeouts are
off; the worker process is killed at the deadline.
"""

import logging
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from services.common.answers.rationals import Rational, is_same_number, parse_rational

_CONFIG: Final = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=replace(LatexExtractionConfig().normalization_config, units=False),
)
_RELATIVE: Final = sympy.Rational(1, 10**6)
_DIGITS: Final = 30
_EPSILON: Final = sympy.Rational(1, 10**20)

for _name in ("math_verify", "latex2sympy2_extended"):  # they log complete answers
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class ReferenceUnreadableError(ValueError):
    """The reference answer cannot be parsed."""


class AnswerUnreadableError(ValueError):
    """The answer cannot be parsed."""


def is_equivalent(reference: str, answer: str) -> bool:
    """Whether the normalised answers are equal; raises if either cannot be parsed.

    Any exception of math-verify other than MemoryError counts as unreadable, because sympy raises
    nearly every type.
    """
    references = _parse_reference(reference)
    if not references:
        raise ReferenceUnreadableError(reference)
    try:
        answers = _parse(answer)
    except MemoryError:
        raise
    except Exception as error:
        raise AnswerUnreadableError(f"{type(error).__name__}: {error}") from error
    if not answers:
        raise AnswerUnreadableError(answer)
    return _verify(references, answers) or _is_rounded(reference, answer, references, answers)


def is_readable(reference: str) -> bool:
    """Whether the reference answer was parsed to an expression and not only kept as text."""
    return any(not isinstance(value, str) for value in _parse_reference(reference))


def _verify(references: list[Any], answers: list[Any]) -> bool:
    try:
        equal = verify(
            gold=references,
            target=answers,
            # `_numbers_differ` corrects this rounding for small numbers.
            float_rounding=6,
            strict=True,
            allow_set_relation_comp=False,
            timeout_seconds=None,
            raise_on_error=True,
        )
        return (
            not _numbers_differ(references, answers)
            if equal
            else _is_equal_complex(references[0], answers[0])
        )
    except MemoryError:
        raise
    except Exception as error:
        raise AnswerUnreadableError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=512)
def _parse_reference(reference: str) -> list[Any]:
    try:
        return _parse(reference)
    except MemoryError:
        raise
    except Exception as error:
        raise ReferenceUnreadableError(f"{type(error).__name__}: {error}") from error


def _parse(text: str) -> list[Any]:
    r"""Parse the whole text to an expression and to a string.

    Without the box, math-verify would extract any number from a text that it cannot parse: 2 from
    `\\log_e 2`.
    """
    return list(
        parse(
            # The library reads \gamma as a function.
            rf"\boxed{{{text}}}".replace(r"\gamma", "g_{9}"),
            extraction_config=(_CONFIG,),
            extraction_mode="first_match",
            parsing_timeout=None,
            raise_on_error=True,
        )
    )


def _is_equal_complex(reference: Any, answer: Any) -> bool:
    """Whether the values are equal if `i`, which math-verify reads as a variable, is the imaginary
    unit.
    """
    values = [_to_complex(value) for value in (reference, answer)]
    if any(value is None for value in values):
        return False
    difference = sympy.expand(values[0] - values[1])
    if difference == 0:
        return True
    # sympy does not simplify every zero, so 20 of 30 digits, relative to the reference, decide.
    size, rest = (abs(sympy.N(number, _DIGITS)) for number in (values[0], difference))
    return bool(size.is_number and size.is_finite and rest.is_finite) and bool(
        rest <= _EPSILON * size
    )


def _to_complex(value: Any) -> Any:
    """Replace `i` by the imaginary unit; None if other variables are left."""
    if not isinstance(value, sympy.Expr):
        return None
    names = {symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"}
    return value.subs(names).doit() if len(names) == len(value.free_symbols) else None


def _is_rounded(
    reference_text: str, answer_text: str, references: list[Any], answers: list[Any]
) -> bool:
    """Whether one side is a decimal, and the other an irrational number that rounds to it."""
    for text, others in ((answer_text, references), (reference_text, answers)):
        decimal, other = parse_rational(text), others[0]
        if (
            decimal is None
            or not decimal.places
            or not isinstance(other, sympy.Expr)
            or not other.is_number
        ):
            continue
        value = sympy.N(other, _DIGITS)
        if value.is_real and value.is_finite:
            return is_same_number(Rational(Fraction(str(value))), decimal)
    return False


def _numbers_differ(references: list[Any], answers: list[Any]) -> bool:
    """Whether small numbers such as 10^-20 and 10^-21 are equal only after rounding to six decimals."""
    reference, answer = references[0], answers[0]
    if not (
        isinstance(reference, sympy.Expr)
        and isinstance(answer, sympy.Expr)
        and reference.is_number
        and answer.is_number
    ):
        return False
    exact, other = sympy.N(reference, _DIGITS), sympy.N(answer, _DIGITS)
    if not (exact.is_comparable and other.is_comparable):
        return False
    return bool(abs(exact) < 1) and bool(abs(exact - other) > _RELATIVE * abs(exact))
