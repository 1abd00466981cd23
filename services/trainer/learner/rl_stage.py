"""Reinforcement learning: prompts out, groups back, one policy-gradient step; on-policy, or a few
versions behind.
"""

import time
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
        self, session: AttemptContext, rollouts: Rollouts, prompts: TrainingPrompts
    ) -> None:
        self._session, self._rollouts, self._prompts = session, rollouts, prompts
        self.num_steps = session.spec.rl.steps
        overlapped = session.spec.rl.max_staleness > 0
        self._admission = Admission(rollouts, prompts, overlapped=overlapped)
        self._idleness = Idleness(rollouts.replicas, overlapped=overlapped)

    def step(self) -> StepOutcome:
        """Gather a batch under the current weights and train on it once."""
        session, spec = self._session, self._session.spec
        started, step = time.monotonic(), session.state.global_step + 1
        self._idleness.begin()
        with (
            session.report.timed(JobMetric.TIME_ROLLOUT_S),
            report_unverifiable(session.report, step, spec.reward),
        ):
            steps_left = self.num_steps - session.state.stage_step
            batch = gather_batch(
                self._admission, spec.rl, spec.reward, session.weights(), steps_left
            )
        idle = self._idleness.end()
        threshold = self._prompts.decoding.confidence_threshold
        metrics = {
            **self._train(batch),
            **batch_metrics(batch, spec.reward.graders, threshold),
            **staleness_metrics(batch, session.state.global_step),
        }
        return StepOutcome(
            record=batch.to_record(step),
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
        session, spec = self._session, self._session.spec
        lr = learning_rate(spec.optim_of("rl"), session.state.stage_step + 1, self.num_steps)
        given_back: dict[str, float] = (
            {JobMetric.PERF_ROLLOUT_BYTES_GIVEN_BACK: float(self._sleep())}
            if spec.resources.colocate
            else {}
        )
        session.report.phase("train")
        with session.report.timed(JobMetric.TIME_TRAIN_S):
            return {**session.policy_model.train_rl(batch.samples(), lr), **given_back}

    def _sleep(self) -> int:
        with self._session.report.timed(JobMetric.TIME_SLEEP_S):
            return self._rollouts.replicas.sleep()

    def _performance(self, batch: RlBatch, started: float) -> dict[str, float]:
        report = self._session.report
        tokens = sum(len(t.response.token_ids) for g in batch.groups for t in g.trajectories)
        trained = sum(len(sample.response.token_ids) for sample in batch.samples())
        rollout_s, step_s = (
            max(report.seconds(JobMetric.TIME_ROLLOUT_S), 1e-9),
            max(time.monotonic() - started, 1e-9),
        )
        grading = [group.scored.reward_s for group in batch.groups]
        return {
            JobMetric.PERF_ROLLOUT_TOKENS_PER_S: tokens / rollout_s,
            **training_performance(self._session, trained),
            **self._per_gpu(tokens / step_s),
            JobMetric.PERF_TRAINER_IDLE_RATIO: rollout_s / step_s,
            # A mean per group, not a sum: groups are graded while others decode, so that the sum
            # is no part of the step's wall time.
            JobMetric.TIME_REWARD_S: sum(grading) / len(grading),
        }

    def _per_gpu(self, tokens_per_s: float) -> dict[str, float]:
        """Response tokens a second over all ranks and replicas, each of which is taken to have one
        GPU.
        """
        devices = self._session.policy_model.ranks.size + self._rollouts.replicas.count
        return (
            {JobMetric.PERF_TOKENS_PER_S_PER_GPU: tokens_per_s / devices}
            if torch.cuda.is_available()
            else {}
        )

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
