"""The watchdog: a running job whose learner is silent for longer than its phase may be counts as
stalled.

Its learner writes the stacks of its threads to its log. When it stays silent, its attempt is ended
and the next one starts; at its next event the condition is cleared.
"""

from datetime import UTC, datetime
from typing import Final

from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import append_event, lock_job
from services.api.db.webhooks import announce
from services.api.domain.job_state import JobState
from services.api.domain.stall import Stall, find_stall, must_give_up
from services.api.domain.webhooks import WebhookEvent
from services.api.scheduler.context import SchedulerContext
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger

STALLED_EVENT: Final = "stalled"
"""{phase, waiting_for, since, budget_s}"""
RECOVERED_EVENT: Final = "recovered"
"""{phase, silent_s}"""

log = get_logger()


def watch_for_stall(context: SchedulerContext, job: Job, attempt: Attempt) -> AttemptResult | None:
    """Store whether the job is stalled; return how its attempt ends when it is to be given up."""
    if job.job_state is not JobState.RUNNING or job.last_heartbeat_at is None:
        return None
    now = utc_now()
    stall = find_stall(
        job.phase,
        job.awaited_service,
        job.last_heartbeat_at.timestamp(),
        now.timestamp(),
        context.settings.stall_budgets_s,
    )
    if (stall is None) != (job.stalled is None):
        _store_stall(context, job.id, stall, now)
        if stall is not None:
            log.warning("job stalled", job_id=attempt.job_id, attempt=attempt.number)
            try:
                context.fleet.dump_stacks(attempt.trainer_address, attempt.job_id, attempt.number)
            except PlatformError as error:
                log.warning("stacks not written", job_id=attempt.job_id, reason=error.message)
    if stall is None or not must_give_up(stall, now.timestamp()):
        return None
    try:
        context.fleet.stop_job(attempt.trainer_address, attempt.job_id, attempt.number, grace_s=0.0)
    except PlatformError as error:
        log.warning("stalled learner not stopped", job_id=attempt.job_id, reason=error.message)
    since = datetime.fromtimestamp(stall.since, UTC).isoformat(timespec="seconds")
    message = (
        f"Phase {stall.phase} made no progress since {since}; its budget is {stall.budget_s:.0f} s."
    )
    return AttemptResult(AttemptState.FAILED, "deadline_exceeded", message, retryable=True)


def _store_stall(
    context: SchedulerContext, job_id: str, stall: Stall | None, now: datetime
) -> None:
    with context.database.begin() as session:
        job = lock_job(session, job_id)
        if stall is not None:
            job.stalled = stall.to_json()
            append_event(session, job, STALLED_EVENT, job.stalled)
            announce(session, job, WebhookEvent.STALLED)
        elif job.stalled is not None:
            silent_s = now.timestamp() - job.stalled["since"]
            append_event(
                session, job, RECOVERED_EVENT, {"phase": job.stalled["phase"], "silent_s": silent_s}
            )
            job.stalled = None
