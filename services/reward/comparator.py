r"""Compare two normalised answers: by their formulas, and by math-verify what these cannot read.

Only the worker processes import it. math-verify is asked for reference answers that are not in the
grammar of `formulas`, and for sums, integrals, limits and derivatives, which it evaluates.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.reward import symbolic
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile
from services.reward.formulas.comparison import count_choices, is_equal
from services.reward.formulas.echoes import find_operations, has_echo
from services.reward.formulas.identity import ContradictionError, has_value
from services.reward.formulas.nodes import (
    EXPRESSIONS,
    Constant,
    Node,
    Sequence,
    UndecidedError,
    UnreadableError,
    walk,
)
from services.reward.formulas.parser import parse
from services.reward.guard import find_violation
from services.reward.symbolic import AnswerUnreadableError, ReferenceUnreadableError


class Status(StrEnum):
    """Results of a comparison."""

    CORRECT = "correct"
    STRING_ONLY = "string_only"
    """Correct, but the reference answer was compared as text only."""
    INCORRECT = "incorrect"
    UNEVALUATED = "unevaluated"
    ANSWER_UNPARSEABLE = "answer_unparseable"
    REFERENCE_INVALID = "reference_answer_invalid"
    TOO_COMPLEX = "too_complex"
    """The detail is the rule of the guard."""
    CONTRADICTION = "contradiction"
    """Two methods of the verifier disagree; the detail says which."""


@dataclass(frozen=True)
class ComparisonReply:
    """The result, its cause, and the method that found it: `formula` or `math_verify`."""

    status: Status
    detail: str = ""
    path: str = "formula"


_LIBRARY: Final = "math_verify"


def compare(request: ComparisonRequest) -> ComparisonReply:
    """Return the result. Raises MemoryError; every other failure is a status."""
    try:
        reference = parse(request.reference_answer)
    except UnreadableError:
        return _ask_library(request)
    try:
        answer = parse(request.answer)
    except UnreadableError as error:
        return ComparisonReply(Status.ANSWER_UNPARSEABLE, error.construct)
    try:
        return _compare_formulas(reference, answer, request)
    except ContradictionError as error:
        return ComparisonReply(Status.CONTRADICTION, str(error))
    except RecursionError:
        return ComparisonReply(Status.TOO_COMPLEX, "too_deep")
    except (UndecidedError, UnreadableError) as error:
        if not _has_value(reference):
            return ComparisonReply(Status.REFERENCE_INVALID, "no_value")
        return ComparisonReply(Status.TOO_COMPLEX, f"undecided: {error}")


def _compare_formulas(reference: Node, answer: Node, request: ComparisonRequest) -> ComparisonReply:
    counted = answer if isinstance(reference, Sequence) else count_choices(answer)
    if request.profile is Profile.RL and has_echo(counted, reference):
        return ComparisonReply(Status.UNEVALUATED)
    if is_equal(reference, answer, request.kind):
        # Equal texts come from the audit of reference answers; equal answers are accepted before.
        if request.reference_answer == request.answer and not _has_value(reference):
            return ComparisonReply(Status.REFERENCE_INVALID, "no_value")
        return ComparisonReply(Status.CORRECT)
    if find_operations(answer) | find_operations(reference):
        return _ask_library(request)
    return ComparisonReply(Status.INCORRECT)


def _has_value(reference: Node) -> bool:
    """Whether other answers can be compared with a reference answer; infinity only equals itself."""
    if not isinstance(reference, EXPRESSIONS) or Constant("infinity") in walk(reference):
        return True
    try:
        return has_value(reference)
    except (UndecidedError, UnreadableError, RecursionError):
        return False


def _ask_library(request: ComparisonRequest) -> ComparisonReply:
    if find_violation(request.reference_answer):
        return ComparisonReply(Status.REFERENCE_INVALID, "too_complex", _LIBRARY)
    if violation := find_violation(request.answer):
        return ComparisonReply(Status.TOO_COMPLEX, violation, _LIBRARY)
    try:
        equal = symbolic.is_equivalent(request.reference_answer, request.answer)
    except ReferenceUnreadableError as error:
        return ComparisonReply(Status.REFERENCE_INVALID, str(error), _LIBRARY)
    except AnswerUnreadableError as error:
        return ComparisonReply(Status.ANSWER_UNPARSEABLE, str(error), _LIBRARY)
    if not equal:
        return ComparisonReply(Status.INCORRECT, path=_LIBRARY)
    readable = symbolic.is_readable(request.reference_answer)
    return ComparisonReply(Status.CORRECT if readable else Status.STRING_ONLY, path=_LIBRARY)
