"""Graders of how a response was given: its form, its length, its repetitions, its denoising speed."""

import math
import re
from typing import Final

from services.common.data.boxed import innermost, outer_boxes
from services.common.grader_spec import (
    CosineGrader,
    RepetitionGrader,
    SoftOverlongGrader,
    SpeedGrader,
)
from services.common.trajectory import Outcome
from services.reward.extraction import final_part
from services.reward.scores import Failure, JudgedResponse, Score

_THINK_TAG: Final = re.compile(r"</?think>")
_JUDGED: Final = (Outcome.CORRECT, Outcome.INCORRECT)


def accuracy(judged: JudgedResponse) -> Score:
    """1 for a correct answer, else 0."""
    return float(judged.outcome is Outcome.CORRECT)


def boxed(judged: JudgedResponse) -> Score:
    r"""1 when the answer judged was in a `\\boxed{}`, right or wrong, else 0."""
    return float(judged.outcome in _JUDGED and judged.extraction.method == "boxed")


def format_(judged: JudgedResponse) -> Score:
    r"""1 for at most one closed think block at the start and exactly one non-empty box after it,
    else 0.

    A `</think>` without its opening counts as closed: chat templates may open it in the prompt.
    Answers that were cut off or cost too much score 0.
    """
    final = final_part(judged.response)
    if judged.outcome not in _JUDGED or final is None or not _thinks_once(judged.response):
        return 0.0
    boxes = outer_boxes(final)
    return float(len(boxes) == 1 and boxes[0].closed and bool(innermost(boxes[0].content)))


def _thinks_once(response: str) -> bool:
    tags = _THINK_TAG.findall(response)
    if tags == ["<think>", "</think>"]:
        return response.lstrip().startswith("<think>")
    return tags in ([], ["</think>"])


def cosine(spec: CosineGrader, judged: JudgedResponse) -> Score:
    """Value of half a cosine from `short` at length 0 to `long` at the budget; `exceeded` from
    there on.
    """
    if judged.num_tokens <= 0 or judged.max_new_tokens <= 0:
        return Failure("length_unknown", "cosine needs num_tokens and max_new_tokens")
    if judged.outcome is Outcome.TRUNCATED or judged.num_tokens >= judged.max_new_tokens:
        return spec.exceeded
    correct = judged.outcome is Outcome.CORRECT
    short, long = (
        (spec.correct_short, spec.correct_long) if correct else (spec.wrong_short, spec.wrong_long)
    )
    return (
        short
        + (long - short) * (1 - math.cos(math.pi * judged.num_tokens / judged.max_new_tokens)) / 2
    )


def soft_overlong(spec: SoftOverlongGrader, judged: JudgedResponse) -> Score:
    """0, then down to −1 over the last `buffer` of the budget."""
    if judged.num_tokens <= 0 or judged.max_new_tokens <= 0:
        return Failure("length_unknown", "soft_overlong needs num_tokens and max_new_tokens")
    buffer = spec.buffer * judged.max_new_tokens
    over = judged.num_tokens - (judged.max_new_tokens - buffer)
    return -min(max(over / buffer, 0.0), 1.0)


def repetition(spec: RepetitionGrader, judged: JudgedResponse) -> Score:
    """−(1 − distinct / all) over n-grams; 0 for responses shorter than one."""
    words = judged.response.split()
    ngrams = list(zip(*(words[start:] for start in range(spec.ngram)), strict=False))
    return len(set(ngrams)) / len(ngrams) - 1.0 if ngrams else 0.0


def speed(spec: SpeedGrader, judged: JudgedResponse) -> Score:
    """Tokens per denoising step over the target, at most 1: what is fast and wrong is worth
    nothing.
    """
    if judged.num_tokens <= 0 or judged.num_steps <= 0:
        return Failure("steps_unknown", "speed needs num_tokens and num_steps")
    if judged.outcome is not Outcome.CORRECT:
        return 0.0
    return min(judged.num_tokens / judged.num_steps / spec.target, 1.0)
