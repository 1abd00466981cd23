"""Metrics of a reinforcement step, apart from those of the update itself."""

from collections.abc import Sequence

import numpy as np

from services.common.grader_spec import GraderSpec
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
    diffusion = {
        "diffusion/tokens_per_step": tokens_per_step(finished),
        "diffusion/steps_per_block": steps_per_block(groups),
        "diffusion/confidence_mean": _mean(
            [float(value) for t in finished for value in t.confidences]
        ),
        "diffusion/threshold": threshold,
    }
    return {
        **_reward_metrics(batch.judged),
        **present(
            {f"reward/{grader.name}/mean": _score(trajectories, grader.name) for grader in graders}
        ),
        **{f"reward/outcome/{name}": share for name, share in outcome_shares(trajectories).items()},
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
        "staleness/mean": float(np.mean(ages)),
        "staleness/max": float(max(ages)),
        "staleness/version_span_max": float(max(max(group) - min(group) for group in groups)),
        "staleness/dropped_groups": float(dropped_groups),
    }


def _reward_metrics(judged: Sequence[JudgedGroup]) -> dict[str, float]:
    rewards = [reward for item in judged for reward in item.rewards if reward is not None]
    scored = [outcome for item in judged for outcome in item.outcomes if outcome.is_scored]
    correct_by_group = [_num_correct(item) for item in judged if _num_scored(item)]
    all_correct = [_num_correct(item) == _num_scored(item) for item in judged if _num_scored(item)]
    values = {
        "reward/mean": _mean(rewards),
        "reward/std": float(np.std(rewards)) if rewards else None,
        "reward/min": min(rewards, default=None),
        "reward/max": max(rewards, default=None),
        "reward/accuracy": _mean([outcome is Outcome.CORRECT for outcome in scored]),
        "reward/pass_at_k": _mean([count > 0 for count in correct_by_group]),
        "reward/frac_all_correct": _mean(all_correct),
        "reward/frac_all_wrong": _mean([count == 0 for count in correct_by_group]),
        "reward/frac_zero_std": _mean([_has_equal_rewards(item) for item in judged]),
    }
    return present(values)


def _rollout_metrics(batch: RlBatch, finished: Sequence[Trajectory]) -> dict[str, float]:
    lengths = [trajectory.visible_len for trajectory in finished]
    values = {
        "rollout/groups": float(len(batch.judged)),
        "rollout/groups_trained": float(len(batch.kept)),
        "rollout/resample_rounds": float(batch.rounds - 1),
        "rollout/response_length_mean": _mean(lengths),
        "rollout/response_length_p50": _percentile(lengths, 50),
        "rollout/response_length_p95": _percentile(lengths, 95),
        "rollout/response_length_max": float(max(lengths)) if lengths else None,
        "rollout/truncation_rate": truncation_rate(finished),
        "rollout/unique_ratio": _mean([_unique_ratio(item) for item in batch.judged]),
    }
    return present(values)


def _latencies(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    seconds = [t.verdict.wall_ms / 1000 for t in trajectories if t.verdict is not None]
    values = {f"reward/latency_p{share}_s": _percentile(seconds, share) for share in (50, 95, 99)}
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
