"""Removes what is no longer needed, finishes what a crash left half done, and reads journals that
could not be read at the time.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, select

from services.api.adapters.job_files import delete_job_directory, is_unstarted_fork
from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, IdempotencyKey, Job
from services.api.db.record_tables import Checkpoint, StoredFile
from services.api.db.webhook_tables import Delivery
from services.api.domain.job_state import REWINDABLE
from services.api.scheduler.context import SchedulerContext
from services.api.use_cases.deletion import finish_deletions
from services.api.use_cases.requeue import settle_job_files
from services.common.streams import delete_streams
from services.common.telemetry.logs import get_logger

_KEYS_KEPT: Final = timedelta(days=7)
_DELIVERIES_KEPT: Final = timedelta(days=7)
_WITHOUT_ROW_KEPT: Final = timedelta(hours=6)
"""An upload or a fork that has no row after so long was cut off."""
_JOURNALS_PER_ROUND: Final = 20

log = get_logger()


def prune(context: SchedulerContext) -> None:
    """One round; every part may run twice."""
    with context.database.begin() as session:
        session.execute(
            delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - _KEYS_KEPT)
        )
        settled = Delivery.due_at.is_(None), Delivery.created_at < utc_now() - _DELIVERIES_KEPT
        session.execute(delete(Delivery).where(*settled))
    _read_left_journals(context)
    _delete_left_streams(context)
    _delete_broken_uploads(context)
    _delete_broken_forks(context)
    finish_deletions(context)
    _finish_rewinds(context)


def _read_left_journals(context: SchedulerContext) -> None:
    unread = (
        select(Attempt)
        .where(Attempt.ended_at.is_not(None), Attempt.events_complete.is_(False))
        .order_by(Attempt.ended_at.desc())
        .limit(_JOURNALS_PER_ROUND)
    )
    with context.database.begin() as session:
        attempts = session.scalars(unread).all()
    for attempt in attempts:
        if context.journals.catch_up(attempt.job_id, attempt.number) is None:
            with context.database.begin() as session:
                session.get_one(Attempt, attempt.id).events_complete = True


def _delete_left_streams(context: SchedulerContext) -> None:
    """Streams of attempts that have ended, left over when Redis could not be reached at their end."""
    # Listed before the running attempts are read: one that starts in between has no key here.
    keys = context.redis.scan_iter(match="dirl:job_*:*:*", count=1000)
    parts = (key.decode().split(":") for key in keys)
    attempts = {(job_id, int(number)) for _, job_id, number, _ in parts}
    if not attempts:
        return
    running = select(Attempt.job_id, Attempt.number).where(Attempt.ended_at.is_(None))
    with context.database.begin() as session:
        needed = {(job_id, number) for job_id, number in session.execute(running)}
    for job_id, number in attempts - needed:
        delete_streams(context.redis, job_id, number)
        log.info("streams pruned", job_id=job_id, attempt=number)


def _delete_broken_uploads(context: SchedulerContext) -> None:
    # Listed before the rows are read, and old: an upload that is being stored is not among them.
    old = _list_old(context.data_dir / "files", "file_*")
    if not old:
        return
    with context.database.begin() as session:
        known = set(session.scalars(select(StoredFile.id).where(StoredFile.id.in_(old))))
    for name in old.keys() - known:
        shutil.rmtree(old[name])
        log.info("broken upload deleted", file_id=name)


def _delete_broken_forks(context: SchedulerContext) -> None:
    """Delete copies of checkpoints for jobs that were never stored. A directory with anything else
    in it stays: its job may be one that a restored backup of the database does not know.
    """
    old = {
        name: path
        for name, path in _list_old(context.data_dir / "jobs", "job_*").items()
        if is_unstarted_fork(path)
    }
    if not old:
        return
    with context.database.begin() as session:
        known = set(session.scalars(select(Job.id).where(Job.id.in_(old))))
    for name in old.keys() - known:
        delete_job_directory(old[name])
        log.info("broken fork deleted", job_id=name)


def _finish_rewinds(context: SchedulerContext) -> None:
    """Rename checkpoints whose archived paths are stored, but which a crash left in place."""
    archived = (
        select(Checkpoint.job_id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(
            Checkpoint.path.contains("/archived-"),
            Checkpoint.deleted_at.is_(None),
            Job.state.in_(REWINDABLE),
        )
        .distinct()
    )
    with context.database.begin() as session:
        job_ids = session.scalars(archived).all()
    for job_id in job_ids:
        settle_job_files(context, job_id)


def _list_old(directory: Path, pattern: str) -> dict[str, Path]:
    oldest = (utc_now() - _WITHOUT_ROW_KEPT).timestamp()
    return {path.name: path for path in directory.glob(pattern) if path.stat().st_mtime < oldest}
