"""One reinforcement step's batch: prompts issued, groups judged, uninformative ones dropped and
replaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.common.advantages import group_advantages
from services.common.errors import PlatformError
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import Outcome, ScoredGroup
from services.trainer.learner.drop_reason import DropReason, drop_reason
from services.trainer.learner.rubric import group_rewards
from services.trainer.learner.trajectory_statistics import outcome_of
from services.trainer.learner.verifiability import require_verifiable
from services.trainer.training.trajectory_rows import Sample

Collect = Callable[[int], Sequence[ScoredGroup]]
"""Issues so many prompts and returns their groups by ledger position."""


@dataclass(frozen=True)
class JudgedGroup:
    """A group with what the step makes of it."""

    group: ScoredGroup
    rewards: list[float | None]
    """In the order of the responses; None for one that could not be judged."""
    advantages: list[float | None]
    dropped: DropReason | None
    """None when the group is trained on."""

    @property
    def position(self) -> int:
        """Ledger position."""
        return self.group.task.ledger_position

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcome of each response."""
        return [outcome_of(trajectory) for trajectory in self.group.trajectories]


@dataclass(frozen=True)
class RlBatch:
    """All groups of a step, by ledger position."""

    judged: list[JudgedGroup]
    rounds: int
    """How often prompts were issued: 1 without refill."""

    @property
    def kept(self) -> list[JudgedGroup]:
        """Groups that are trained on."""
        return [item for item in self.judged if item.dropped is None]

    def samples(self) -> list[Sample]:
        """The mini-batch: every judged response of the kept groups."""
        return [sample for item in self.kept for sample in _samples(item)]


def gather_batch(rl: RlSpec, reward: RewardSpec, collect: Collect) -> RlBatch:
    """Gather `prompts_per_step` groups worth training on, refilling at most `max_resample_rounds`
    times.

    Raises UnverifiableError when too many responses could not be judged, PlatformError
    `no_learning_signal` when fewer than `min_groups_per_step` groups are left.
    """
    judged: list[JudgedGroup] = []
    rounds = kept = 0
    while kept < rl.prompts_per_step and rounds <= rl.max_resample_rounds:
        judged += [_judge(group, rl, reward) for group in collect(rl.prompts_per_step - kept)]
        require_verifiable([item.group for item in judged], reward.max_unverifiable_rate, "train")
        kept = sum(item.dropped is None for item in judged)
        rounds += 1
    if kept < rl.min_groups_per_step:
        raise _no_signal(rl, judged, kept)
    return RlBatch(sorted(judged, key=lambda item: item.position), rounds)


def _judge(group: ScoredGroup, rl: RlSpec, reward: RewardSpec) -> JudgedGroup:
    rewards = group_rewards(group, reward.graders)
    outcomes = [outcome_of(trajectory) for trajectory in group.trajectories]
    return JudgedGroup(
        group=group,
        rewards=rewards,
        advantages=group_advantages(rewards, rl.advantage),
        dropped=drop_reason(outcomes, dynamic_sampling=rl.dynamic_sampling),
    )


def _samples(item: JudgedGroup) -> list[Sample]:
    return [
        Sample(
            trajectory_id=trajectory.trajectory_id,
            prompt_ids=item.group.task.prompt_ids,
            token_ids=trajectory.token_ids,
            unmask_step=trajectory.unmask_step,
            logprobs=trajectory.logprobs,
            advantage=advantage,
            rejected=trajectory.rejected,
            group=item.group.task.group_id,
        )
        for trajectory, advantage in zip(item.group.trajectories, item.advantages, strict=True)
        if advantage is not None
    ]


def _no_signal(rl: RlSpec, judged: Sequence[JudgedGroup], kept: int) -> PlatformError:
    correct = [outcome is Outcome.CORRECT for item in judged for outcome in item.outcomes]
    return PlatformError(
        "no_learning_signal",
        f"Cannot train: {kept} of {len(judged)} groups have responses of differing correctness, at least "
        f"{rl.min_groups_per_step} are needed; {sum(correct)} of {len(correct)} responses were correct.",
        hint="Choose easier or harder prompts, a better initial model, or more rl.num_generations.",
    )
