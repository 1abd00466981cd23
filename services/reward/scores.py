"""Inputs and outputs of graders."""

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.data.program_tests import find_program
from services.common.trajectory import FinishReason, Outcome
from services.reward.cancellation import Cancellation
from services.reward.extraction import Extraction


@dataclass(frozen=True, kw_only=True)
class GradedResponse:
    """A response with its outcome."""

    response: str
    extraction: Extraction
    outcome: Outcome
    """An outcome for which `is_scored` holds."""
    reference_answer: str = ""
    """Empty when the row has none."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row of the data set (services.common.data.rows.Row.item)."""
    finish_reason: FinishReason = FinishReason.STOP
    unmask_step: Sequence[int] = ()
    """Denoising step at which each visible token was committed, from 1; empty if unknown."""
    num_tokens: int = 0
    """Visible tokens; 0 if unknown."""
    num_steps: int = 0
    """Denoising steps; 0 if unknown."""
    max_new_tokens: int = 0
    """Token budget; 0 if unknown."""

    def to_sample(self) -> dict[str, Any]:
        """Return what graders see as `sample`, with the fields of SAMPLE_FIELDS."""
        return {
            "output_text": self.response,
            "output_json": _parse_json(self.response),
            "program": find_program(self.response),
            "answer": self.extraction.text,
            "outcome": self.outcome.value,
            "finish_reason": self.finish_reason.value,
            "num_tokens": self.num_tokens,
            "num_steps": self.num_steps,
            "max_new_tokens": self.max_new_tokens,
            "unmask_step": list(self.unmask_step),
        }

    def to_item(self) -> dict[str, Any]:
        """Return what graders see as `item`: the row, with its reference answer if it has one."""
        own = {"reference_answer": self.reference_answer} if self.reference_answer else {}
        return {**own, **self.row}


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class GraderFailure:
    """A grader returned no score. The response becomes unverifiable; it is never scored 0."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        # It may quote untrusted code, whose text may hold lone surrogates; no message can carry those.
        object.__setattr__(self, "detail", self.detail.encode(errors="replace").decode())


Score = float | GraderFailure


@dataclass(frozen=True)
class ExplainedScore:
    """A score and why the response got it."""

    score: float
    explanation: str


def drop_explanation(score: Score | ExplainedScore) -> Score:
    """Return the score alone."""
    return score.score if isinstance(score, ExplainedScore) else score


class Meter:
    """Counts what a grader used for a batch. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.judge_tokens = 0

    def add_tokens(self, count: int) -> None:
        """Count tokens that a judge read and wrote."""
        with self._lock:
            self.judge_tokens += count


@dataclass(frozen=True)
class GradingLimits:
    """Time limits of a batch, and the meter of what it uses."""

    expires_at: float = math.inf
    """Scores that are not started by then (time.monotonic) fail as overloaded."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True)
class Grades:
    """What the graders made of one response."""

    scores: dict[str, Score]
    """By grader."""
    explanations: dict[str, str]
    """What graders say about their scores, by grader; only of those that say something."""
    seconds: dict[str, float]
    """The response's share of the wall time of its batch, by grader."""
    judge_tokens: float
    """The response's share of the tokens that judges read and wrote."""


Scorer = Callable[[Sequence[GradedResponse], GradingLimits], Sequence[Score | ExplainedScore]]
"""Scores of a batch, in order."""
