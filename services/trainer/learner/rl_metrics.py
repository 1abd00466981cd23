"""Metrics of a reinforcement step, apart from those of the update itself."""

from collections.abc import Sequence

import numpy as np

from services.common.grader_spec import GraderSpec
from services.common.job_metrics import GRADER_MEAN, LATENCY_PERCENTILES, OUTCOME_METRICS, JobMetric
from services.common.trajectory import Outcome, Trajectory
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
    batch: RlBatch, graders: Sequence[GraderSpec], threshold: float
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
        **_reward_metrics(batch.groups),
        **drop_missing(
            {
                GRADER_MEAN.format_name(grader=grader.name): _mean(
                    [verdict.rewards[grader.name] for verdict in scored]
                )
                for grader in graders
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


def _reward_metrics(groups: Sequence[GradedGroup]) -> dict[str, float]:
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    scored = [outcome for group in groups for outcome in group.outcomes if outcome.is_scored]
    # Groups without any score are left out of the shares of correct ones: they say nothing about the
    # policy.
    correct_by_group = [_num_correct(group) for group in groups if _num_scored(group)]
    all_correct = [
        _num_correct(group) == _num_scored(group) for group in groups if _num_scored(group)
    ]
    values: dict[str, float | None] = {
        JobMetric.REWARD_MEAN: _mean(rewards),
        JobMetric.REWARD_STD: float(np.std(rewards)) if rewards else None,
        JobMetric.REWARD_MIN: min(rewards, default=None),
        JobMetric.REWARD_MAX: max(rewards, default=None),
        JobMetric.REWARD_ACCURACY: _mean([outcome is Outcome.CORRECT for outcome in scored]),
        JobMetric.REWARD_PASS_AT_K: _mean([count > 0 for count in correct_by_group]),
        JobMetric.REWARD_FRAC_ALL_CORRECT: _mean(all_correct),
        JobMetric.REWARD_FRAC_ALL_WRONG: _mean([count == 0 for count in correct_by_group]),
        JobMetric.REWARD_FRAC_ZERO_STD: _mean(
            [len({r for r in group.rewards if r is not None}) < 2 for group in groups]
        ),
    }
    return drop_missing(values)


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


def _num_scored(group: GradedGroup) -> int:
    return sum(outcome.is_scored for outcome in group.outcomes)


def _num_correct(group: GradedGroup) -> int:
    return group.outcomes.count(Outcome.CORRECT)


def _unique_ratio(group: GradedGroup) -> float:
    """Distinct visible responses per response of a group."""
    texts = {tuple(t.response.visible_ids.tolist()) for t in group.trajectories}
    return len(texts) / len(group.trajectories)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
