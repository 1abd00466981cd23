"""Deleting jobs, checkpoints, models and files.

Rows go in one transaction, which also notes the directories to be removed; these go afterwards. What
a crash or an unavailable object store leaves is removed by the scheduler.
"""

import shutil
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from services.api.db.clock import utc_now
from services.api.db.job_tables import Job
from services.api.db.jobs import lock_job, newest_checkpoint
from services.api.db.record_tables import (
    Checkpoint,
    Export,
    PendingDeletion,
    RegisteredModel,
    StoredFile,
)
from services.api.domain.failure import make_not_found
from services.api.domain.job_state import RESUMABLE, TERMINAL, require_state
from services.api.use_cases.control_plane import ControlPlane
from services.common.checkpoint.archive import archive_of
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger

log = get_logger()


def delete_job(plane: ControlPlane, job_id: str) -> None:
    """Delete a job that no learner works on, with its records, checkpoints and logs. Exported
    models stay.
    """
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "delete", job.job_state, TERMINAL | RESUMABLE)
        _add_pending(session, plane.job_dir(job_id), job_id, archived=True)
        session.delete(job)
    finish_deletions(plane, job_id=job_id)


def delete_checkpoint(plane: ControlPlane, job_id: str, checkpoint_id: str) -> None:
    """Delete a checkpoint of a job that does not run; the job then resumes from the newest one
    left.
    """
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "delete a checkpoint of", job.job_state, TERMINAL | RESUMABLE)
        row = session.get(Checkpoint, checkpoint_id)
        if row is None or row.job_id != job_id or row.deleted_at is not None:
            raise make_not_found("checkpoint", checkpoint_id, f"GET /v1/jobs/{job_id}/checkpoints")
        row.deleted_at = utc_now()
        session.flush()
        if job.result_checkpoint == checkpoint_id:
            job.result_checkpoint = newest_checkpoint(session, job_id)
        _add_pending(session, Path(row.path), job_id)
    finish_deletions(plane, job_id=job_id)


def delete_model(plane: ControlPlane, model_id: str) -> None:
    """Delete a model that no unfinished job starts from; a directory that was registered, not
    exported, stays.
    """
    with plane.database.begin() as session:
        row = session.get(RegisteredModel, model_id, with_for_update=True)
        if row is None:
            raise make_not_found("model", model_id, "GET /v1/models")
        unfinished = select(Job.id).where(Job.model_path == row.path, Job.finished_at.is_(None))
        if users := session.scalars(unfinished).all():
            raise PlatformError(
                "conflict",
                f"Model {model_id} cannot be deleted: {', '.join(users)} starts from it.",
                hint="Wait for the job's end, or cancel it.",
            )
        session.execute(delete(Export).where(Export.model_id == model_id))
        session.delete(row)
        directory = Path(row.path)
        if directory.parent == plane.data_dir / "models":
            _add_pending(session, directory)
    finish_deletions(plane, path=directory)


def delete_file(plane: ControlPlane, file_id: str) -> None:
    """Delete an uploaded file that no unfinished job needs."""
    with plane.database.begin() as session:
        row = session.get(StoredFile, file_id, with_for_update=True)
        if row is None:
            raise make_not_found("file", file_id, "GET /v1/files")
        unfinished = select(Job.id).where(Job.finished_at.is_(None), Job.files.has_key(file_id))
        if users := session.scalars(unfinished).all():
            raise PlatformError(
                "conflict",
                f"File {file_id} cannot be deleted: {', '.join(users)} still reads it.",
                hint="Wait for the job's end, or cancel it.",
            )
        session.delete(row)
        directory = Path(row.path).parent
        _add_pending(session, directory)
    finish_deletions(plane, path=directory)


def finish_deletions(
    plane: ControlPlane, *, job_id: str | None = None, path: Path | None = None
) -> None:
    """Remove the directories that were noted, all or those of one job or path. A failure is logged
    and left to the next call.
    """
    pending = select(PendingDeletion)
    if job_id is not None:
        pending = pending.where(PendingDeletion.job_id == job_id)
    if path is not None:
        pending = pending.where(PendingDeletion.path == str(path))
    with plane.database.begin() as session:
        rows = session.scalars(pending).all()
    for row in rows:
        try:
            directory = Path(row.path)
            if row.is_archived and row.job_id is not None:
                archive = archive_of(plane.settings.object_store_url, row.job_id, directory)
                if archive is not None:
                    archive.delete()
            if directory.exists():
                shutil.rmtree(directory)
        except (PlatformError, OSError) as error:
            log.warning("deletion put off", path=row.path, reason=str(error))
            continue
        # Only when it is removed: after a crash the next call finds the directory again.
        with plane.database.begin() as session:
            session.execute(delete(PendingDeletion).where(PendingDeletion.path == row.path))


def _add_pending(
    session: Session, directory: Path, job_id: str | None = None, *, archived: bool = False
) -> None:
    session.add(PendingDeletion(path=str(directory), job_id=job_id, is_archived=archived))
