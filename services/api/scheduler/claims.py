"""A job claimed by one task."""

from dataclasses import dataclass
from functools import cached_property

from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import running_attempt
from services.api.db.locks import claim, open_locked
from services.api.scheduler.context import SchedulerContext
from services.common.job_spec import JobSpec

_CLAIM_S = 120.0
"""Longer than a task takes that runs into the deadlines of all its calls; what a crashed worker
costs its job.
"""


@dataclass(frozen=True)
class ClaimedJob:
    """A job and its running attempt as they were when the task took the lock; detached, not to be
    altered.
    """

    token: str
    job: Job
    attempt: Attempt | None

    @cached_property
    def spec(self) -> JobSpec:
        """What the user asked for; parsed once."""
        return JobSpec.model_validate(self.job.spec)


def claim_job(context: SchedulerContext, job_id: str) -> ClaimedJob | None:
    """Take the job's lock; None when another task has it or the job does not exist."""
    with context.database.begin() as session:
        token = claim(session, Job, job_id, _CLAIM_S)
        if token is None:
            return None
        return ClaimedJob(token, session.get_one(Job, job_id), running_attempt(session, job_id))


def release_claim(context: SchedulerContext, claimed: ClaimedJob) -> None:
    """Give the lock back without a result; raises StaleTokenError when it was taken over."""
    with context.database.begin() as session:
        open_locked(session, Job, claimed.job.id, claimed.token)
