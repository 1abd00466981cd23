"""/v1/usage, and deleting what takes room: models, checkpoints"""

import shutil
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import delete, select

from services.api.db.base import utc_now
from services.api.db.job_tables import Job
from services.api.db.jobs import lock_job, newest_checkpoint
from services.api.db.record_tables import Checkpoint, Export, RegisteredModel
from services.api.db.usage import usage_of
from services.api.domain.job_state import RESUMABLE, TERMINAL, require_state
from services.api.http.auth import Who
from services.api.http.resources import Res
from services.common.errors import PlatformError

router = APIRouter(tags=["storage"])


class UsageView(BaseModel):
    """What the caller's project keeps; bytes."""

    object: Literal["usage"] = "usage"
    project: str
    files_bytes: int
    checkpoints_bytes: int
    """What a fork shares with its parent counts for both."""
    models_bytes: int
    """Exported ones."""
    total_bytes: int
    quota_bytes: int | None
    """Null when the installation sets none (DIRL_PROJECT_QUOTA_BYTES)."""
    disk_free_bytes: int
    disk_total_bytes: int


class DeletedModel(BaseModel):
    """A model that is not known any more."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool


class DeletedCheckpoint(BaseModel):
    """A checkpoint that is gone."""

    id: str
    object: Literal["job.checkpoint"] = "job.checkpoint"
    deleted: bool


@router.get("/v1/usage")
def get_usage(resources: Res, caller: Who) -> UsageView:
    """What the project keeps, and what it may keep."""
    with resources.database.begin() as session:
        usage = usage_of(session, caller.project, resources.settings.project_quota_bytes)
    resources.data_dir.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(resources.data_dir)
    return UsageView(
        project=caller.project,
        files_bytes=usage.files,
        checkpoints_bytes=usage.checkpoints,
        models_bytes=usage.models,
        total_bytes=usage.total,
        quota_bytes=usage.quota,
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
    )


@router.delete("/v1/models/{model_id}")
def delete_model(resources: Res, model_id: str) -> DeletedModel:
    """Forget a model that no unfinished job starts from. An exported one is deleted, a registered
    directory stays.
    """
    with resources.database.begin() as session:
        row = session.get(RegisteredModel, model_id, with_for_update=True)
        if row is None:
            raise PlatformError(
                "not_found", f"There is no model {model_id!r}.", hint="GET /v1/models lists all."
            )
        unfinished = select(Job.id).where(Job.model_path == row.path, Job.finished_at.is_(None))
        if users := session.scalars(unfinished).all():
            raise PlatformError(
                "conflict",
                f"Model {model_id} cannot be deleted: {', '.join(users)} starts from it.",
                hint="Wait for the job's end, or cancel it.",
            )
        session.execute(delete(Export).where(Export.model_id == model_id))
        session.delete(row)
    exported = Path(row.path)
    if exported.parent == resources.data_dir / "models":
        shutil.rmtree(exported, ignore_errors=True)
    return DeletedModel(id=model_id, deleted=True)


@router.delete("/v1/jobs/{job_id}/checkpoints/{checkpoint_id}")
def delete_checkpoint(resources: Res, job_id: str, checkpoint_id: str) -> DeletedCheckpoint:
    """Delete a checkpoint of a job that does not run; the job then goes on from the newest one that
    is left.
    """
    with resources.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "delete a checkpoint of", job.job_state, TERMINAL | RESUMABLE)
        row = session.get(Checkpoint, checkpoint_id)
        if row is None or row.job_id != job_id or row.deleted_at is not None:
            raise PlatformError(
                "not_found", f"There is no checkpoint {checkpoint_id!r} of {job_id}."
            )
        row.deleted_at = utc_now()
        session.flush()
        if job.result_checkpoint == checkpoint_id:
            job.result_checkpoint = newest_checkpoint(session, job_id)
    shutil.rmtree(row.path, ignore_errors=True)
    return DeletedCheckpoint(id=checkpoint_id, deleted=True)
