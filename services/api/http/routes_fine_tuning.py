"""/v1/fine_tuning/jobs: the jobs of this platform under the names and shapes of OpenAI's
fine-tuning API.

What OpenAI's names cannot say (decoding, decoding replicas, checkpoints …) is said in the
platform's own keys beside them: `client.fine_tuning.jobs.create(…, extra_body={"rl": {"steps":
50}})`.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field
from sqlalchemy import select

from services.api.db.job_tables import Job
from services.api.db.jobs import get_job
from services.api.db.record_tables import Checkpoint, JobEvent
from services.api.domain.job_state import JobState
from services.api.http.auth import Who
from services.api.http.envelope import Page, page_after, page_of
from services.api.http.fine_tuning_spec import FineTuningRequest, job_spec_of
from services.api.http.paging import newest_first, owned_by
from services.api.http.resources import After, Limit, Res
from services.api.http.routes_jobs import cancel_job, pause_job, resume_job, submit
from services.api.http.views import event_id, event_position, job_view, unix

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine_tuning"])

_STATUS: Final = {
    JobState.PROVISIONING: "queued",
    JobState.PAUSED: "queued",
    JobState.PAUSING: "running",
    JobState.CANCELLING: "running",
}
"""OpenAI's status where it has another name; `GET /v1/jobs/{id}` has the platform's own state."""
_METHODS: Final = {"sft": "supervised", "rl": "reinforcement"}
_SILENT: Final = ("trajectories", "phase", "progress")
"""Events that would bury the others."""


class FineTuningError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class FineTuningJobView(BaseModel):
    """A job, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    error: FineTuningError | None
    fine_tuned_model: str | None
    """Checkpoint to be named as `model` in a chat completion, once the job succeeded."""
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    model: str
    organization_id: str = "local"
    result_files: list[str] = Field(default_factory=list)
    seed: int
    status: str
    """validating_files | queued | running | succeeded | failed | cancelled"""
    trained_tokens: int | None = None
    training_file: str
    validation_file: str | None
    metadata: dict[str, str]
    suffix: str | None


class FineTuningEvent(BaseModel):
    """An event, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningCheckpoint(BaseModel):
    """A checkpoint, shaped as OpenAI's."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


@router.post("")
def create_fine_tuning_job(
    resources: Res,
    caller: Who,
    body: FineTuningRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> FineTuningJobView:
    """Submit a job in OpenAI's words."""
    job, _ = submit(resources, caller, job_spec_of(body), idempotency_key)
    return _view(job)


@router.get("")
def list_fine_tuning_jobs(
    resources: Res, caller: Who, after: After = None, limit: Limit = 20
) -> Page[FineTuningJobView]:
    """Jobs, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, Job, owned_by(Job, caller), after, limit)
    return page_of([(row.id, _view(row)) for row in rows], limit)


@router.get("/{job_id}")
def get_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """One job."""
    return _read(resources, job_id)


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Stop a job for good."""
    cancel_job(resources, job_id)
    return _read(resources, job_id)


@router.post("/{job_id}/pause")
def pause_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Stop a job until it is resumed."""
    pause_job(resources, job_id)
    return _read(resources, job_id)


@router.post("/{job_id}/resume")
def resume_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Queue a paused job again."""
    resume_job(resources, job_id)
    return _read(resources, job_id)


@router.get("/{job_id}/events")
def list_fine_tuning_events(
    resources: Res, job_id: str, after: After = None, limit: Limit = 20
) -> Page[FineTuningEvent]:
    """Events, newest first."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type.not_in(_SILENT))
    if after is not None:
        statement = statement.where(JobEvent.position < event_position(after))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(JobEvent.position.desc()).limit(limit + 1)).all()
    events = [_event(row) for row in rows]
    return page_of([(event.id, event) for event in events], limit)


@router.get("/{job_id}/checkpoints")
def list_fine_tuning_checkpoints(
    resources: Res, job_id: str, after: After = None, limit: Limit = 10
) -> Page[FineTuningCheckpoint]:
    """Checkpoints that still exist, newest first."""
    statement = select(Checkpoint).where(
        Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None)
    )
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(
            statement.order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        ).all()
    return page_after([(row.id, _checkpoint(row)) for row in rows], after, limit)


def _read(resources: Res, job_id: str) -> FineTuningJobView:
    with resources.database.begin() as session:
        return _view(get_job(session, job_id))


def _view(job: Job) -> FineTuningJobView:
    shown = job_view(job)
    succeeded = job.job_state is JobState.SUCCEEDED
    method = _METHODS.get(job.method, job.method)
    hyperparameters = _hyperparameters(job.spec)
    return FineTuningJobView(
        id=job.id,
        created_at=shown.created_at,
        finished_at=shown.finished_at,
        estimated_finish=shown.estimated_finish,
        error=None
        if shown.error is None
        else FineTuningError(code=shown.error.code, message=shown.error.message),
        fine_tuned_model=job.result_checkpoint if succeeded else None,
        hyperparameters=hyperparameters,
        method={"type": method, method: {"hyperparameters": hyperparameters}},
        model=shown.model,
        seed=job.spec["seed"],
        status=_STATUS.get(job.job_state, job.state),
        training_file=job.spec["training_file"] or "",
        validation_file=job.spec["validation_file"],
        metadata=job.labels,
        suffix=shown.suffix,
    )


def _hyperparameters(spec: dict[str, Any]) -> dict[str, Any]:
    if spec["method"]["type"] == "rl":
        return {"batch_size": spec["rl"]["prompts_per_step"], "n_epochs": 1}
    return {"batch_size": spec["sft"]["batch_size"], "n_epochs": spec["sft"]["epochs"]}


def _event(row: JobEvent) -> FineTuningEvent:
    return FineTuningEvent(
        id=event_id(row.job_id, row.position),
        created_at=unix(row.time),
        level={"warning": "warn"}.get(row.data.get("level", "info"), row.data.get("level", "info")),
        message=_message(row),
        type="metrics" if row.type == "metrics" else "message",
        data={"step": row.data.get("step"), **row.data["values"]}
        if row.type == "metrics"
        else row.data,
    )


def _message(row: JobEvent) -> str:
    data = row.data
    match row.type:
        case "log":
            return str(data.get("message", ""))
        case "state":
            return f"The job went from {data['from']} to {data['to']}."
        case "attempt":
            return f"Attempt {row.attempt}: {data['state']} on {data['trainer']}."
        case "checkpoint":
            return f"Checkpoint of step {data.get('step')} written."
        case "evaluation":
            return f"Evaluation on {data.get('dataset')} after step {data.get('step')}."
        case "metrics":
            return f"Step {data.get('step')}."
        case _:
            return row.type


def _checkpoint(row: Checkpoint) -> FineTuningCheckpoint:
    return FineTuningCheckpoint(
        id=row.id,
        created_at=unix(row.created_at),
        fine_tuned_model_checkpoint=row.id,
        fine_tuning_job_id=row.job_id,
        metrics={"step": float(row.step)},
        step_number=row.step,
    )
