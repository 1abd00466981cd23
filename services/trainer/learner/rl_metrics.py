"""Metrics of a reinforcement step, apart from those of the update itself."""

from collections.abc import Sequence

import numpy as np

from services.common.grader_spec import GraderSpec
from services.common.job_metrics import GRADER_MEAN, LATENCY_PERCENTILES, OUTCOME_METRICS, JobMetric
from services.common.trajectory import Outcome, Trajectory
from services.trainer.learner.rl_batch import JudgedGroup, RlBatch
from services.trainer.learner.trajectory_statistics import (
    completed,
    outcome_shares,
    present,
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
    groups = [item.group for item in batch.judged]
    trajectories = trajectories_of(groups)
    finished = completed(trajectories)
    diffusion: dict[str, float | None] = {
        JobMetric.DIFFUSION_TOKENS_PER_STEP: tokens_per_step(finished),
        JobMetric.DIFFUSION_STEPS_PER_BLOCK: steps_per_block(groups),
        JobMetric.DIFFUSION_CONFIDENCE_MEAN: _mean(
            [float(value) for t in finished for value in t.confidences]
        ),
        JobMetric.DIFFUSION_THRESHOLD: threshold,
    }
    return {
        **_reward_metrics(batch.judged),
        **present(
            {
                GRADER_MEAN.format_name(grader=grader.name): _score(trajectories, grader.name)
                for grader in graders
            }
        ),
        **{OUTCOME_METRICS[name]: share for name, share in outcome_shares(trajectories).items()},
        **_latencies(trajectories),
        **_rollout_metrics(batch, finished),
        **present(diffusion),
    }


def staleness_metrics(batch: RlBatch, version: int, dropped_groups: int) -> dict[str, float]:
    """How many weight versions the trajectories that are trained on lag behind the weights they
    train.
    """
    groups = [[version - t.weight_version for t in item.group.trajectories] for item in batch.kept]
    ages = [age for group in groups for age in group]
    return {
        JobMetric.STALENESS_MEAN: float(np.mean(ages)),
        JobMetric.STALENESS_MAX: float(max(ages)),
        JobMetric.STALENESS_VERSION_SPAN_MAX: float(
            max(max(group) - min(group) for group in groups)
        ),
        JobMetric.STALENESS_DROPPED_GROUPS: float(dropped_groups),
    }


def _reward_metrics(judged: Sequence[JudgedGroup]) -> dict[str, float]:
    rewards = [reward for item in judged for reward in item.rewards if reward is not None]
    scored = [outcome for item in judged for outcome in item.outcomes if outcome.is_scored]
    correct_by_group = [_num_correct(item) for item in judged if _num_scored(item)]
    all_correct = [_num_correct(item) == _num_scored(item) for item in judged if _num_scored(item)]
    values: dict[str, float | None] = {
        JobMetric.REWARD_MEAN: _mean(rewards),
        JobMetric.REWARD_STD: float(np.std(rewards)) if rewards else None,
        JobMetric.REWARD_MIN: min(rewards, default=None),
        JobMetric.REWARD_MAX: max(rewards, default=None),
        JobMetric.REWARD_ACCURACY: _mean([outcome is Outcome.CORRECT for outcome in scored]),
        JobMetric.REWARD_PASS_AT_K: _mean([count > 0 for count in correct_by_group]),
        JobMetric.REWARD_FRAC_ALL_CORRECT: _mean(all_correct),
        JobMetric.REWARD_FRAC_ALL_WRONG: _mean([count == 0 for count in correct_by_group]),
        JobMetric.REWARD_FRAC_ZERO_STD: _mean([_has_equal_rewards(item) for item in judged]),
    }
    return present(values)


def _rollout_metrics(batch: RlBatch, finished: Sequence[Trajectory]) -> dict[str, float]:
    lengths = [trajectory.visible_len for trajectory in finished]
    values: dict[str, float | None] = {
        JobMetric.ROLLOUT_GROUPS: float(len(batch.judged)),
        JobMetric.ROLLOUT_GROUPS_TRAINED: float(len(batch.kept)),
        JobMetric.ROLLOUT_RESAMPLE_ROUNDS: float(batch.rounds - 1),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_MEAN: _mean(lengths),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_P50: _percentile(lengths, 50),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_P95: _percentile(lengths, 95),
        JobMetric.ROLLOUT_RESPONSE_LENGTH_MAX: float(max(lengths)) if lengths else None,
        JobMetric.ROLLOUT_TRUNCATION_RATE: truncation_rate(finished),
        JobMetric.ROLLOUT_UNIQUE_RATIO: _mean([_unique_ratio(item) for item in batch.judged]),
    }
    return present(values)


def _latencies(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    seconds = [t.verdict.wall_ms / 1000 for t in trajectories if t.verdict is not None]
    values: dict[str, float | None] = {
        metric: _percentile(seconds, percent) for percent, metric in LATENCY_PERCENTILES.items()
    }
    return present(values)


def _score(trajectories: Sequence[Trajectory], grader: str) -> float | None:
    verdicts = [
        t.verdict for t in trajectories if t.verdict is not None and t.verdict.outcome.is_scored
    ]
    return _mean([verdict.rewards[grader] for verdict in verdicts])


def _num_scored(item: JudgedGroup) -> int:
    return sum(outcome.is_scored for outcome in item.outcomes)


def _num_correct(item: JudgedGroup) -> int:
    return item.outcomes.count(Outcome.CORRECT)


def _has_equal_rewards(item: JudgedGroup) -> bool:
    return len({reward for reward in item.rewards if reward is not None}) < 2


def _unique_ratio(item: JudgedGroup) -> float:
    """Distinct visible responses per response of a group."""
    texts = {tuple(t.token_ids[: t.visible_len].tolist()) for t in item.group.trajectories}
    return len(texts) / len(item.group.trajectories)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
