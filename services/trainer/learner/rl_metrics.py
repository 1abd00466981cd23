"""Metrics of a reinforcement step, apart from those of the update itself."""

from collections.abc import Sequence

import numpy as np

from services.common.grader_spec import uses_correctness
from services.common.job_metrics import (
    GRADER_MEAN,
    GRADER_SECONDS,
    LATENCY_PERCENTILES,
    OUTCOME_METRICS,
    JobMetric,
)
from services.common.job_spec import RewardSpec, RlSpec
from services.common.rewards import find_success, has_signal
from services.common.trajectory import Trajectory, Verdict
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.rl_batch import RlBatch
from services.trainer.learner.trajectory_statistics import (
    drop_aborted,
    drop_missing,
    outcome_shares,
    steps_per_block,
    tokens_per_step,
    trajectories_of,
    truncation_rate,
)


def batch_metrics(
    batch: RlBatch, rl: RlSpec, reward: RewardSpec, threshold: float
) -> dict[str, float]:
    """Rewards, lengths and decoding of all groups of a step, the dropped ones included: they show
    the policy.
    """
    trajectories = trajectories_of(batch.groups)
    finished = drop_aborted(trajectories)
    verdicts = [t.verdict for t in trajectories if t.verdict is not None]
    scored = [verdict for verdict in verdicts if verdict.outcome.is_scored]
    seconds = [verdict.wall_ms / 1000 for verdict in verdicts]
    latencies: dict[str, float | None] = {
        metric: _percentile(seconds, percent) for percent, metric in LATENCY_PERCENTILES.items()
    }
    diffusion: dict[str, float | None] = {
        JobMetric.DIFFUSION_TOKENS_PER_STEP: tokens_per_step(finished),
        JobMetric.DIFFUSION_STEPS_PER_BLOCK: steps_per_block(batch.groups),
        JobMetric.DIFFUSION_CONFIDENCE_MEAN: _mean(
            [float(value) for t in finished for value in t.response.confidences]
        ),
        JobMetric.DIFFUSION_THRESHOLD: threshold,
    }
    return {
        **_reward_metrics(batch.groups, rl.min_reward_std),
        **_correctness_metrics(batch.groups, reward),
        **_cost_metrics(verdicts, reward),
        **drop_missing(
            {
                GRADER_MEAN.format_name(grader=grader.name): _mean(
                    [verdict.rewards[grader.name] for verdict in scored]
                )
                for grader in reward.graders
            }
        ),
        **{OUTCOME_METRICS[name]: share for name, share in outcome_shares(trajectories).items()},
        **drop_missing(latencies),
        **_rollout_metrics(batch, finished),
        **drop_missing(diffusion),
    }


def staleness_metrics(batch: RlBatch, version: int) -> dict[str, float]:
    """Weight versions by which the trajectories lag behind the weights that they train."""
    # Only what is trained on: a stale group that was dropped has no part in the update.
    ages_of = [[version - t.weight_version for t in g.trajectories] for g in batch.kept]
    ages = [age for group in ages_of for age in group]
    return {
        JobMetric.STALENESS_MEAN: float(np.mean(ages)),
        JobMetric.STALENESS_MAX: float(max(ages)),
        JobMetric.STALENESS_VERSION_SPAN_MAX: float(
            max(max(group) - min(group) for group in ages_of)
        ),
        JobMetric.STALENESS_DROPPED_GROUPS: float(len(batch.stale)),
    }


def _reward_metrics(groups: Sequence[GradedGroup], min_std: float) -> dict[str, float]:
    rewards = [value for group in groups for value in group.rewards if value is not None]
    values: dict[str, float | None] = {
        JobMetric.REWARD_MEAN: _mean(rewards),
        JobMetric.REWARD_STD: float(np.std(rewards)) if rewards else None,
        JobMetric.REWARD_MIN: min(rewards, default=None),
        JobMetric.REWARD_MAX: max(rewards, default=None),
        JobMetric.REWARD_FRAC_ZERO_STD: _mean(
            [not has_signal(group.signals, min_std) for group in groups]
        ),
    }
    return drop_missing(values)


def _correctness_metrics(groups: Sequence[GradedGroup], reward: RewardSpec) -> dict[str, float]:
    """Shares of successes; only where the graders say what success is."""
    succeeded = find_success(reward.graders)
    if succeeded is None:
        return {}
    # Groups without any score are left out: they say nothing about the policy.
    scored = [
        [t.verdict for t in group.trajectories if t.verdict and t.verdict.outcome.is_scored]
        for group in groups
    ]
    successes = [[succeeded(verdict) for verdict in verdicts] for verdicts in scored if verdicts]
    values: dict[str, float | None] = {
        JobMetric.REWARD_PASS_AT_K: _mean([any(group) for group in successes])
    }
    if uses_correctness(reward.graders):
        values |= {
            JobMetric.REWARD_ACCURACY: _mean([one for group in successes for one in group]),
            JobMetric.REWARD_FRAC_ALL_CORRECT: _mean([all(group) for group in successes]),
            JobMetric.REWARD_FRAC_ALL_WRONG: _mean([not any(group) for group in successes]),
        }
    return drop_missing(values)


def _cost_metrics(verdicts: Sequence[Verdict], reward: RewardSpec) -> dict[str, float]:
    """What the graders used; judge tokens only where a judge reported any."""
    tokens = sum(verdict.judge_tokens for verdict in verdicts)
    seconds = {
        grader.name: sum(verdict.grader_s.get(grader.name, 0.0) for verdict in verdicts)
        for grader in reward.graders
    }
    return {
        **{GRADER_SECONDS.format_name(grader=name): spent for name, spent in seconds.items()},
        **({JobMetric.REWARD_JUDGE_TOKENS: tokens} if tokens else {}),
    }


def _rollout_metrics(batch: RlBatch, finished: Sequence[Trajectory]) -> dict[str, float]:
    lengths = [trajectory.response.visible_len for trajectory in finished]
    values: dict[str, float | None] = {
        JobMetric.ROLLOUT_GROUPS: float(len(batch.groups)),
        JobMetric.ROLLOUT_GROUPS_TRAINED: float(len(batch.kept)),
        JobMetric.ROLLOUT_RESAMPLE_ROUNDS: float(batch.rounds - 1),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_MEAN: _mean(lengths),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_P50: _percentile(lengths, 50),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_P95: _percentile(lengths, 95),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_MAX: float(max(lengths)) if lengths else None,
        JobMetric.ROLLOUT_TRUNCATION_RATE: truncation_rate(finished),
        JobMetric.ROLLOUT_UNIQUE_RATIO: _mean([_unique_ratio(group) for group in batch.groups]),
    }
    return drop_missing(values)


def _unique_ratio(group: GradedGroup) -> float:
    """Distinct visible responses per response of a group."""
    texts = {tuple(t.response.visible_ids.tolist()) for t in group.trajectories}
    return len(texts) / len(group.trajectories)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
