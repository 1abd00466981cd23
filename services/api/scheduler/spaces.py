"""Warns running jobs of low storage space, and pauses those of a project that has used its quota.

A full disk needs no check here: the learner pauses its job before a checkpoint that does not fit.
"""

import shutil
from typing import Final

from sqlalchemy import select

from services.api.db.job_tables import Job
from services.api.db.jobs import append_event, lock_job, transition
from services.api.db.usage import newest_checkpoint_bytes, usage_of
from services.api.domain.job_state import JobState
from services.api.domain.space import Disk, find_shortage, quota_message
from services.api.scheduler.context import SchedulerContext
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.telemetry.logs import get_logger

SHORTAGE_EVENT: Final = "shortage"
"""{shortage: {of: quota | disk, used_bytes, limit_bytes} | None}"""

log = get_logger()


def watch_space(context: SchedulerContext) -> None:
    """Check every running job once."""
    usage = shutil.disk_usage(context.data_dir)
    disk = Disk(usage.free, usage.total)
    with context.database.begin() as session:
        running = session.scalars(
            select(Job.id).where(Job.state == JobState.RUNNING, Job.finished_at.is_(None))
        ).all()
    for job_id in running:
        _check_job(context, job_id, disk)


def _check_job(context: SchedulerContext, job_id: str, disk: Disk) -> None:
    with context.database.begin() as session:
        job = lock_job(session, job_id)
        if job.job_state is not JobState.RUNNING:
            return
        usage = usage_of(session, job.project, context.settings.project_quota_bytes)
        shortage = find_shortage(usage, disk, newest_checkpoint_bytes(session, job_id))
        if (shortage is None) != (job.shortage is None):
            append_event(
                session,
                job,
                SHORTAGE_EVENT,
                {"shortage": None if shortage is None else shortage.to_json()},
            )
        job.shortage = None if shortage is None else shortage.to_json()
        if usage.is_full:
            why = quota_message(job.project, usage)
            transition(
                session,
                job,
                JobState.PAUSING,
                AttemptResult(AttemptState.STOPPED, "quota_exceeded", why),
            )
            log.warning("job paused for its project's quota", job_id=job_id, project=job.project)
    context.wakeups.reconcile(job_id)
