"""Inputs and outputs of graders."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.common.trajectory import Outcome
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
    num_tokens: int = 0
    """Visible tokens; 0 if unknown."""
    num_steps: int = 0
    """Denoising steps; 0 if unknown."""
    max_new_tokens: int = 0
    """Token budget; 0 if unknown."""


@dataclass(frozen=True)
class GraderFailure:
    """A grader returned no score. The response becomes unverifiable; it is never scored 0."""

    reason: str
    detail: str = ""


Score = float | GraderFailure


@dataclass(frozen=True)
class GradingLimits:
    """Time limits of a batch."""

    expires_at: float = math.inf
    """Scores that are not started by then (time.monotonic) fail as overloaded."""
    cancellation: Cancellation = field(default_factory=Cancellation)


Scorer = Callable[[Sequence[GradedResponse], GradingLimits], list[Score]]
"""Scores of a batch, in order."""
