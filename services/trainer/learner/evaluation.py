"""Evaluation: the validation prompts through the rollout replicas, with the current weights."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from services.common.diffusion.config import DecodingConfig, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.grader_spec import GraderSpec, uses_correctness
from services.common.job_metrics import (
    EVAL_AVG_AT_K,
    EVAL_BEST_AT_K,
    EVAL_GRADER_MEAN,
    EVAL_PASS_AT_K,
    JobMetric,
)
from services.common.job_spec import RewardSpec
from services.common.rewards import compute_reward, compute_rewards, find_success
from services.common.trajectory import Purpose, Verdict
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.aup import compute_aup
from services.trainer.learner.datasets import EncodedPrompt
from services.trainer.learner.graded_group import GradedGroup, read_scores
from services.trainer.learner.prompt_tasks import VALIDATION, make_prompt_task
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.trajectory_statistics import (
    drop_aborted,
    drop_missing,
    outcome_shares,
    steps_per_block,
    tokens_per_step,
    trajectories_of,
    truncation_rate,
)
from services.trainer.learner.verifiability import report_unverifiable, require_verifiable
from services.trainer.learner.wilson import wilson_interval
from services.trainer.training.sft import SftExample

_LOGGED_GROUPS: Final = 8
_PASS_AT: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_NORMAL_95: Final = 1.959964
"""Quantile 0.975 of the normal distribution."""
_CURVES: Final = {
    "reward": JobMetric.EVAL_REWARD,
    "accuracy": JobMetric.EVAL_ACCURACY,
    "tokens_per_step": JobMetric.EVAL_TOKENS_PER_STEP,
    "mean_response_length": JobMetric.EVAL_MEAN_RESPONSE_LENGTH,
    "truncation_rate": JobMetric.EVAL_TRUNCATION_RATE,
    "loss": JobMetric.EVAL_LOSS,
    "judge_tokens": JobMetric.EVAL_JUDGE_TOKENS,
    "aup": JobMetric.EVAL_AUP,
}
"""Results of an evaluation that are metrics too."""


@dataclass
class EvaluationRunner:
    """Evaluates the job's validation set; each version of the weights once."""

    context: AttemptContext
    rollouts: Rollouts
    prompts: Sequence[EncodedPrompt]
    held_out: Sequence[SftExample]
    """Examples whose loss a supervised stage reports; may be none."""
    decoding: DecodingConfig
    done: int = 0
    """Evaluations of this attempt; part of the group ids."""
    last_version: int = -1
    """Weight version evaluated last."""

    def run(self, stage: str, *, ends_stage: bool = False) -> None:
        """Evaluate the current weights unless they were evaluated; reports EVALUATION, METRICS and
        the first trajectories.

        At the end of a stage by the spec's other decodings first: the last evaluation is always the
        job's own.
        """
        # The end of a stage may fall on an interval; equal weights would give equal responses.
        version = self.context.state.global_step
        if version == self.last_version:
            return
        measured = []
        for other in self._other_decodings() if ends_stage else ():
            results, _ = self._measure(self.decoding.model_copy(update=other))
            self._emit_results(stage, {**results, "decoding": other})
            measured.append(results)
        results, groups = self._measure(self.decoding)
        if measured:
            results |= drop_missing({"aup": compute_aup([*measured, results])})
        if stage == "sft" and self.held_out:
            with self.context.report.record_time(JobMetric.TIME_EVAL_S):
                results["loss"] = self.context.policy_model.sft_loss(self.held_out)
        self._emit_results(stage, results)
        self.context.report.metrics(version, evaluation_metrics(results))
        graders = self.context.spec.reward.graders
        for group in groups[:_LOGGED_GROUPS]:
            rewards = compute_rewards(read_scores(group.scored, graders), graders)
            shown = replace(group, rewards=rewards)
            self.context.report.journal.emit(
                EventType.TRAJECTORIES, shown.to_event(version, "evaluated")
            )
        self.last_version = version

    def _other_decodings(self) -> Iterator[dict[str, Any]]:
        """Replacements for values of the job's decoding: a threshold, or steps per block and the rule
        that counts them.
        """
        wanted, own = self.context.spec.eval, self.decoding.unmasking_strategy
        for threshold in wanted.confidence_thresholds:
            yield {"confidence_threshold": threshold}
        # Steps per block mean nothing to a rule that commits by confidence.
        rule = own if own.counts_steps else UnmaskingStrategy.LOW_CONFIDENCE_STATIC
        for steps in wanted.denoising_steps:
            yield {"unmasking_strategy": rule, "denoising_steps": steps}

    def _measure(self, decoding: DecodingConfig) -> tuple[dict[str, Any], Sequence[GradedGroup]]:
        """The numbers of one evaluation, and the groups they were made from."""
        context, started = self.context, time.monotonic()
        tasks = [
            make_prompt_task(context, prompt, position, Purpose.EVAL, self.done, decoding)
            for position, prompt in enumerate(self.prompts)
        ]
        with context.report.record_time(JobMetric.TIME_EVAL_S):
            groups = self.rollouts.collect(tasks, context.weights(), "eval")
        # As for training: an accuracy over the few that could be graded says nothing.
        with report_unverifiable(context.report, context.state.global_step, context.spec.reward):
            require_verifiable(groups, context.spec.reward.max_unverifiable_rate, "evaluate")
        self.done += 1
        measured = {
            "weight_version": context.state.global_step,
            "seconds": time.monotonic() - started,
        }
        return {**evaluation_results(groups, context.spec.reward), **measured}, groups

    def _emit_results(self, stage: str, results: dict[str, Any]) -> None:
        fields = {
            "step": self.context.state.global_step,
            "stage": stage,
            "dataset": VALIDATION,
            "results": results,
        }
        self.context.report.journal.emit(EventType.EVALUATION, fields)


def evaluation_metrics(results: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of an evaluation by their public names.

    `avg@k`, `best@k` and `pass@k`, with the k of the evaluation, are the names that experiment
    trackers know; `reward` and `accuracy` stay the same when k changes.
    """
    k = results["num_generations"]
    of_k = {
        "accuracy": EVAL_AVG_AT_K,
        "reward_best_at_k": EVAL_BEST_AT_K,
        "pass_at_k": EVAL_PASS_AT_K,
    }
    return {
        **{metric: results[name] for name, metric in _CURVES.items() if name in results},
        **{p.format_name(k=k): results[name] for name, p in of_k.items() if name in results},
        **{
            EVAL_PASS_AT_K.format_name(k=i): share
            for i, share in results.get("pass_at", {}).items()
        },
        **{
            EVAL_GRADER_MEAN.format_name(grader=name): score
            for name, score in results["graders"].items()
        },
    }


def evaluation_results(groups: Sequence[GradedGroup], reward: RewardSpec) -> dict[str, Any]:
    """Results of an EVALUATION event.

    `reward` is the mean over prompts of the mean reward of their responses, with a 95 % interval
    from its standard error over prompts (none for one prompt), `reward_best_at_k` the mean over
    prompts of the best response, `graders` the mean score of each grader. Where a grader looks at
    correctness, `accuracy` is the mean over prompts of the share of correct responses, with its 95 %
    Wilson interval, which over k responses is what papers call avg@k; where the graders say what
    success is, `pass_at_k` is the share of prompts with a success among them, and `pass_at` the unbiased
    estimate for powers of two up to k. Responses that could
    not be graded are left out and counted; raises PlatformError `verifier_unavailable` when that
    leaves nothing.
    """
    trajectories = trajectories_of(groups)
    verdicts = [scored for group in groups if (scored := _scored_verdicts(group))]
    if not verdicts:
        raise PlatformError(
            "verifier_unavailable",
            f"Cannot evaluate: none of {len(trajectories)} responses could be graded.",
            hint="Look at the reward service's log.",
        )
    finished = drop_aborted(trajectories)
    measured = {
        "tokens_per_step": tokens_per_step(finished),
        "steps_per_block": steps_per_block(groups),
        "mean_response_length": float(np.mean([t.response.visible_len for t in finished]))
        if finished
        else None,
        "truncation_rate": truncation_rate(finished),
        "judge_tokens": sum(t.verdict.judge_tokens for t in trajectories if t.verdict) or None,
    }
    return {
        **_reward_results(verdicts, reward.graders),
        **_success_results(verdicts, reward.graders),
        "num_prompts": len(groups),
        "num_generations": len(groups[0].trajectories),
        "num_responses": len(trajectories),
        "num_unverifiable": sum(not t.outcome.is_scored for t in trajectories),
        "num_prompts_scored": len(verdicts),
        "outcomes": outcome_shares(trajectories),
        **drop_missing(measured),
    }


def _scored_verdicts(group: GradedGroup) -> list[Verdict]:
    return [t.verdict for t in group.trajectories if t.verdict and t.verdict.outcome.is_scored]


def _reward_results(
    verdicts: Sequence[Sequence[Verdict]], graders: Sequence[GraderSpec]
) -> dict[str, Any]:
    """Rewards of the scored verdicts of each prompt."""
    rewards = [[compute_reward(v.rewards, graders) for v in prompt] for prompt in verdicts]
    # Prompts are the trials: k responses to one prompt are not independent, and counting them as such
    # would make the intervals too narrow.
    means = [float(np.mean(prompt)) for prompt in rewards]
    mean = float(np.mean(means))
    results: dict[str, Any] = {
        "reward": mean,
        "reward_best_at_k": float(np.mean([max(prompt) for prompt in rewards])),
        "graders": {
            grader.name: float(np.mean([v.rewards[grader.name] for each in verdicts for v in each]))
            for grader in graders
        },
    }
    if len(means) > 1:
        half = _NORMAL_95 * float(np.std(means, ddof=1)) / len(means) ** 0.5
        results |= {"reward_low": mean - half, "reward_high": mean + half}
    return results


def estimate_pass_at(k: int, successes: Sequence[bool]) -> float:
    """Return the unbiased estimate of the chance that one of k responses succeeds, from n >= k
    responses: 1 - C(n - c, k) / C(n, k) for c successes (arXiv 2107.03374).
    """
    n, c = len(successes), sum(successes)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _success_results(
    verdicts: Sequence[Sequence[Verdict]], graders: Sequence[GraderSpec]
) -> dict[str, Any]:
    """Shares of successes; empty where the graders do not say what success is."""
    succeeded = find_success(graders)
    if succeeded is None:
        return {}
    successes = [[succeeded(verdict) for verdict in prompt] for prompt in verdicts]
    solved = sum(any(prompt) for prompt in successes)
    pass_low, pass_high = wilson_interval(solved, len(successes))
    results = {
        "pass_at_k": solved / len(successes),
        "pass_at_k_low": pass_low,
        "pass_at_k_high": pass_high,
        "pass_at": {
            str(k): float(np.mean([estimate_pass_at(k, prompt) for prompt in successes]))
            for k in _PASS_AT
            if k <= min(map(len, successes))
        },
    }
    if uses_correctness(graders):
        shares = [sum(prompt) / len(prompt) for prompt in successes]
        low, high = wilson_interval(sum(shares), len(shares))
        results |= {
            "accuracy": float(np.mean(shares)),
            "accuracy_low": low,
            "accuracy_high": high,
            "num_correct": sum(map(sum, successes)),
        }
    return results
