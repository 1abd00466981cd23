"""What the formulas decide, and what is left to math-verify."""

import pytest

from services.common.answers.answer_types import AnswerType
from services.reward import comparator
from services.reward.comparator import Status, compare
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Profile
from services.reward.formulas import identity


def ask(reference: str, answer: str, profile: Profile = Profile.RL) -> comparator.ComparisonReply:
    return compare(ComparisonRequest(reference, answer, AnswerType.EXPRESSION, profile))


@pytest.mark.parametrize(
    ("reference", "answer", "profile", "status", "path"),
    [
        ("x+1", "1+x", Profile.RL, Status.CORRECT, "formula"),
        ("x+1", "x+2", Profile.RL, Status.INCORRECT, "formula"),
        ("5050", r"\sum_{k=1}^{100}k", Profile.RL, Status.UNEVALUATED, "formula"),
        ("5050", r"\sum_{k=1}^{100}k", Profile.EVAL, Status.CORRECT, "math_verify"),
        ("5050", r"\sum_{k=1}^{100}k=5050", Profile.RL, Status.CORRECT, "formula"),
        (r"\frac13", r"\int_0^1x^2dx", Profile.EVAL, Status.CORRECT, "math_verify"),
        (r"\sum_{k=1}^{3}k", "6", Profile.RL, Status.CORRECT, "math_verify"),
        ("5", r"\unknown{5}", Profile.RL, Status.ANSWER_UNPARSEABLE, "formula"),
        ("5", r"\frac10", Profile.RL, Status.INCORRECT, "formula"),
        (r"\frac10", "5", Profile.RL, Status.REFERENCE_INVALID, "formula"),
        # The audit compares reference answers with themselves.
        ("9^{9^{9^9}}", "9^{9^{9^9}}", Profile.EVAL, Status.REFERENCE_INVALID, "formula"),
        (r"\infty", r"\infty", Profile.EVAL, Status.CORRECT, "formula"),
        ("42", r"\sum_{i=1}^{100000}\sin(i)", Profile.EVAL, Status.TOO_COMPLEX, "math_verify"),
    ],
)
def test_each_pair_goes_to_the_method_that_reads_it(
    reference: str, answer: str, profile: Profile, status: Status, path: str
) -> None:
    reply = ask(reference, answer, profile)
    assert (reply.status, reply.path) == (status, path)


def test_a_contradiction_of_the_methods_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_compare_exactly", lambda left, right: False)
    assert ask("x+1", "1+x").status is Status.CONTRADICTION
    monkeypatch.setattr(identity, "_compare_exactly", lambda left, right: True)
    assert ask("x+1", "x+2").status is Status.CONTRADICTION
