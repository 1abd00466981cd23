"""Graders of format, length, repetition and denoising speed."""

import math
from typing import Final

from services.common.data.boxed import innermost, outer_boxes
from services.common.grader_spec import (
    CosineGrader,
    RepetitionGrader,
    SoftOverlongGrader,
    SpeedGrader,
)
from services.common.linear_patterns import LinearPattern
from services.common.trajectory import Outcome
from services.reward.extraction import final_part
from services.reward.scores import GradedResponse, GraderFailure, Score

_THINK_TAG: Final = LinearPattern(r"</?think>")
_GRADED: Final = (Outcome.CORRECT, Outcome.INCORRECT, Outcome.SCORED)
_NOT_COMPARED: Final = GraderFailure("no_reference_answer", "the row has no reference answer")


def score_accuracy(graded: GradedResponse) -> Score:
    """Return 1 for a correct answer, else 0."""
    if graded.outcome is Outcome.SCORED:
        return _NOT_COMPARED
    return float(graded.outcome is Outcome.CORRECT)


def score_boxed(graded: GradedResponse) -> Score:
    r"""Return 1 if the graded answer was in a `\\boxed{}`, correct or not, else 0."""
    return float(graded.outcome in _GRADED and graded.extraction.method == "boxed")


def score_format(graded: GradedResponse) -> Score:
    r"""Return 1 for at most one closed think block at the start and exactly one non-empty box after
    it, else 0.

    A `</think>` without an opening tag is valid, since chat templates may open the block in the
    prompt. Truncated and too complex responses score 0.
    """
    final = final_part(graded.response)
    if graded.outcome not in _GRADED or final is None:
        return 0.0
    tags = _THINK_TAG.findall(graded.response)
    opens = tags == ["<think>", "</think>"] and graded.response.lstrip().startswith("<think>")
    if not opens and tags not in ([], ["</think>"]):
        return 0.0
    boxes = outer_boxes(final)
    return float(len(boxes) == 1 and boxes[0].closed and bool(innermost(boxes[0].content)))


def score_cosine(spec: CosineGrader, graded: GradedResponse) -> Score:
    """Interpolate along a half cosine from `short` at length 0 to `long` at the budget.

    Responses that reach the budget score `exceeded` (arXiv 2502.03373).
    """
    if graded.outcome is Outcome.SCORED:
        return _NOT_COMPARED
    if graded.num_tokens <= 0 or graded.max_new_tokens <= 0:
        return GraderFailure("length_unknown", "cosine needs num_tokens and max_new_tokens")
    if graded.outcome is Outcome.TRUNCATED or graded.num_tokens >= graded.max_new_tokens:
        return spec.exceeded
    correct = graded.outcome is Outcome.CORRECT
    short, long = (
        (spec.correct_short, spec.correct_long) if correct else (spec.wrong_short, spec.wrong_long)
    )
    return (
        short
        + (long - short) * (1 - math.cos(math.pi * graded.num_tokens / graded.max_new_tokens)) / 2
    )


def score_soft_overlong(spec: SoftOverlongGrader, graded: GradedResponse) -> Score:
    """Return 0, falling linearly to −1 over the last `buffer` of the budget (DAPO, arXiv 2503.14476)."""
    if graded.num_tokens <= 0 or graded.max_new_tokens <= 0:
        return GraderFailure("length_unknown", "soft_overlong needs num_tokens and max_new_tokens")
    buffer = spec.buffer * graded.max_new_tokens
    over = graded.num_tokens - (graded.max_new_tokens - buffer)
    return -min(max(over / buffer, 0.0), 1.0)


def score_repetition(spec: RepetitionGrader, graded: GradedResponse) -> Score:
    """Return −(1 − distinct / all) over n-grams; 0 for responses shorter than one n-gram."""
    words = graded.response.split()
    ngrams = list(zip(*(words[start:] for start in range(spec.ngram)), strict=False))
    return len(set(ngrams)) / len(ngrams) - 1.0 if ngrams else 0.0


def score_speed(spec: SpeedGrader, graded: GradedResponse) -> Score:
    """Return tokens per denoising step divided by the target, at most 1; 0 for an incorrect answer
    unless a gate decides.
    """
    if spec.uses_correctness and graded.outcome is Outcome.SCORED:
        return _NOT_COMPARED
    if graded.num_tokens <= 0 or graded.num_steps <= 0:
        return GraderFailure("steps_unknown", "speed needs num_tokens and num_steps")
    if spec.uses_correctness and graded.outcome is not Outcome.CORRECT:
        return 0.0
    return min(graded.num_tokens / graded.num_steps / spec.target, 1.0)
