"""EvaluationRunner: the validation prompts through the rollout replicas, with the current weights."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from services.common.codec import group_to_json
from services.common.diffusion.config import DecodingConfig, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.grader_spec import grader_text
from services.common.ids import group_id
from services.common.job_metrics import EVAL_AVG_AT_K, EVAL_PASS_AT_K, JobMetric
from services.common.trajectory import Outcome, PromptTask, Purpose, ScoredGroup
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.datasets import EncodedPrompt
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.trajectory_statistics import (
    completed,
    outcome_of,
    outcome_shares,
    present,
    steps_per_block,
    tokens_per_step,
    trajectories_of,
    truncation_rate,
)
from services.trainer.learner.verifiability import UnverifiableError, require_verifiable, samples
from services.trainer.learner.wilson import wilson_interval
from services.trainer.training.sft import SftExample

DATASET: Final = "validation"
_LOGGED_GROUPS: Final = 8
_CURVES: Final = {
    "accuracy": JobMetric.EVAL_ACCURACY,
    "tokens_per_step": JobMetric.EVAL_TOKENS_PER_STEP,
    "mean_response_length": JobMetric.EVAL_MEAN_RESPONSE_LENGTH,
    "truncation_rate": JobMetric.EVAL_TRUNCATION_RATE,
    "loss": JobMetric.EVAL_LOSS,
}
"""Results of an evaluation that are metrics too."""


@dataclass
class EvaluationRunner:
    """The job's validation set; each version of the weights is evaluated once."""

    session: AttemptContext
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
        """Evaluate the current weights unless they were; reports EVALUATION, METRICS and the first
        trajectories.

        At the end of a stage by the spec's other decodings first: the last evaluation is always the
        job's own.
        """
        version = self.session.state.global_step
        if version == self.last_version:
            return
        for other in self._other_decodings() if ends_stage else ():
            results, _ = self._measure(self.decoding.model_copy(update=other))
            self._state(stage, {**results, "decoding": other})
        results, groups = self._measure(self.decoding)
        self._report(stage, {**results, **self._loss(stage)}, groups)
        self.last_version = version

    def _other_decodings(self) -> Iterator[dict[str, Any]]:
        """What replaces values of the job's decoding: a threshold, or steps per block and the rule
        that counts them.
        """
        wanted, own = self.session.spec.eval, self.decoding.unmasking_strategy
        for threshold in wanted.confidence_thresholds:
            yield {"confidence_threshold": threshold}
        rule = own if own.counts_steps else UnmaskingStrategy.LOW_CONFIDENCE_STATIC
        for steps in wanted.denoising_steps:
            yield {"unmasking_strategy": rule, "denoising_steps": steps}

    def _measure(self, decoding: DecodingConfig) -> tuple[dict[str, Any], Sequence[ScoredGroup]]:
        """The numbers of one evaluation, and the groups they were made from."""
        session, started = self.session, time.monotonic()
        with session.report.timed(JobMetric.TIME_EVAL_S):
            groups = self.rollouts.collect(self._tasks(decoding), session.weights(), "eval")
        self._require_verifiable(groups)
        self.done += 1
        measured = {
            "weight_version": session.state.global_step,
            "seconds": time.monotonic() - started,
        }
        return {**evaluation_results(groups), **measured}, groups

    def _require_verifiable(self, groups: Sequence[ScoredGroup]) -> None:
        """As for training: an accuracy over the few that could be judged would be no accuracy."""
        session = self.session
        try:
            require_verifiable(groups, session.spec.reward.max_unverifiable_rate, "evaluate")
        except UnverifiableError as error:
            for event in samples(
                error, session.state.global_step, Purpose.EVAL, session.spec.reward
            ):
                session.report.journal.emit(EventType.TRAJECTORIES, event)
            raise

    def _loss(self, stage: str) -> dict[str, float]:
        if stage != "sft" or not self.held_out:
            return {}
        with self.session.report.timed(JobMetric.TIME_EVAL_S):
            return {"loss": self.session.trainee.sft_loss(self.held_out)}

    def _tasks(self, decoding: DecodingConfig) -> list[PromptTask]:
        request, spec = self.session.request, self.session.spec
        return [
            PromptTask(
                job_id=request.job_id,
                attempt=request.attempt,
                group_id=group_id(
                    request.job_id, request.attempt, Purpose.EVAL.value, self.done, position
                ),
                ledger_position=position,
                purpose=Purpose.EVAL,
                dataset=DATASET,
                prompt_ids=prompt.prompt_ids,
                gold=prompt.gold,
                gold_type=prompt.gold_type,
                num_generations=spec.eval.num_generations,
                seed=spec.seed,
                min_weight_version=self.session.state.global_step,
                decoding=decoding,
                graders=tuple(map(grader_text, spec.reward.graders)),
                grading_timeout_s=spec.reward.timeout_s,
                issued_at=time.time(),
            )
            for position, prompt in enumerate(self.prompts)
        ]

    def _state(self, stage: str, results: dict[str, Any]) -> None:
        facts = {
            "step": self.session.state.global_step,
            "stage": stage,
            "dataset": DATASET,
            "results": results,
        }
        self.session.report.journal.emit(EventType.EVALUATION, facts)

    def _report(self, stage: str, results: dict[str, Any], groups: Sequence[ScoredGroup]) -> None:
        report, step = self.session.report, self.session.state.global_step
        self._state(stage, results)
        report.metrics(
            step,
            evaluation_metrics(results),
        )
        for group in groups[:_LOGGED_GROUPS]:
            report.journal.emit(
                EventType.TRAJECTORIES,
                {
                    "step": step,
                    "purpose": Purpose.EVAL.value,
                    "disposition": "evaluated",
                    "group": group_to_json(group),
                    "advantages": [None] * len(group.trajectories),
                },
            )


def evaluation_metrics(results: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of an evaluation by their public names.

    `avg@k` and `pass@k`, with the k of the evaluation, are the names that experiment trackers know;
    `accuracy` is avg@k under a name that stays the same when k changes.
    """
    k = results["num_generations"]
    return {
        **{metric: results[name] for name, metric in _CURVES.items() if name in results},
        EVAL_AVG_AT_K.format_name(k=k): results["accuracy"],
        EVAL_PASS_AT_K.format_name(k=k): results["pass_at_k"],
    }


def evaluation_results(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """What an EVALUATION event states.

    `accuracy` is the mean over prompts of the share of correct responses, with its 95 % Wilson
    interval for as many trials as prompts (responses to one prompt are not independent), which over
    k responses is what papers call avg@k; `pass_at_k` is the share of prompts with a correct one
    among them. Responses that could not be judged are left out and counted; raises PlatformError
    `verifier_unavailable` when that leaves nothing.
    """
    trajectories = trajectories_of(groups)
    shares = [share for group in groups if (share := _correct_share(group)) is not None]
    outcomes = [outcome_of(trajectory) for trajectory in trajectories]
    if not shares:
        raise PlatformError(
            "verifier_unavailable",
            f"Cannot evaluate: none of {len(trajectories)} responses could be judged.",
            hint="Look at the reward service's log; the next attempt evaluates again.",
        )
    low, high = wilson_interval(sum(shares), len(shares))
    solved = sum(share > 0 for share in shares)
    pass_low, pass_high = wilson_interval(solved, len(shares))
    finished = completed(trajectories)
    measured = {
        "tokens_per_step": tokens_per_step(finished),
        "steps_per_block": steps_per_block(groups),
        "mean_response_length": float(np.mean([t.visible_len for t in finished]))
        if finished
        else None,
        "truncation_rate": truncation_rate(finished),
    }
    return {
        "accuracy": float(np.mean(shares)),
        "accuracy_low": low,
        "accuracy_high": high,
        "pass_at_k": solved / len(shares),
        "pass_at_k_low": pass_low,
        "pass_at_k_high": pass_high,
        "num_prompts": len(groups),
        "num_generations": len(groups[0].trajectories),
        "num_responses": len(trajectories),
        "num_correct": outcomes.count(Outcome.CORRECT),
        "num_unverifiable": sum(not outcome.is_scored for outcome in outcomes),
        "num_prompts_scored": len(shares),
        "outcomes": outcome_shares(trajectories),
        **present(measured),
    }


def _correct_share(group: ScoredGroup) -> float | None:
    """Share of correct responses among those judged; None when none was."""
    scored = [outcome for t in group.trajectories if (outcome := outcome_of(t)).is_scored]
    return sum(outcome is Outcome.CORRECT for outcome in scored) / len(scored) if scored else None
