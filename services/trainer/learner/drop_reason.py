"""Which groups are worth a training step."""

from collections.abc import Sequence
from typing import Literal

from services.common.advantages import MIN_SCORED
from services.common.trajectory import Outcome

DropReason = Literal["zero_variance", "error"]


def has_signal(outcomes: Sequence[Outcome]) -> bool:
    """Whether correctness varies among the scored responses (dynamic sampling, DAPO, arXiv
    2503.14476).

    Correctness, not reward: shaped rewards hardly ever tie, so they would let every group pass.
    """
    correct = {outcome is Outcome.CORRECT for outcome in outcomes if outcome.is_scored}
    return len(correct) > 1


def drop_reason(outcomes: Sequence[Outcome], *, dynamic_sampling: bool) -> DropReason | None:
    """Why a group is not trained on, or None if it is.

    error: fewer than two responses could be scored. zero_variance: dynamic sampling found no
    signal.
    """
    if sum(outcome.is_scored for outcome in outcomes) < MIN_SCORED:
        return "error"
    return "zero_variance" if dynamic_sampling and not has_signal(outcomes) else None
