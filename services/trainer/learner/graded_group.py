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

    Raises PlatformError("internal") where group_rewards does.
    """
    rewards = group_rewards(group.scored, reward.graders)
    return replace(
        group,
        rewards=rewards,
        advantages=group_advantages(rewards, rl.advantage),
        dropped=drop_reason(group.outcomes, dynamic_sampling=rl.dynamic_sampling),
    )


def group_rewards(group: ScoredGroup, graders: Sequence[GraderSpec]) -> list[float | None]:
    """Reward of each response, in order: the weighted sum of its grader scores; None where it could
    not be scored. Raises PlatformError("internal").
    """
    return [_reward(trajectory, graders) for trajectory in group.trajectories]


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
    # The advantage is relative to the other responses of the group: one alone has none.
    if sum(outcome.is_scored for outcome in outcomes) < MIN_SCORED:
        return "error"
    return "zero_variance" if dynamic_sampling and not has_signal(outcomes) else None


def _reward(trajectory: Trajectory, graders: Sequence[GraderSpec]) -> float | None:
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
    return sum(grader.weight * verdict.rewards[grader.name] for grader in graders)
