"""Rewards of a group from the scores of its graders, shared by the learner and by rescoring.

A response without scores (unverifiable, aborted) has no reward: None, never a number.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from services.common.advantages import MIN_SCORED
from services.common.grader_spec import GraderSpec, uses_correctness
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import Outcome, Verdict

Scores = Mapping[str, float]
"""Score of every grader of the job, by name."""


def compute_reward(scores: Scores, graders: Sequence[GraderSpec]) -> float:
    """Return the sum of weight · score; a gated grader counts where its gate is met."""
    return sum(grader.weight * scores[grader.name] for grader in graders if _counts(grader, scores))


def compute_rewards(
    group: Sequence[Scores | None], graders: Sequence[GraderSpec]
) -> list[float | None]:
    """Return the reward of each response; None without scores."""
    return [None if scores is None else compute_reward(scores, graders) for scores in group]


def compute_signals(group: Sequence[Scores | None], reward: RewardSpec) -> list[float | None]:
    """Return what the advantages of a group are computed from: the rewards, or with
    `normalisation = "per_grader"` the weighted sum of standardised scores.

    A grader is standardised over the responses for which it counts; elsewhere, and where its scores
    are equal, it adds 0.
    """
    if reward.normalisation == "none":
        return compute_rewards(group, reward.graders)
    scored = [scores for scores in group if scores is not None]
    total = np.zeros(len(scored))
    for grader in reward.graders:
        counts = np.array([_counts(grader, scores) for scores in scored], bool)
        values = np.array([scores[grader.name] for scores in scored])[counts]
        if len(values) and values.min() != values.max():
            total[counts] += grader.weight * (values - values.mean()) / values.std()
    signals = iter(total.tolist())
    return [None if scores is None else next(signals) for scores in group]


def has_signal(signals: Sequence[float | None], min_std: float) -> bool:
    """Whether the signals of the scored responses differ by more than the tolerance."""
    scored = [signal for signal in signals if signal is not None]
    # Not the deviation alone: that of equal rewards may differ from 0 by rounding.
    return (
        len(scored) >= MIN_SCORED and min(scored) != max(scored) and float(np.std(scored)) > min_std
    )


def varies_in_correctness(outcomes: Sequence[Outcome]) -> bool:
    """Whether correctness varies among the scored responses (DAPO, arXiv 2503.14476)."""
    return len({outcome is Outcome.CORRECT for outcome in outcomes if outcome.is_scored}) > 1


def keeps_group(signals: Sequence[float | None], outcomes: Sequence[Outcome], rl: RlSpec) -> bool:
    """Whether dynamic sampling keeps a group."""
    match rl.dynamic_sampling:
        case "reward":
            return has_signal(signals, rl.min_reward_std)
        case "correctness":
            return varies_in_correctness(outcomes)
        case "off":
            return True


def find_success(graders: Sequence[GraderSpec]) -> Callable[[Verdict], bool] | None:
    """Return what tells whether a scored response succeeded: correctness where a grader looks at it,
    else the first binary grader; None where success has no meaning.
    """
    if uses_correctness(graders):
        return lambda verdict: verdict.outcome is Outcome.CORRECT
    binary = next((grader.name for grader in graders if grader.is_binary), None)
    return None if binary is None else lambda verdict: verdict.rewards[binary] >= 1


def _counts(grader: GraderSpec, scores: Scores) -> bool:
    return grader.only_if is None or scores[grader.only_if] > 0
