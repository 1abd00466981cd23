"""Too many responses that could not be judged: no number is made of them, and somebody has to look."""

from collections.abc import Sequence
from typing import Any, Final

from services.common.codec import group_to_json
from services.common.errors import PlatformError
from services.common.job_spec import RewardSpec
from services.common.trajectory import Outcome, Purpose, ScoredGroup
from services.trainer.learner.rubric import group_rewards
from services.trainer.learner.trajectory_statistics import outcome_of

_SHOWN_GROUPS: Final = 8


class UnverifiableError(PlatformError):
    """More responses than allowed could not be judged: the job pauses."""

    def __init__(self, message: str, groups: Sequence[ScoredGroup]) -> None:
        hint = (
            "Look at the samples and the reward service's log, cure the cause, then resume the job."
        )
        super().__init__("reward_error_rate", message, hint=hint)
        self.groups = groups
        """Those with such responses."""


def require_verifiable(groups: Sequence[ScoredGroup], limit: float, what: str) -> None:
    """Raises UnverifiableError when a greater share of the verdicts than `limit` is missing; `what`
    waits for them.
    """
    verdicts = [t.verdict for group in groups for t in group.trajectories if t.verdict is not None]
    reasons = [verdict.reason for verdict in verdicts if verdict.outcome is Outcome.UNVERIFIABLE]
    if len(reasons) <= limit * len(verdicts):
        return
    raise UnverifiableError(
        f"Cannot {what}: {len(reasons)} of {len(verdicts)} responses ({len(reasons) / len(verdicts):.1%}) could not be "
        f"judged (reasons: {', '.join(sorted(set(reasons)))}); reward.max_unverifiable_rate is {limit:.1%}.",
        groups=[
            group for group in groups if Outcome.UNVERIFIABLE in map(outcome_of, group.trajectories)
        ],
    )


def samples(
    error: UnverifiableError, step: int, purpose: Purpose, reward: RewardSpec
) -> list[dict[str, Any]]:
    """TRAJECTORIES events of the first groups concerned."""
    return [
        {
            "step": step,
            "purpose": purpose.value,
            "disposition": "dropped_error",
            "group": group_to_json(group),
            "rewards": group_rewards(group, reward.graders),
            "advantages": [None] * len(group.trajectories),
        }
        for group in error.groups[:_SHOWN_GROUPS]
    ]
