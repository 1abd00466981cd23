"""Reinforcement learning: prompts out, groups back, one policy-gradient step; on-policy, or a few
versions behind.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch

from services.common.codec import group_to_json
from services.common.diffusion.config import DecodingConfig
from services.common.events import EventType
from services.common.grader_spec import grader_text
from services.common.ids import group_id
from services.common.job_metrics import JobMetric
from services.common.trajectory import PromptTask, Purpose, ScoredGroup
from services.trainer.learner.admission import Admission
from services.trainer.learner.attempt_context import AttemptContext, training_performance
from services.trainer.learner.datasets import Dataset, EncodedPrompt
from services.trainer.learner.idleness import Idleness
from services.trainer.learner.ledger import StepRecord
from services.trainer.learner.rl_batch import JudgedGroup, RlBatch, gather_batch
from services.trainer.learner.rl_metrics import batch_metrics, staleness_metrics
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.stage import StepOutcome
from services.trainer.learner.state import StageLedger
from services.trainer.learner.trajectory_statistics import present
from services.trainer.learner.validation import Validation
from services.trainer.learner.verifiability import UnverifiableError, samples
from services.trainer.training.schedule import learning_rate


class RlStage:
    """One reinforcement stage."""

    name: Literal["sft", "rl"] = "rl"
    validation: Validation | None = None

    def __init__(
        self,
        session: AttemptContext,
        rollouts: Rollouts,
        dataset: Dataset[EncodedPrompt],
        prompts: StageLedger,
        decoding: DecodingConfig,
    ) -> None:
        self._session, self._rollouts = session, rollouts
        self._dataset, self._prompts, self._decoding = dataset, prompts, decoding
        self.num_steps = session.spec.rl.steps
        self._admission = Admission(rollouts, session.spec.rl, self._issue)
        self._idleness = Idleness(
            rollouts.replicas, beside_training=session.spec.rl.max_staleness > 0
        )

    def step(self) -> StepOutcome:
        """Gather a batch under the current weights and train on it once."""
        session, spec = self._session, self._session.spec
        started = time.monotonic()
        self._idleness.begin()
        with session.report.timed(JobMetric.TIME_ROLLOUT_S):
            batch = self._gather()
        idle, stale = self._idleness.end(), self._admission.take_dropped()
        metrics = {
            **self._train(batch),
            **batch_metrics(batch, spec.reward.graders, self._decoding.confidence_threshold),
            **staleness_metrics(batch, session.state.global_step, len(stale)),
        }
        return StepOutcome(
            record=self._record(batch, stale),
            group_ids=[item.group.task.group_id for item in batch.kept],
            metrics={
                **metrics,
                **self._performance(batch, started),
                **idle,
                **self._synchronisation(),
            },
            events=[self._logged(item) for item in batch.judged[: spec.rl.logged_groups_per_step]],
        )

    def _gather(self) -> RlBatch:
        """The step's batch; what could not be judged is shown before the job pauses for it."""
        session = self._session
        try:
            return gather_batch(session.spec.rl, session.spec.reward, self._collect)
        except UnverifiableError as error:
            for event in samples(
                error, session.state.global_step + 1, Purpose.TRAIN, session.spec.reward
            ):
                session.report.journal.emit(EventType.TRAJECTORIES, event)
            raise

    def _collect(self, count: int) -> Sequence[ScoredGroup]:
        steps_left, weights = (
            self.num_steps - self._session.state.stage_step,
            self._session.weights(),
        )
        with self._session.report.timed(JobMetric.TIME_WAIT_FOR_BATCH_S):
            return self._admission.collect(count, weights, steps_left)

    def _issue(self, count: int) -> Sequence[PromptTask]:
        return [self._task(position) for position in self._prompts.ledger.issue(count)]

    def _task(self, position: int) -> PromptTask:
        request, spec, state = self._session.request, self._session.spec, self._session.state
        prompt = self._dataset.items[self._prompts.order.row(position)]
        return PromptTask(
            job_id=request.job_id,
            attempt=request.attempt,
            group_id=group_id(
                request.job_id,
                request.attempt,
                Purpose.TRAIN.value,
                state.global_step + 1,
                position,
            ),
            ledger_position=position,
            purpose=Purpose.TRAIN,
            dataset="",
            prompt_ids=prompt.prompt_ids,
            gold=prompt.gold,
            gold_type=prompt.gold_type,
            num_generations=spec.rl.num_generations,
            seed=spec.seed,
            min_weight_version=state.global_step,
            decoding=self._decoding,
            graders=tuple(map(grader_text, spec.reward.graders)),
            grading_timeout_s=spec.reward.timeout_s,
            issued_at=time.time(),
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
            return {**session.trainee.train_rl(batch.samples(), lr), **given_back}

    def _sleep(self) -> int:
        with self._session.report.timed(JobMetric.TIME_SLEEP_S):
            return self._rollouts.replicas.sleep()

    def _record(self, batch: RlBatch, stale: Sequence[int]) -> StepRecord:
        dropped: dict[int, str] = dict.fromkeys(stale, "stale")
        return StepRecord(
            stage=self.name,
            step=self._session.state.global_step + 1,
            trained=tuple(item.position for item in batch.kept),
            dropped=dropped
            | {item.position: item.dropped for item in batch.judged if item.dropped is not None},
        )

    def _performance(self, batch: RlBatch, started: float) -> dict[str, float]:
        report = self._session.report
        tokens = sum(len(t.token_ids) for item in batch.judged for t in item.group.trajectories)
        trained = sum(len(sample.token_ids) for sample in batch.samples())
        rollout_s, step_s = (
            max(report.seconds(JobMetric.TIME_ROLLOUT_S), 1e-9),
            max(time.monotonic() - started, 1e-9),
        )
        grading = [item.group.reward_s for item in batch.judged]
        return {
            JobMetric.PERF_ROLLOUT_TOKENS_PER_S: tokens / rollout_s,
            **training_performance(self._session, trained),
            **self._per_gpu(tokens / step_s),
            JobMetric.PERF_TRAINER_IDLE_RATIO: rollout_s / step_s,
            # Per group: grading runs beside decoding, so its sum is no part of the step's wall
            # time.
            JobMetric.TIME_REWARD_S: sum(grading) / len(grading),
        }

    def _per_gpu(self, tokens_per_s: float) -> dict[str, float]:
        """Response tokens a second over all ranks and replicas, each of which is taken to have one
        GPU.
        """
        devices = self._session.trainee.ranks.size + self._rollouts.replicas.count
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
            **present({JobMetric.WEIGHTS_PARITY_GAP: publication.parity_gap}),
        }

    def _logged(self, item: JudgedGroup) -> dict[str, Any]:
        return {
            "step": self._session.state.global_step + 1,
            "purpose": Purpose.TRAIN.value,
            "disposition": "trained" if item.dropped is None else f"dropped_{item.dropped}",
            "group": group_to_json(item.group),
            "rewards": item.rewards,
            "advantages": item.advantages,
        }
