r"""The symbolic comparator, built on math-verify. Only the worker processes import it.

Both texts are wrapped in `\boxed{}`, because math-verify misreads bare LaTeX (`3\sqrt{13}` becomes
3), and passed by keyword, because its comparison is not symmetric. Its signal-based timeouts are
off; the worker process is killed at the deadline.
"""

import logging
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import sympy
from math_verify import LatexExtractionConfig, parse, verify

_CONFIG: Final = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=replace(LatexExtractionConfig().normalization_config, units=False),
)
_RELATIVE: Final = sympy.Rational(1, 10**6)
_DIGITS: Final = 30

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
    return _verify(references, answers)


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
        return equal and not _numbers_differ(references, answers)
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
