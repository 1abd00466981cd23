"""Stopping a job: pause for now, cancel for good."""

from services.api.db.job_tables import Job
from services.api.db.jobs import lock_job, running_attempt, transition
from services.api.domain.job_state import JobState
from services.api.use_cases.control_plane import ControlPlane


def pause_job(plane: ControlPlane, job_id: str) -> Job:
    """Stop a running job with a checkpoint, and release its services until it is resumed."""
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        transition(session, job, JobState.PAUSING)
    plane.wakeups.reconcile(job_id)
    return job


def cancel_job(plane: ControlPlane, job_id: str) -> Job:
    """Stop a job for good, with a checkpoint when it is training; a repeat changes nothing."""
    with plane.database.begin() as session:
        job = lock_job(session, job_id)
        if job.job_state not in (JobState.CANCELLING, JobState.CANCELLED):
            transition(session, job, JobState.CANCELLING)
        # Between two attempts no learner runs that would have to end first.
        if job.job_state is JobState.CANCELLING and running_attempt(session, job_id) is None:
            transition(session, job, JobState.CANCELLED)
    plane.wakeups.reconcile(job_id)
    return job
