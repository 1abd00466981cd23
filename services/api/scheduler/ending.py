"""Ends an attempt: its last events, its services, its streams, and what becomes of the job."""

from services.api.adapters.fleet import UNREACHABLE_CODES
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import close_attempt, delay_attempt, transition
from services.api.db.locks import open_locked
from services.api.domain.attempt_end import decide
from services.api.scheduler.claims import ClaimedJob, release_claim
from services.api.scheduler.context import SchedulerContext
from services.common.attempt_result import AttemptResult
from services.common.errors import PlatformError
from services.common.streams import delete_streams
from services.common.telemetry.logs import get_logger

log = get_logger()


def end_attempt(
    context: SchedulerContext,
    claimed: ClaimedJob,
    attempt: Attempt,
    end: AttemptResult,
    *,
    trainer_is_up: bool,
) -> None:
    """Take the attempt's services back and move its job on.

    The events come first: a job is not over before its last metrics are there. When the trainer
    that reported the end does not answer any more, the end is put off. The journal of an attempt
    whose trainer is lost is read once a trainer answers (services.api.scheduler.prune).
    """
    unread = context.journals.catch_up(claimed.job.id, attempt.number)
    if unread is not None and unread.code in UNREACHABLE_CODES and trainer_is_up:
        release_claim(context, claimed)
        return
    # While the leases still stand: when another job may lease the replicas, they are idle.
    _release_services(context, claimed.job.id, attempt)

    with context.database.begin() as session:
        job = open_locked(session, Job, claimed.job.id, claimed.token)
        row = session.get_one(Attempt, attempt.id)
        row.events_complete = unread is None
        failed_before = close_attempt(session, job, row, end)
        decision = decide(job.job_state, end, failed_before)
        for state in decision.states:
            # On the last state: the job shows an error only where it says why the job stands still.
            is_last = state is decision.states[-1]
            transition(session, job, state, decision.error if is_last else None)
        if decision.retry_after_s:
            delay_attempt(session, job, decision.retry_after_s, end)
    log.info(
        "attempt ended",
        job_id=claimed.job.id,
        attempt=attempt.number,
        end=end.state.value,
        error_code=end.error_code,
        job_state=job.state,
    )
    # After the commit: an earlier dispatch would find the services still leased.
    context.wakeups.dispatch()


def _release_services(context: SchedulerContext, job_id: str, attempt: Attempt) -> None:
    """Release replicas and delete streams; what cannot be reached now is replaced or pruned later."""
    results = context.fleet.ask_all(
        lambda address: context.fleet.release(address, job_id, attempt.number),
        attempt.rollout_addresses,
    )
    for address, result in results.items():
        if isinstance(result, PlatformError):
            log.warning(
                "replica not released", replica=address, job_id=job_id, reason=result.message
            )
    try:
        delete_streams(context.redis, job_id, attempt.number)
    except PlatformError as error:
        log.warning(
            "streams not deleted", job_id=job_id, attempt=attempt.number, reason=error.message
        )
