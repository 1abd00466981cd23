"""A graded group: the learner's own task joined with the scored group of the same id, and its rewards
and advantages in a training step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from services.common.advantages import MIN_SCORED, group_advantages
from services.common.codec import group_to_json
from services.common.errors import PlatformError
from services.common.grader_spec import GraderSpec
from services.common.job_spec import RewardSpec, RlSpec
from services.common.rewards import Scores, compute_rewards, compute_signals, keeps_group
from services.common.trajectory import Outcome, PromptTask, ScoredGroup, Trajectory
from services.trainer.training.trajectory_rows import Sample

DropReason = Literal["zero_variance", "error"]


@dataclass(frozen=True)
class GradedGroup:
    """One prompt and its graded responses."""

    task: PromptTask
    """The task as the learner issued it."""
    scored: ScoredGroup
    rewards: list[float | None] = field(default_factory=list)
    """In the order of the responses, None for one that could not be graded; empty before
    assess_group.
    """
    signals: list[float | None] = field(default_factory=list)
    """What the advantages are computed from (services.common.rewards.compute_signals); None and empty
    as for `rewards`.
    """
    advantages: list[float | None] = field(default_factory=list)
    """Advantage of each response; None and empty as for `rewards`."""
    dropped: DropReason | None = None
    """None when the group is trained on, or only evaluated."""

    @property
    def position(self) -> int:
        """Ledger position."""
        return self.task.ledger_position

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Graded responses, in the order of their index."""
        return self.scored.trajectories

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcome of each response."""
        return [trajectory.outcome for trajectory in self.trajectories]

    def samples(self) -> list[Sample]:
        """Samples of the mini-batch: one for each response that could be graded."""
        return [
            Sample(
                trajectory_id=trajectory.trajectory_id,
                prompt_ids=self.task.prompt_ids,
                response=trajectory.response,
                advantage=advantage,
                group=self.task.group_id,
            )
            for trajectory, advantage in zip(self.trajectories, self.advantages, strict=True)
            if advantage is not None
        ]

    def to_event(self, step: int, disposition: str) -> dict[str, Any]:
        """Data of a TRAJECTORIES event."""
        return {
            "step": step,
            "purpose": self.task.purpose.value,
            "disposition": disposition,
            "group": group_to_json(self.task, self.scored),
            **({"rewards": self.rewards} if self.rewards else {}),
            "advantages": self.advantages or [None] * len(self.trajectories),
        }


def assess_group(group: GradedGroup, rl: RlSpec, reward: RewardSpec) -> GradedGroup:
    """Return the group with its rewards and advantages, and whether a step trains on it.

    Raises PlatformError("internal") where read_scores does.
    """
    scores = read_scores(group.scored, reward.graders)
    signals = compute_signals(scores, reward)
    return replace(
        group,
        rewards=compute_rewards(scores, reward.graders),
        signals=signals,
        advantages=group_advantages(signals, rl.advantage),
        dropped=drop_reason(signals, group.outcomes, rl),
    )


def drop_reason(
    signals: Sequence[float | None], outcomes: Sequence[Outcome], rl: RlSpec
) -> DropReason | None:
    """Why a group is not trained on, or None if it is.

    error: fewer than two responses could be scored. zero_variance: dynamic sampling found no
    signal.
    """
    # The advantage is relative to the other responses of the group: one alone has none.
    if sum(signal is not None for signal in signals) < MIN_SCORED:
        return "error"
    return None if keeps_group(signals, outcomes, rl) else "zero_variance"


def read_scores(group: ScoredGroup, graders: Sequence[GraderSpec]) -> list[Scores | None]:
    """Return the scores of each response, in order; None where it could not be scored.

    Raises PlatformError("internal").
    """
    return [_read_scores(trajectory, graders) for trajectory in group.trajectories]


def _read_scores(trajectory: Trajectory, graders: Sequence[GraderSpec]) -> Scores | None:
    verdict = trajectory.verdict
    if verdict is None:
        raise PlatformError(
            "internal",
            f"Cannot compute the reward of trajectory {trajectory.trajectory_id}: it was never graded; a scored group"
            " carries a verdict for every response.",
        )
    # Our failure to grade is not the model's failure to answer: it leaves the group's statistics.
    if not verdict.outcome.is_scored:
        return None
    # A missing score is an error, not a zero: a zero would look like a wrong answer.
    missing = [grader.name for grader in graders if grader.name not in verdict.rewards]
    if missing:
        raise PlatformError(
            "internal",
            f"Cannot compute the reward of trajectory {trajectory.trajectory_id}: grader {missing[0]!r} of the job spec"
            f" gave no score, only {sorted(verdict.rewards)} did.",
            hint="Run the same release of the reward and trainer services.",
        )
    return verdict.rewards
