"""Answers of the API, made from rows. Times are Unix seconds."""

from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel

from services.api.db.job_tables import Attempt, Job
from services.api.db.record_tables import (
    Checkpoint,
    Evaluation,
    Export,
    JobEvent,
    RegisteredModel,
    StoredFile,
)
from services.api.domain.job_state import JobState
from services.api.domain.progress import Progress
from services.api.http.gold_audit import GoldSummary, read_summary
from services.common.errors import PlatformError

_MAX_DIGITS: Final = 18
"""Of a number that the database can hold."""


def unix(moment: datetime) -> int:
    """Whole Unix seconds."""
    return int(moment.timestamp())


def unix_or_none(moment: datetime | None) -> int | None:
    """Whole Unix seconds, None for none."""
    return None if moment is None else unix(moment)


class FailureView(BaseModel):
    """Why something failed."""

    code: str
    message: str


def _failure(code: str | None, message: str | None) -> FailureView | None:
    return None if code is None else FailureView(code=code, message=message or "")


class ProgressView(BaseModel):
    """How far a job is."""

    stage: str
    stage_step: int
    stage_steps: int
    step: int
    """Optimizer steps over all stages."""
    total_steps: int
    fraction: float
    """step / total_steps; 1 for a job without steps."""


class StallView(BaseModel):
    """Which phase waits, for what, since when."""

    phase: str
    waiting_for: str | None
    since: float
    """Unix seconds of the learner's last sign of life."""
    budget_s: float
    """Seconds that the phase may be silent (DIRL_STALL_BUDGETS_S)."""


class ShortageView(BaseModel):
    """Room that is running out."""

    of: Literal["quota", "disk"]
    """The project's quota, or the disk of the data directory."""
    used_bytes: int
    limit_bytes: int


class JobView(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    state: JobState
    status: JobState
    """The state under OpenAI's name."""
    method: str
    model: str
    suffix: str | None
    metadata: dict[str, str]
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    phase: str | None
    """loading | rollout | reward | train | weight_sync | eval | checkpoint | waiting"""
    stage: str | None
    waiting_for: str | None
    """trainer | rollout | reward, when the job waits for that service."""
    progress: ProgressView | None
    estimated_finish: int | None
    """At the pace of the current stage."""
    latest_metrics: dict[str, float]
    error: FailureView | None
    result_checkpoint: str | None
    """Checkpoint that a finished job leaves behind."""
    priority: int
    """Jobs of a higher priority are placed first."""
    revision: int
    """How often the spec was changed since the submission."""
    forked_from: str | None
    """Checkpoint of another job that this one goes on from."""
    stalled: StallView | None
    """Set while a running job makes no progress."""
    shortage: ShortageView | None
    """Set while a running job runs short of room for its checkpoints."""
    last_event_id: str | None
    """Newest event that this answer includes: a stream from here misses nothing and repeats
    nothing.
    """
    spec_hash: str
    spec: dict[str, Any]
    """The job spec with all defaults."""


def job_view(job: Job) -> JobView:
    """Row to answer."""
    progress = None if job.progress is None else Progress(**job.progress)
    return JobView(
        id=job.id,
        created_at=unix(job.created_at),
        started_at=unix_or_none(job.started_at),
        finished_at=unix_or_none(job.finished_at),
        state=job.job_state,
        status=job.job_state,
        method=job.method,
        model=job.spec["model"],
        suffix=job.spec["suffix"],
        metadata=job.labels,
        attempt=job.attempt,
        phase=job.phase,
        stage=job.stage,
        waiting_for=job.waiting_for or job.learner_waiting_for,
        progress=None if progress is None else _progress_view(progress),
        estimated_finish=None if progress is None else _estimated_finish(job, progress),
        latest_metrics=job.latest_metrics,
        error=_failure(job.error_code, job.error_message),
        result_checkpoint=job.result_checkpoint,
        priority=job.priority,
        revision=job.revision,
        forked_from=job.forked_from,
        stalled=None if job.stalled is None else StallView(**job.stalled),
        shortage=None if job.shortage is None else ShortageView(**job.shortage),
        last_event_id=event_id(job.id, job.event_count) if job.event_count else None,
        spec_hash=job.spec_hash,
        spec=job.spec,
    )


def _progress_view(progress: Progress) -> ProgressView:
    return ProgressView(
        stage=progress.stage,
        stage_step=progress.stage_step,
        stage_steps=progress.stage_steps,
        step=progress.step,
        total_steps=progress.total_steps,
        fraction=progress.step / progress.total_steps if progress.total_steps else 1.0,
    )


def _estimated_finish(job: Job, progress: Progress) -> int | None:
    eta_s = progress.eta_seconds()
    if eta_s is None or job.job_state is not JobState.RUNNING or progress.attempt != job.attempt:
        return None
    return int(progress.time + eta_s)


class AttemptView(BaseModel):
    """One execution of a job."""

    id: str
    object: Literal["job.attempt"] = "job.attempt"
    job_id: str
    number: int
    state: str
    """provisioning | running | succeeded | stopped | failed"""
    created_at: int
    started_at: int | None
    ended_at: int | None
    trainer: str
    replicas: list[str]
    resumed_from: int | None
    """Global step that it started from; null until the learner said."""
    error: FailureView | None


def attempt_view(attempt: Attempt) -> AttemptView:
    """Row to answer."""
    return AttemptView(
        id=attempt.id,
        job_id=attempt.job_id,
        number=attempt.number,
        state=attempt.state,
        created_at=unix(attempt.created_at),
        started_at=unix_or_none(attempt.started_at),
        ended_at=unix_or_none(attempt.ended_at),
        trainer=attempt.trainer_address,
        replicas=attempt.rollout_addresses,
        resumed_from=attempt.resumed_from,
        error=_failure(attempt.error_code, attempt.error_message),
    )


class EventView(BaseModel):
    """One fact about a job."""

    id: str
    object: Literal["job.event"] = "job.event"
    job_id: str
    attempt: int
    """0 before the first attempt."""
    type: str
    """state | waiting | attempt (the control plane's), or a type of services.common.events (the learner's)"""
    created_at: int
    time: float
    """Unix seconds with fraction."""
    data: dict[str, Any]


def event_id(job_id: str, position: int) -> str:
    """Id of the event at a position; later events of a job have greater positions."""
    return f"evt_{job_id.removeprefix('job_')}_{position}"


def event_position(cursor: str | None) -> int:
    """Place of an event by its id; 0 is before the first. Raises PlatformError("invalid_request")."""
    if cursor is None:
        return 0
    number = cursor.rpartition("_")[2]
    if not (number.isascii() and number.isdecimal()) or len(number) > _MAX_DIGITS:
        raise PlatformError(
            "invalid_request", f"{cursor!r} is no event id; take one from the list.", param="after"
        )
    return int(number)


def event_view(event: JobEvent) -> EventView:
    """Row to answer."""
    return EventView(
        id=event_id(event.job_id, event.position),
        job_id=event.job_id,
        attempt=event.attempt,
        type=event.type,
        created_at=unix(event.time),
        time=event.time.timestamp(),
        data=event.data,
    )


class CheckpointView(BaseModel):
    """A checkpoint."""

    id: str
    object: Literal["job.checkpoint"] = "job.checkpoint"
    created_at: int
    job_id: str
    attempt: int
    step: int
    stage: str
    path: str
    weight_version: int
    weight_digest: str
    bytes: int
    deleted_at: int | None
    """When it was removed to keep within checkpoint.keep_last."""


def checkpoint_view(checkpoint: Checkpoint) -> CheckpointView:
    """Row to answer."""
    return CheckpointView(
        id=checkpoint.id,
        created_at=unix(checkpoint.created_at),
        job_id=checkpoint.job_id,
        attempt=checkpoint.attempt,
        step=checkpoint.step,
        stage=checkpoint.stage,
        path=checkpoint.path,
        weight_version=checkpoint.weight_version,
        weight_digest=checkpoint.weight_digest,
        bytes=checkpoint.num_bytes,
        deleted_at=unix_or_none(checkpoint.deleted_at),
    )


class EvaluationView(BaseModel):
    """Results of one evaluation."""

    id: str
    object: Literal["job.evaluation"] = "job.evaluation"
    created_at: int
    job_id: str
    attempt: int
    step: int
    stage: str
    dataset: str
    results: dict[str, Any]


def evaluation_view(evaluation: Evaluation) -> EvaluationView:
    """Row to answer."""
    return EvaluationView(
        id=f"eval_{evaluation.job_id.removeprefix('job_')}_{evaluation.attempt}_{evaluation.seq}",
        created_at=unix(evaluation.created_at),
        job_id=evaluation.job_id,
        attempt=evaluation.attempt,
        step=evaluation.step,
        stage=evaluation.stage,
        dataset=evaluation.dataset,
        results=evaluation.results,
    )


class FileView(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    rows: int
    sha256: str
    golds: GoldSummary | None
    """Its gold answers by type, and which cannot be used; null without any."""


def file_view(file: StoredFile) -> FileView:
    """Row to answer."""
    return FileView(
        id=file.id,
        bytes=file.num_bytes,
        created_at=unix(file.created_at),
        filename=file.filename,
        purpose=file.purpose,
        rows=file.num_rows,
        sha256=file.sha256,
        golds=read_summary(Path(file.path)),
    )


class ModelView(BaseModel):
    """A model directory that a job may start from."""

    id: str
    object: Literal["model"] = "model"
    created: int
    name: str
    path: str
    checkpoint_id: str | None
    """What it was exported from."""
    card: dict[str, Any]
    """model_type, block_size, mask_token_id, vocab_size, max_positions"""


def model_view(model: RegisteredModel) -> ModelView:
    """Row to answer."""
    return ModelView(
        id=model.id,
        created=unix(model.created_at),
        name=model.name,
        path=model.path,
        checkpoint_id=model.checkpoint_id,
        card=model.card,
    )


class ExportView(BaseModel):
    """The writing of a checkpoint as a model directory."""

    id: str
    object: Literal["export"] = "export"
    created_at: int
    finished_at: int | None
    checkpoint_id: str
    state: str
    """queued | running | succeeded | failed"""
    model_id: str | None
    """The model, once it is there."""
    path: str
    error: FailureView | None


def export_view(export: Export) -> ExportView:
    """Row to answer."""
    return ExportView(
        id=export.id,
        created_at=unix(export.created_at),
        finished_at=unix_or_none(export.finished_at),
        checkpoint_id=export.checkpoint_id,
        state=export.state,
        model_id=export.model_id if export.state == "succeeded" else None,
        path=export.output_path,
        error=_failure(export.error_code, export.error_message),
    )
