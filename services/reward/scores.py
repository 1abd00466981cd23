"""What graders see and what they give."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.common.trajectory import Outcome
from services.reward.cancellation import Cancellation
from services.reward.extraction import Extraction


@dataclass(frozen=True, kw_only=True)
class JudgedResponse:
    """One response whose answer was judged."""

    response: str
    extraction: Extraction
    outcome: Outcome
    """A scored one."""
    gold: str = ""
    num_tokens: int = 0
    """Visible tokens; 0 when the caller did not say."""
    num_steps: int = 0
    """Denoising steps; 0 when the caller did not say."""
    max_new_tokens: int = 0
    """Token budget; 0 when the caller did not say."""


@dataclass(frozen=True)
class Failure:
    """A grader had no number to give: the response becomes unverifiable, it is never scored 0 for
    it.
    """

    reason: str
    detail: str = ""


Score = float | Failure


@dataclass(frozen=True)
class GradingLimits:
    """How long scores are wanted."""

    expires_at: float = math.inf
    """What is not begun by then (time.monotonic) fails as overloaded."""
    cancellation: Cancellation = field(default_factory=Cancellation)


Scorer = Callable[[Sequence[JudgedResponse], GradingLimits], list[Score]]
"""Scores of a batch, in order."""
