"""Too many responses that could not be graded: no number is made of them, and the job pauses for
the user.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.job_spec import RewardSpec
from services.common.rewards import compute_rewards
from services.common.trajectory import Outcome
from services.trainer.learner.graded_group import GradedGroup, read_scores
from services.trainer.learner.journal import Reporter

_SHOWN_GROUPS: Final = 8


class UnverifiableError(PlatformError):
    """More responses than allowed could not be graded: the job pauses."""

    def __init__(self, message: str, groups: Sequence[GradedGroup]) -> None:
        hint = (
            "Look at the samples and the reward service's log, fix the cause, then resume the job."
        )
        super().__init__("reward_error_rate", message, hint=hint)
        self.groups = groups
        """Those with such responses."""


def require_verifiable(groups: Sequence[GradedGroup], limit: float, what: str) -> None:
    """Raise UnverifiableError when a greater share of the verdicts than `limit` is missing; `what`
    is what cannot be done without them.
    """
    # A share, not a number: one timeout in a thousand responses is normal, half of them is an outage.
    verdicts = [t.verdict for group in groups for t in group.trajectories if t.verdict is not None]
    reasons = [verdict.reason for verdict in verdicts if verdict.outcome is Outcome.UNVERIFIABLE]
    if len(reasons) <= limit * len(verdicts):
        return
    raise UnverifiableError(
        f"Cannot {what}: {len(reasons)} of {len(verdicts)} responses ({len(reasons) / len(verdicts):.1%}) could not be "
        f"graded (reasons: {', '.join(sorted(set(reasons)))}); reward.max_unverifiable_rate is {limit:.1%}.",
        groups=[group for group in groups if Outcome.UNVERIFIABLE in group.outcomes],
    )


@contextmanager
def report_unverifiable(report: Reporter, step: int, reward: RewardSpec) -> Iterator[None]:
    """Within the block, an UnverifiableError shows its first groups as TRAJECTORIES events before it
    pauses the job.
    """
    try:
        yield
    except UnverifiableError as error:
        for group in error.groups[:_SHOWN_GROUPS]:
            scores = read_scores(group.scored, reward.graders)
            rewards = compute_rewards(scores, reward.graders)
            shown = replace(group, rewards=rewards, advantages=[])
            report.journal.emit(EventType.TRAJECTORIES, shown.to_event(step, "dropped_error"))
        raise
