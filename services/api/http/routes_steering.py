"""/v1/jobs/{id}: changing, checkpointing, repeating, rewinding, forking and deleting a job"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import update
from sqlalchemy.orm import Session

from services.api.db.job_tables import Job
from services.api.db.jobs import (
    append_event,
    get_job,
    lock_job,
    newest_checkpoint,
    queue_again,
    transition,
)
from services.api.db.record_tables import Checkpoint
from services.api.domain.job_state import (
    RERUNNABLE,
    RESUMABLE,
    REWINDABLE,
    TERMINAL,
    JobState,
    require_state,
)
from services.api.http.resources import Res
from services.api.http.views import JobView, job_view
from services.api.job_files import adopt, delete_job_directory, job_directory, set_aside
from services.common.checkpoint.archive import archive_of
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.ids import new_id
from services.common.job_spec import JobSpec
from services.common.steering import (
    Revision,
    ask_for_checkpoint,
    check_steerable,
    with_changes,
    write_revision,
)

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

Changes = dict[str, Any]
_FIXED_IN_A_FORK: Final = (
    "model",
    "method",
    "seed",
    "training_file",
    "training_mixture",
    "validation_file",
    "sft.training_file",
    "rl.training_file",
    "prompt",
    "diffusion",
    "trainer.seq_len",
)
"""The prompt ledger of the checkpoint is kept for the rows and the order that these give."""
_ACCEPTED: Final = 202


class JobChanges(BaseModel):
    """What may be changed of a job; keys of `hyperparameters` are dotted, e.g. `optim.lr`."""

    model_config = ConfigDict(extra="forbid")

    metadata: dict[str, str] | None = Field(None, max_length=16)
    priority: int | None = Field(None, ge=-100, le=100)
    hyperparameters: Changes | None = Field(None, max_length=32)


@router.patch("")
def change_job(resources: Res, job_id: str, body: JobChanges) -> JobView:
    """Change metadata, priority, and hyperparameters, which a running job applies between two steps
    as a revision.
    """
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        if body.metadata is not None:
            job.labels = body.metadata
        if body.priority is not None:
            job.priority = body.priority
        if body.hyperparameters:
            _revise(resources, session, job, body.hyperparameters)
    return job_view(job)


def _revise(resources: Res, session: Session, job: Job, changes: Changes) -> None:
    if job.job_state in TERMINAL:
        raise PlatformError(
            "illegal_transition",
            f"Job {job.id} is {job.state}; its hyperparameters apply to nothing.",
            hint="Fork it.",
        )
    check_steerable(changes)
    spec = JobSpec.model_validate(job.spec)
    _refuse_without_effect(spec, changes)
    changed = with_changes(spec, changes)
    job.spec, job.spec_hash = changed.model_dump(mode="json"), changed.spec_hash()
    job.revision += 1
    append_event(session, job, "changed", {"revision": job.revision, "changes": changes})
    # Before the commit: a revision without a file would never be applied, a file without a row is
    # overwritten.
    write_revision(job_directory(resources.data_dir, job.id), Revision(job.revision, changes))


def _refuse_without_effect(spec: JobSpec, changes: Changes) -> None:
    training = [stage for stage in spec.method.stages if stage != "eval"]
    overriding = [stage for stage in training if getattr(spec, stage).optim is not None]
    if not training or len(overriding) < len(training):
        return
    problems = [
        Problem(
            key,
            f"has no effect: {overriding[-1]}.optim overrides it; change {overriding[-1]}.{key}",
        )
        for key in changes
        if key.startswith("optim.")
    ]
    if problems:
        raise ProblemsError("spec_invalid", "The job cannot be changed so", problems)


class CheckpointWish(BaseModel):
    """A checkpoint that was asked for; it is listed once it is written."""

    object: Literal["job.checkpoint_wish"] = "job.checkpoint_wish"
    job_id: str
    after_step: int
    """The first step that it may be of."""


@router.post("/checkpoints", status_code=_ACCEPTED)
def ask_checkpoint(resources: Res, job_id: str) -> CheckpointWish:
    """Have a running job write a checkpoint after the step that it makes."""
    with resources.database.begin() as session:
        job = get_job(session, job_id)
    require_state(job_id, "write a checkpoint of", job.job_state, frozenset({JobState.RUNNING}))
    ask_for_checkpoint(job_directory(resources.data_dir, job_id), new_id("ckpt"))
    return CheckpointWish(job_id=job_id, after_step=(job.progress or {"step": 0})["step"])


@router.post("/rerun")
def rerun_job(resources: Res, job_id: str) -> JobView:
    """Queue a failed or cancelled job again; it goes on from its newest checkpoint."""
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "rerun", job.job_state, RERUNNABLE)
        queue_again(session, job)
    resources.hints.dispatch()
    return job_view(job)


class RewindPoint(BaseModel):
    """Where a job is to go on from."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = Field(
        min_length=1, max_length=64, description="Id of a checkpoint of the job."
    )


@router.post("/rewind")
def rewind_job(resources: Res, job_id: str, body: RewindPoint) -> JobView:
    """Queue a job that does not run again, to go on from an earlier checkpoint; newer ones are set
    aside, not lost.
    """
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "rewind", job.job_state, REWINDABLE)
        point = _checkpoint(session, body.checkpoint)
        if point.job_id != job_id:
            raise PlatformError(
                "conflict", f"Checkpoint {point.id} is of {point.job_id}, not of {job_id}."
            )
        moved = set_aside(job_directory(resources.data_dir, job_id), point.step, job.attempt)
        for old, new in moved.items():
            session.execute(
                update(Checkpoint)
                .where(Checkpoint.job_id == job_id, Checkpoint.path == old)
                .values(path=new)
            )
        append_event(
            session,
            job,
            "rewound",
            {"step": point.step, "checkpoint": point.id, "set_aside": len(moved)},
        )
        queue_again(session, job)
    resources.hints.dispatch()
    return job_view(job)


class ForkRequest(BaseModel):
    """A new job that goes on from a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = Field(
        None, max_length=64, description="Id of a checkpoint; the job's newest by default."
    )
    changes: Changes = Field(
        default_factory=dict, max_length=64, description="Values by dotted key of the spec."
    )
    suffix: str | None = Field(None, max_length=64)
    metadata: dict[str, str] | None = Field(None, max_length=16)


@router.post("/fork", status_code=201)
def fork_job(resources: Res, job_id: str, body: Annotated[ForkRequest, Body()]) -> JobView:
    """A new job that goes on from a checkpoint of this one: weights, optimizer, prompt ledger; with
    another spec.
    """
    with resources.database.begin() as session:
        parent = get_job(session, job_id)
        point = _checkpoint(session, body.checkpoint or newest_checkpoint(session, job_id) or "")
        if point.job_id != job_id:
            raise PlatformError(
                "conflict", f"Checkpoint {point.id} is of {point.job_id}, not of {job_id}."
            )
        resources.require_quota(parent.project)
        job = _child(parent, point, body)
        adopt(
            Path(point.path),
            job_directory(resources.data_dir, job_id),
            job_directory(resources.data_dir, job.id),
        )
        session.add(job)
        session.flush()
        transition(session, job, JobState.QUEUED)
    resources.hints.dispatch()
    return job_view(job)


def _child(parent: Job, point: Checkpoint, body: ForkRequest) -> Job:
    _refuse_other_rows(body.changes)
    spec = with_changes(JobSpec.model_validate(parent.spec), body.changes)
    if body.suffix is not None or body.metadata is not None:
        given = {"suffix": body.suffix or spec.suffix, "metadata": body.metadata or spec.metadata}
        spec = spec.model_copy(update=given)
    copied = (
        "project",
        "key_id",
        "method",
        "model_path",
        "files",
        "max_sequence_tokens",
        "priority",
    )
    return Job(
        id=new_id("job"),
        spec=spec.model_dump(mode="json"),
        spec_hash=spec.spec_hash(),
        labels=spec.metadata,
        rollout_replicas=spec.resources.rollout_replicas if spec.needs_rollout() else 0,
        forked_from=point.id,
        state=JobState.VALIDATING_FILES,
        attempt=0,
        revision=0,
        forgiven_attempts=0,
        latest_metrics={},
        event_count=0,
        **{name: getattr(parent, name) for name in copied},
    )


def _refuse_other_rows(changes: Changes) -> None:
    problems = [
        Problem(
            key,
            "cannot differ from the parent's: the checkpoint's prompt ledger is kept for its rows and order",
        )
        for key in changes
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED_IN_A_FORK)
    ]
    if problems:
        hint = "A job whose `model` is an exported checkpoint starts from its weights alone"
        raise ProblemsError("spec_invalid", f"The job cannot be forked so. {hint}", problems)


def _checkpoint(session: Session, checkpoint_id: str) -> Checkpoint:
    row = session.get(Checkpoint, checkpoint_id)
    if row is None or row.deleted_at is not None:
        raise PlatformError(
            "not_found",
            f"There is no checkpoint {checkpoint_id!r}, or it was removed.",
            hint="GET /v1/jobs/{id}/checkpoints lists a job's.",
        )
    return row


class DeletedJob(BaseModel):
    """A job that is gone."""

    id: str
    object: Literal["job"] = "job"
    deleted: bool


@router.delete("")
def delete_job(resources: Res, job_id: str) -> DeletedJob:
    """Delete a job that no learner works on, with its records, checkpoints and logs. Exported
    models stay.
    """
    directory = job_directory(resources.data_dir, job_id)
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "delete", job.job_state, TERMINAL | RESUMABLE)
        archive = archive_of(resources.settings.object_store_url, job_id, directory)
        if archive is not None:
            archive.delete()
        session.delete(job)
    delete_job_directory(directory)
    return DeletedJob(id=job_id, deleted=True)
