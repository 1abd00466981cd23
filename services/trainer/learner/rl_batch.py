"""One reinforcement step's batch: groups taken in the order of their issue, stale and uninformative
ones dropped and replaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.errors import PlatformError
from services.common.grader_spec import uses_correctness
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import Outcome
from services.trainer.learner.admission import Admission
from services.trainer.learner.graded_group import GradedGroup, assess_group
from services.trainer.learner.ledger import PromptResult, StepRecord
from services.trainer.learner.verifiability import require_verifiable
from services.trainer.learner.weight_snapshot import WeightSnapshot
from services.trainer.training.trajectory_rows import Sample

_MAX_STALE: Final = 3
"""Stale groups of a step, in batches, after which new weights are taken not to reach the replicas."""


@dataclass(frozen=True)
class RlBatch:
    """All groups of a step, by ledger position."""

    groups: list[GradedGroup]
    rounds: int
    """How often prompts were issued: 1 without refill."""
    stale: Sequence[int] = ()
    """Ledger positions whose groups were too old to train on."""

    @property
    def kept(self) -> list[GradedGroup]:
        """Groups that are trained on."""
        return [group for group in self.groups if group.dropped is None]

    def samples(self) -> list[Sample]:
        """The mini-batch: every graded response of the kept groups."""
        return [sample for group in self.kept for sample in group.samples()]

    def count_results(
        self, row: Callable[[int], int], success_reward: float
    ) -> tuple[PromptResult, ...]:
        """Attempts and successes of each group that was graded; `row` is that of a position."""
        counted = []
        for group in self.groups:
            rewards = [reward for reward in group.rewards if reward is not None]
            successes = sum(reward > success_reward for reward in rewards)
            counted.append(PromptResult(row(group.position), len(rewards), successes))
        return tuple(counted)

    def to_record(self, step: int) -> StepRecord:
        """The positions that the ledger closes for global step `step`: each one exactly once, stale
        ones included, or they would stay open and be trained on by the next attempt.
        """
        stale: dict[int, str] = dict.fromkeys(self.stale, "stale")
        dropped = {group.position: group.dropped for group in self.groups if group.dropped}
        return StepRecord(
            stage="rl",
            step=step,
            trained=tuple(group.position for group in self.kept),
            dropped=stale | dropped,
        )


class NoLearningSignalError(PlatformError):
    """Too few groups of a step have responses of differing rewards: the prompts are too easy, too hard, or learnt."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__("no_learning_signal", message, hint=hint)


def gather_batch(
    admission: Admission, rl: RlSpec, reward: RewardSpec, weights: WeightSnapshot, steps_left: int
) -> RlBatch:
    """Gather `prompts_per_step` groups worth training on, refilling at most `max_resample_rounds`
    times (dynamic sampling, DAPO, arXiv 2503.14476).

    Every trajectory of the batch is at most `max_staleness` versions older than `weights`; a staler
    group is dropped and another prompt issued. `steps_left` counts this step. Raises
    UnverifiableError when too many responses could not be graded, NoLearningSignalError when fewer
    than `min_groups_per_step` groups are left, PlatformError `stale_weights` when hardly anything but
    stale groups arrives, and what Rollouts.take raises.
    """
    # The last steps issue nothing beyond themselves: those prompts would be decoded for no step.
    ahead = min(rl.max_staleness, steps_left - 1) * rl.prompts_per_step
    groups: list[GradedGroup] = []
    stale: list[int] = []
    rounds = kept = 0
    while kept < rl.prompts_per_step and rounds <= rl.max_resample_rounds:
        admission.renew(weights)
        missing = rl.prompts_per_step - kept
        while missing > 0:
            group = admission.take_oldest(weights, limit=ahead + missing)
            if weights.version - group.scored.oldest_version > rl.max_staleness:
                stale.append(group.position)
                _require_fresh(group, rl, weights.version, len(stale))
            else:
                groups.append(assess_group(group, rl, reward))
                missing -= 1
        # Before the count of groups: a failing verifier also looks like a lack of signal.
        require_verifiable(groups, reward.max_unverifiable_rate, "train")
        kept = sum(group.dropped is None for group in groups)
        rounds += 1
    if kept < rl.min_groups_per_step:
        raise _no_signal(groups, kept, rl, reward)
    # By position, not by arrival: rows, and so the rounding of sums, do not depend on which replica
    # was faster.
    return RlBatch(sorted(groups, key=lambda group: group.position), rounds, stale)


def _no_signal(
    groups: Sequence[GradedGroup], kept: int, rl: RlSpec, reward: RewardSpec
) -> NoLearningSignalError:
    """The error of a step that has too few groups to train on, with what its responses got."""
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    what = "correctness" if rl.dynamic_sampling == "correctness" else "reward"
    got = (
        f"the rewards of {len(rewards)} responses are {min(rewards):g} to {max(rewards):g}, "
        f"{sum(rewards) / len(rewards):.3g} on the mean"
        if rewards
        else "no response has a reward"
    )
    correct = f", {outcomes.count(Outcome.CORRECT)} of {len(outcomes)} responses were correct"
    return NoLearningSignalError(
        f"Cannot train: {kept} of {len(groups)} groups have responses of differing {what}, at least "
        f"{rl.min_groups_per_step} are needed; {got}"
        f"{correct if uses_correctness(reward.graders) else ''}.",
        hint="A mean as high as it can get says that the job has learnt what its rewards can teach: export its newest "
        "checkpoint. Otherwise fork it with easier or harder prompts, graders whose scores differ between the "
        "responses to a prompt, or more rl.num_generations; resuming tries the next prompts.",
    )


def _require_fresh(group: GradedGroup, rl: RlSpec, version: int, num_stale: int) -> None:
    if num_stale > _MAX_STALE * rl.prompts_per_step:
        raise PlatformError(
            "stale_weights",
            f"Cannot train version {version}: {num_stale} groups were sampled under weights more than "
            f"rl.max_staleness={rl.max_staleness} versions older, the last one by replica {group.scored.replica} "
            f"under version {group.scored.oldest_version}.",
            hint="Look at the rollout service's log for weight updates that fail.",
        )
