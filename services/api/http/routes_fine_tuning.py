"""/v1/fine_tuning/jobs: the jobs of this platform under the names and shapes of OpenAI's
fine-tuning API.

What OpenAI's names cannot express (decoding, rollout replicas, checkpoints …) is given in the
platform's own keys beside them: `client.fine_tuning.jobs.create(…, extra_body={"rl": {"steps":
50}})`.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Header
from sqlalchemy import select

from services.api.db.job_tables import Job
from services.api.db.jobs import get_job
from services.api.db.listing import newest_first, owned_by
from services.api.db.record_tables import Checkpoint, JobEvent
from services.api.domain.event_ids import parse_position
from services.api.domain.job_state import JobState
from services.api.http.auth import Who
from services.api.http.paging import make_page, to_page, to_page_after
from services.api.http.resources import After, Limit, Res
from services.api.schemas.envelope import Page
from services.api.schemas.fine_tuning import (
    FineTuningCheckpoint,
    FineTuningEvent,
    FineTuningJobView,
    FineTuningRequest,
)
from services.api.use_cases import requeue, stop
from services.api.use_cases.create_job import submit_job
from services.api.use_cases.fine_tuning import to_job_spec

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine_tuning"])

_STATUS: Final = {
    JobState.PROVISIONING: "queued",
    JobState.PAUSED: "queued",
    JobState.PAUSING: "running",
    JobState.CANCELLING: "running",
}
"""OpenAI's status where it has another name; `GET /v1/jobs/{id}` has the platform's own state."""
_METHODS: Final = {"sft": "supervised", "rl": "reinforcement"}
_HIDDEN: Final = ("trajectories", "phase", "progress")
"""Events that would bury the others."""


@router.post("")
def create_fine_tuning_job(
    resources: Res,
    caller: Who,
    body: FineTuningRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> FineTuningJobView:
    """Submit a job in OpenAI's format."""
    job, _ = submit_job(resources, caller, to_job_spec(body), key=idempotency_key)
    return _to_view(job)


@router.get("")
def list_fine_tuning_jobs(
    resources: Res, caller: Who, after: After = None, limit: Limit = 20
) -> Page[FineTuningJobView]:
    """Jobs, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, Job, owned_by(Job, caller), after, limit)
    return make_page([(row.id, _to_view(row)) for row in rows], limit)


@router.get("/{job_id}")
def get_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """One job."""
    with resources.database.begin() as session:
        return _to_view(get_job(session, job_id))


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Stop a job for good."""
    return _to_view(stop.cancel_job(resources, job_id))


@router.post("/{job_id}/pause")
def pause_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Stop a job until it is resumed."""
    return _to_view(stop.pause_job(resources, job_id))


@router.post("/{job_id}/resume")
def resume_fine_tuning_job(resources: Res, job_id: str) -> FineTuningJobView:
    """Queue a paused job again."""
    return _to_view(requeue.resume_job(resources, job_id))


@router.get("/{job_id}/events")
def list_fine_tuning_events(
    resources: Res, job_id: str, after: After = None, limit: Limit = 20
) -> Page[FineTuningEvent]:
    """Events, newest first."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type.not_in(_HIDDEN))
    if after is not None:
        statement = statement.where(JobEvent.position < parse_position(after))
    with resources.database.begin() as session:
        get_job(session, job_id)
        rows = session.scalars(statement.order_by(JobEvent.position.desc()).limit(limit + 1)).all()
    return to_page(FineTuningEvent, [_to_event(row) for row in rows], limit)


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
    return to_page_after(FineTuningCheckpoint, rows, after, limit)


def _to_view(job: Job) -> FineTuningJobView:
    method = _METHODS.get(job.method, job.method)
    if job.spec["method"]["type"] == "rl":
        hyperparameters = {"batch_size": job.spec["rl"]["prompts_per_step"], "n_epochs": 1}
    else:
        sft = job.spec["sft"]
        hyperparameters = {"batch_size": sft["batch_size"], "n_epochs": sft["epochs"]}
    return FineTuningJobView(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=job.estimated_finish,
        error=job.error,
        fine_tuned_model=job.result_checkpoint if job.job_state is JobState.SUCCEEDED else None,
        hyperparameters=hyperparameters,
        method={"type": method, method: {"hyperparameters": hyperparameters}},
        model=job.model,
        seed=job.spec["seed"],
        status=_STATUS.get(job.job_state, job.state),
        training_file=job.spec["training_file"] or "",
        validation_file=job.spec["validation_file"],
        metadata=job.labels,
        suffix=job.suffix,
    )


def _to_event(row: JobEvent) -> FineTuningEvent:
    is_metrics = row.type == "metrics"
    level = str(row.data.get("level", "info"))
    return FineTuningEvent(
        id=row.id,
        created_at=row.time,
        level={"warning": "warn"}.get(level, level),
        message=_to_message(row),
        type="metrics" if is_metrics else "message",
        data={"step": row.data.get("step"), **row.data["values"]} if is_metrics else row.data,
    )


def _to_message(row: JobEvent) -> str:
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
