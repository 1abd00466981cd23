"""The loop of steps that all training stages share, and the work that is due after a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

from services.common.checkpoint.store import delete_checkpoints
from services.common.events import EventType
from services.common.job_metrics import JobMetric
from services.common.steering import checkpoint_requests
from services.trainer.learner.attempt_context import AttemptContext, peak_memory_gib
from services.trainer.learner.best_checkpoint import mark_best, restore_mark, update_best
from services.trainer.learner.checkpointing import StoredCheckpoint, best_name
from services.trainer.learner.evaluation import EvaluationRunner
from services.trainer.learner.journal import has_event
from services.trainer.learner.ledger import StepRecord
from services.trainer.learner.lifecycle import StopRequestedError
from services.trainer.learner.rl_batch import NoLearningSignalError
from services.trainer.learner.setting_warnings import warn_about_warmup
from services.trainer.learner.steering import apply_revisions
from services.trainer.learner.validation import Validation
from services.trainer.learner.verifiability import UnverifiableError


@dataclass(frozen=True)
class StepOutcome:
    """Results of one optimizer step."""

    record: StepRecord
    group_ids: list[str]
    """Groups trained on; empty for supervised steps."""
    metrics: Mapping[str, float]
    events: list[dict[str, Any]] = field(default_factory=list)
    """Data of TRAJECTORIES events."""
    excerpts: Mapping[int, str] = field(default_factory=dict)
    """Beginning of the prompt of each row that the record has results of."""


class TrainingStage(Protocol):
    """A stage that changes the weights."""

    name: Literal["sft", "rl"]
    num_steps: int
    validation: Validation | None
    """None for a stage that has no held-out loss."""

    def step(self) -> StepOutcome:
        """One optimizer step; raises StopRequestedError while it waits for rollouts, never once it
        updates.
        """
        ...


def run_training_stage(
    context: AttemptContext, stage: TrainingStage, evaluation: EvaluationRunner | None
) -> None:
    """Train from the current state to the stage's last step; checkpoints and evaluations as
    they fall due.

    Asked to stop, or stopped by a failing verifier (UnverifiableError) or by prompts that teach
    nothing (NoLearningSignalError), it writes a checkpoint and raises.
    """
    context.progress(stage.name)
    optim = context.spec.optim_of(stage.name)
    warn_about_warmup(context.report.journal, optim, stage.name, stage.num_steps)
    if context.state.stage_step and context.state.global_step == context.resumed_from:
        _finish_step(context, stage, evaluation)
    try:
        while context.state.stage_step < stage.num_steps:
            context.stop.check()
            # Between steps only: a step must not see two versions of the spec.
            apply_revisions(context)
            _one_step(context, stage)
            _after_step(context, stage, evaluation)
    # All leave the weights between two steps; any other error may not, and the next attempt
    # resumes from the last checkpoint.
    except (StopRequestedError, UnverifiableError, NoLearningSignalError):
        save_checkpoint(context, stage)
        raise


def save_checkpoint(context: AttemptContext, stage: TrainingStage) -> None:
    """Write the current step, unless it is written already; reports CHECKPOINT."""
    state, report = context.state, context.report
    if context.checkpointer.last_step == state.global_step:
        return
    report.phase("checkpoint")
    with report.record_time(JobMetric.TIME_CHECKPOINT_S):
        saved = context.checkpointer.save(context.policy_model, state)
        report_checkpoint(context, saved)
    if context.archiver is not None:
        context.archiver.submit(saved.path, best_name(state))


def report_checkpoint(context: AttemptContext, stored: StoredCheckpoint) -> None:
    """Emit CHECKPOINT, then delete what retention does not keep.

    In this order, whatever ends the learner in between: a checkpoint that is said to be deleted is
    deleted after the next one, and none is missing that is said to exist.
    """
    expired, manifest = context.checkpointer.expired(context.state), stored.manifest
    context.report.journal.emit(
        EventType.CHECKPOINT,
        {
            "attempt": manifest.attempt,
            "step": manifest.global_step,
            "stage": manifest.stage,
            "path": str(stored.path),
            "weight_version": manifest.weight_version,
            "weight_digest": manifest.weight_digest,
            "bytes": manifest.total_bytes,
            "deleted": [str(path) for path in expired],
        },
    )
    delete_checkpoints(expired)


def _one_step(context: AttemptContext, stage: TrainingStage) -> None:
    state, report = context.state, context.report
    structlog.contextvars.bind_contextvars(step=state.global_step + 1)
    with report.record_time(JobMetric.TIME_STEP_S):
        outcome = stage.step()
    state.global_step += 1
    state.stage_step += 1
    # Logged before the ledger is closed and long before a checkpoint: what enters one is in the
    # log.
    context.step_log.append(outcome.record, outcome.group_ids)
    state.stages[stage.name].close(outcome.record)
    for data in outcome.events:
        report.journal.emit(EventType.TRAJECTORIES, data)
    if outcome.record.results:
        results = [
            [result.row, result.attempts, result.successes, outcome.excerpts.get(result.row, "")]
            for result in outcome.record.results
        ]
        fields = {"step": state.global_step, "stage": stage.name, "results": results}
        report.journal.emit(EventType.PROMPT_RESULTS, fields)
    counters: dict[str, float] = {
        JobMetric.TRAIN_GLOBAL_STEP: float(state.global_step),
        JobMetric.WEIGHTS_VERSION: float(state.global_step),
        JobMetric.PERF_PEAK_MEMORY_GIB: peak_memory_gib(),
    }
    report.metrics(state.global_step, {**outcome.metrics, **counters})
    context.progress(stage.name)


def _after_step(
    context: AttemptContext, stage: TrainingStage, evaluation: EvaluationRunner | None
) -> None:
    step, spec = context.state.global_step, context.spec
    ended = context.state.stage_step == stage.num_steps
    # Read before the checkpoint is written: one that arrives meanwhile is for the next step.
    requests = checkpoint_requests(context.request.job_dir)
    if stage.validation is not None:
        stage.validation.run_when_due()
    # A checkpoint states which one is the best so far: what decides is measured before it is written.
    if spec.checkpoint.keep_best is not None:
        _evaluate_when_due(context, stage, evaluation)
    best = update_best(context)
    if ended or requests or best or step % spec.checkpoint.interval_steps == 0:
        save_checkpoint(context, stage)
    # Named after it is written: best.json must never point to a checkpoint that is not there.
    if best:
        mark_best(context)
    for request in requests:
        request.unlink(missing_ok=True)
    if not ended:
        _evaluate_when_due(context, stage, evaluation)


def _evaluate_when_due(
    context: AttemptContext, stage: TrainingStage, evaluation: EvaluationRunner | None
) -> None:
    """Evaluate at the interval and after the last step, unless these weights were evaluated."""
    step, interval = context.state.global_step, context.spec.eval.interval_steps
    ended = context.state.stage_step == stage.num_steps
    if evaluation is not None and (ended or (interval is not None and step % interval == 0)):
        evaluation.run(stage.name, ends_stage=ended)


def _finish_step(
    context: AttemptContext, stage: TrainingStage, evaluation: EvaluationRunner | None
) -> None:
    """Do what the learner that wrote the checkpoint was killed before it could do."""
    restore_mark(context)
    earlier, step = range(1, context.request.attempt), context.state.global_step
    is_said = has_event(context.request.job_dir, earlier, EventType.EVALUATION, step)
    # After its last step, the end of the stage evaluates in any case.
    if not is_said and context.state.stage_step != stage.num_steps:
        _evaluate_when_due(context, stage, evaluation)
