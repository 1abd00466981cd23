"""Reinforcement learning: prompts out, groups back, one policy-gradient step; on-policy, or a few
versions behind.
"""

import time
from dataclasses import replace
from typing import Literal

import torch

from services.common.job_metrics import JobMetric
from services.trainer.learner.admission import Admission
from services.trainer.learner.attempt_context import AttemptContext, training_performance
from services.trainer.learner.idleness import Idleness
from services.trainer.learner.prompt_tasks import TrainingPrompts
from services.trainer.learner.rl_batch import RlBatch, gather_batch
from services.trainer.learner.rl_metrics import batch_metrics, staleness_metrics
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.stage import StepOutcome
from services.trainer.learner.trajectory_statistics import drop_missing
from services.trainer.learner.validation import Validation
from services.trainer.learner.verifiability import report_unverifiable
from services.trainer.training.schedule import learning_rate


class RlStage:
    """One reinforcement stage."""

    name: Literal["sft", "rl"] = "rl"
    validation: Validation | None = None

    def __init__(
        self, context: AttemptContext, rollouts: Rollouts, prompts: TrainingPrompts
    ) -> None:
        self._context, self._rollouts, self._prompts = context, rollouts, prompts
        self.num_steps = context.spec.rl.steps
        overlapped = context.spec.rl.max_staleness > 0
        self._admission = Admission(rollouts, prompts, overlapped=overlapped)
        self._idleness = Idleness(rollouts.replicas, overlapped=overlapped)

    def step(self) -> StepOutcome:
        """Gather a batch under the current weights and train on it once."""
        context, spec = self._context, self._context.spec
        started, step = time.monotonic(), context.state.global_step + 1
        self._idleness.begin()
        # Weights are exported inside the timed block: a synchronous step cannot decode before.
        with (
            context.report.record_time(JobMetric.TIME_ROLLOUT_S),
            report_unverifiable(context.report, step, spec.reward),
        ):
            steps_left = self.num_steps - context.state.stage_step
            batch = gather_batch(
                self._admission, spec.rl, spec.reward, context.weights(), steps_left
            )
        idle = self._idleness.end()
        threshold = self._prompts.decoding.confidence_threshold
        metrics = {
            **self._train(batch),
            **batch_metrics(batch, spec.rl, spec.reward, threshold),
            **staleness_metrics(batch, context.state.global_step),
        }
        success_reward = spec.rl.curriculum.success_reward
        results = batch.count_results(self._prompts.row, success_reward)
        items = self._prompts.dataset.items
        return StepOutcome(
            record=replace(batch.to_record(step), results=results),
            excerpts={result.row: items[result.row].excerpt for result in results},
            group_ids=[group.task.group_id for group in batch.kept],
            metrics={
                **metrics,
                **self._performance(batch, started),
                **idle,
                **self._synchronisation(),
            },
            events=[
                group.to_event(
                    step, "trained" if group.dropped is None else f"dropped_{group.dropped}"
                )
                for group in batch.groups[: spec.rl.logged_groups_per_step]
            ],
        )

    def _train(self, batch: RlBatch) -> dict[str, float]:
        """Update on the batch; colocated replicas give their memory back first."""
        context, spec = self._context, self._context.spec
        lr = learning_rate(spec.optim_of("rl"), context.state.stage_step + 1, self.num_steps)
        freed: dict[str, float] = {}
        if spec.resources.colocate:
            with context.report.record_time(JobMetric.TIME_SLEEP_S):
                num_bytes = self._rollouts.replicas.sleep()
            freed[JobMetric.PERF_ROLLOUT_BYTES_GIVEN_BACK] = float(num_bytes)
        context.report.phase("train")
        with context.report.record_time(JobMetric.TIME_TRAIN_S):
            return {**context.policy_model.train_rl(batch.samples(), lr), **freed}

    def _performance(self, batch: RlBatch, started: float) -> dict[str, float]:
        report = self._context.report
        tokens = sum(len(t.response.token_ids) for g in batch.groups for t in g.trajectories)
        trained = sum(len(sample.response.token_ids) for sample in batch.samples())
        rollout_s, step_s = (
            max(report.seconds(JobMetric.TIME_ROLLOUT_S), 1e-9),
            max(time.monotonic() - started, 1e-9),
        )
        # One GPU for each rank and replica.
        devices = self._context.policy_model.ranks.size + self._rollouts.replicas.count
        per_gpu: dict[str, float] = (
            {JobMetric.PERF_TOKENS_PER_S_PER_GPU: tokens / step_s / devices}
            if torch.cuda.is_available()
            else {}
        )
        grading = [group.scored.reward_s for group in batch.groups]
        return {
            JobMetric.PERF_ROLLOUT_TOKENS_PER_S: tokens / rollout_s,
            **training_performance(self._context, trained),
            **per_gpu,
            JobMetric.PERF_TRAINER_IDLE_RATIO: rollout_s / step_s,
            # A mean per group, not a sum: groups are graded while others decode, so that the sum
            # is not part of the step's wall time.
            JobMetric.TIME_REWARD_S: sum(grading) / len(grading),
        }

    def _synchronisation(self) -> dict[str, float]:
        publication = self._rollouts.replicas.last_publication
        if publication is None:
            return {}
        return {
            JobMetric.WEIGHTS_SYNC_BYTES: float(publication.num_bytes),
            JobMetric.WEIGHTS_SYNC_S: publication.seconds,
            JobMetric.WEIGHTS_DIGEST_OK: float(not publication.failed),
            **drop_missing({JobMetric.WEIGHTS_PARITY_GAP: publication.parity_gap}),
        }
