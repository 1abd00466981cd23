"""Queueing a job again: resume, rerun, rewind. What may have changed since the job was accepted is
checked first: replicas, files, the model, the quota.
"""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.adapters.job_files import (
    archive_checkpoints,
    archived_path,
    finish_archiving,
    is_archived,
    is_archiving,
    original_path,
)
from services.api.db.job_tables import Job
from services.api.db.jobs import append_event, find_checkpoint, get_job, lock_job, queue_again
from services.api.db.record_tables import Checkpoint, PendingDeletion
from services.api.domain.access import LOCAL
from services.api.domain.job_state import RERUNNABLE, RESUMABLE, REWINDABLE, JobState, require_state
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.deletion import finish_deletions
from services.api.use_cases.job_checks import check_spec
from services.common.errors import PlatformError


def resume_job(plane: ControlPlane, job_id: str) -> Job:
    """Queue a paused job; it resumes from its newest checkpoint."""
    _check_again(plane, job_id, "resume", RESUMABLE)
    return _queue(plane, job_id, "resume", RESUMABLE)


def rerun_job(plane: ControlPlane, job_id: str) -> Job:
    """Queue a failed or cancelled job; it resumes from its newest checkpoint."""
    _check_again(plane, job_id, "rerun", RERUNNABLE)
    return _queue(plane, job_id, "rerun", RERUNNABLE)


def rewind_job(plane: ControlPlane, job_id: str, checkpoint_id: str) -> Job:
    """Queue a job that does not run so that it resumes from an earlier checkpoint; newer ones are
    archived.

    The new paths are stored first, then the directories are renamed, then the job is queued. A
    repeat after a crash finds what is left to do, and so does the scheduler.
    """
    _check_again(plane, job_id, "rewind", REWINDABLE)
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, "rewind", job.job_state, REWINDABLE)
        step = find_checkpoint(session, job_id, checkpoint_id).step
        for row in _list_checkpoints_beyond(session, job_id, step):
            if not is_archived(Path(row.path)):
                row.path = str(archived_path(Path(row.path), job.attempt))
    archive_checkpoints(plane.job_dir(job_id), step, job.attempt)

    def note_rewind(session: Session, job: Job) -> None:
        archived = len(_list_checkpoints_beyond(session, job_id, step))
        fields = {"step": step, "checkpoint": checkpoint_id, "archived": archived}
        append_event(session, job, "rewound", fields)

    return _queue(plane, job_id, "rewind", REWINDABLE, note_rewind)


def settle_job_files(plane: ControlPlane, job_id: str) -> None:
    """Finish the renames and deletions of the job that an earlier request left behind."""
    finish_deletions(plane, job_id=job_id)
    with plane.database.begin() as session:
        archiving = _list_archiving(session, job_id)
    for path in archiving:
        finish_archiving(path)


def _check_again(plane: ControlPlane, job_id: str, verb: str, allowed: frozenset[JobState]) -> None:
    """Raise PlatformError for a job that could not be accepted any more."""
    with plane.database.begin() as session:
        job = get_job(session, job_id)
    require_state(job_id, verb, job.job_state, allowed)
    plane.require_quota(job.project)
    check_spec(plane, LOCAL, job.spec, accepted=job)


def _queue(
    plane: ControlPlane,
    job_id: str,
    verb: str,
    allowed: frozenset[JobState],
    note: Callable[[Session, Job], None] | None = None,
) -> Job:
    settle_job_files(plane, job_id)
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        require_state(job_id, verb, job.job_state, allowed)
        # A learner that starts while files are still being moved would resume from a checkpoint that
        # is to be archived.
        pending = select(PendingDeletion.path).where(PendingDeletion.job_id == job_id).limit(1)
        if session.scalar(pending) or _list_archiving(session, job_id):
            raise PlatformError(
                "busy",
                f"Checkpoints of job {job_id} are still being archived or deleted.",
                hint="Repeat the request in a moment.",
            )
        # In the transaction that queues the job: a repeat after a crash does not list it twice.
        if note is not None:
            note(session, job)
        queue_again(session, job)
    plane.wakeups.dispatch()
    return job


def _list_archiving(session: Session, job_id: str) -> list[Path]:
    """Archived paths whose directories are still to be renamed."""
    kept = select(Checkpoint.path).where(
        Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None)
    )
    paths = [Path(path) for path in session.scalars(kept)]
    # A directory with a row of its own is a later checkpoint of the same step.
    return [path for path in paths if is_archiving(path) and original_path(path) not in paths]


def _list_checkpoints_beyond(session: Session, job_id: str, step: int) -> list[Checkpoint]:
    beyond = select(Checkpoint).where(
        Checkpoint.job_id == job_id, Checkpoint.step > step, Checkpoint.deleted_at.is_(None)
    )
    return list(session.scalars(beyond))
