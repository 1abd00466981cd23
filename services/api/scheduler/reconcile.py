"""Brings one job a step further: starts its attempt, watches it, ends it.

Precondition: none; the task takes the job's lock, and does nothing when another one has it.
Repeatable: every call it makes is idempotent per (job, attempt), and what it learned is applied
only while its token stands. A process that dies after the claim costs the time of the lock; one
that dies before the result is applied is repeated by the next.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import select

from services.api.adapters.fleet import UNREACHABLE_CODES
from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import set_waiting, transition
from services.api.db.locks import open_locked
from services.api.domain.job_state import ACTIVE, JobState
from services.api.scheduler.claims import ClaimedJob, claim_job, release_claim
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.ending import end_attempt
from services.api.scheduler.stalls import watch_for_stall
from services.api.scheduler.starting import replica_missing, start_attempt
from services.api.use_cases.change import write_missing_revisions
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import trainer_pb2
from services.common.telemetry.logs import get_logger

_CANCEL_GRACE_S: Final = 60.0
_PAUSE_GRACE_S: Final = 600.0
"""A pause is worth a long step and its checkpoint; a cancel is not."""
_STOP_REPEAT_S: Final = 30.0

log = get_logger()


def active_jobs(context: SchedulerContext) -> list[str]:
    """Ids of the jobs that have something to watch."""
    with context.database.begin() as session:
        return list(
            session.scalars(select(Job.id).where(Job.state.in_(ACTIVE), Job.finished_at.is_(None)))
        )


def reconcile(context: SchedulerContext, job_id: str) -> bool:
    """Bring the job a step further; False when another task has it."""
    claimed = claim_job(context, job_id)
    if claimed is None:
        return False
    attempt = claimed.attempt
    if attempt is None:
        # Between two attempts a cancel has nothing to stop; everything else is the dispatcher's.
        if claimed.job.job_state is not JobState.CANCELLING:
            release_claim(context, claimed)
        else:
            with context.database.begin() as session:
                job = open_locked(session, Job, claimed.job.id, claimed.token)
                transition(session, job, JobState.CANCELLED)
    elif claimed.job.job_state is JobState.PROVISIONING:
        start_attempt(context, claimed, attempt)
    else:
        _watch(context, claimed, attempt)
    return True


def _watch(context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt) -> None:
    try:
        # Before the status is read: a learner that ends at once is then seen in the same round.
        _ask_to_stop(context, claimed, attempt)
        status = _request_status(context, attempt, attempt.trainer_address)
    except PlatformError as error:
        _handle_unreachable(context, claimed, attempt, error)
        return
    end = _to_result(status, attempt)
    if end is None:
        _handle_running(context, claimed, attempt, status.last_event_seq)
    else:
        end_attempt(context, claimed, attempt, end, trainer_is_up=True)


def _request_status(
    context: SchedulerContext, attempt: Attempt, trainer: str
) -> trainer_pb2.GetTrainerStatusResponse:
    return context.fleet.attempt_status(
        trainer, context.job_dir(attempt.job_id), attempt.job_id, attempt.number
    )


def _ask_to_stop(context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt) -> None:
    grace_s = {JobState.CANCELLING: _CANCEL_GRACE_S, JobState.PAUSING: _PAUSE_GRACE_S}.get(
        claimed.job.job_state
    )
    asked = attempt.stop_requested_at
    if grace_s is None or (asked is not None and _seconds_since(asked) < grace_s + _STOP_REPEAT_S):
        return
    context.fleet.stop_job(attempt.trainer_address, claimed.job.id, attempt.number, grace_s)
    with context.database.begin() as session:
        # Stored after the call: a crash in between repeats the stop, which changes nothing; the
        # other order could lose it.
        session.get_one(Attempt, attempt.id).stop_requested_at = utc_now()
    log.info(
        "learner asked to stop", job_id=claimed.job.id, attempt=attempt.number, grace_s=grace_s
    )


def _to_result(
    status: trainer_pb2.GetTrainerStatusResponse, attempt: Attempt
) -> AttemptResult | None:
    """How the attempt ended, as reported by its trainer; None while it runs."""
    if (status.job_id, status.attempt) != (attempt.job_id, attempt.number):
        message = f"Trainer {attempt.trainer_address} knows nothing of attempt {attempt.number}: it was restarted."
        return AttemptResult(AttemptState.FAILED, "worker_lost", message, retryable=True)
    if status.state == "succeeded":
        return AttemptResult(AttemptState.SUCCEEDED)
    if status.state == "stopped":
        return AttemptResult(AttemptState.STOPPED)
    if status.state == "failed":
        return AttemptResult(
            AttemptState.FAILED, status.error_code, status.error_message, status.retryable
        )
    return None


def _handle_unreachable(
    context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt, error: PlatformError
) -> None:
    if error.code not in UNREACHABLE_CODES:
        log.error(
            "trainer refused", job_id=claimed.job.id, attempt=attempt.number, reason=error.message
        )
    # The first failure starts the clock; a response clears it.
    since = attempt.unreachable_since or utc_now()
    silent_s = _seconds_since(since)
    if silent_s > context.settings.trainer_lost_after_s:
        message = f"Trainer {attempt.trainer_address} did not answer for {silent_s:.0f} s. {error.message}"
        lost = AttemptResult(AttemptState.FAILED, "worker_lost", message, retryable=True)
        end_attempt(
            context,
            claimed,
            attempt,
            _find_result_left_behind(context, attempt) or lost,
            trainer_is_up=False,
        )
        return
    with context.database.begin() as session:
        job = open_locked(session, Job, claimed.job.id, claimed.token)
        session.get_one(Attempt, attempt.id).unreachable_since = since
        set_waiting(session, job, "trainer")


def _find_result_left_behind(context: SchedulerContext, attempt: Attempt) -> AttemptResult | None:
    """The end that the learner of a silent trainer told before it went, as another trainer reads
    it.
    """
    others = [address for address in context.fleet.trainers if address != attempt.trainer_address]
    statuses = context.fleet.ask_all(
        lambda address: _request_status(context, attempt, address), others
    )
    told = (status for status in statuses.values() if not isinstance(status, PlatformError))
    return next(
        (_to_result(status, attempt) for status in told if status.job_id == attempt.job_id), None
    )


def _handle_running(
    context: SchedulerContext, claimed: ClaimedJob, attempt: Attempt, reported_event_seq: int
) -> None:
    missing = replica_missing(context, claimed, attempt)
    write_missing_revisions(context, claimed.job)
    if attempt.last_event_seq < attempt.reported_event_seq:
        # The recorder had a whole round to apply them: they will not come through the stream.
        context.journals.catch_up(claimed.job.id, attempt.number)
    if give_up := watch_for_stall(context, claimed.job, attempt):
        end_attempt(context, claimed, attempt, give_up, trainer_is_up=True)
        return
    with context.database.begin() as session:
        job = open_locked(session, Job, claimed.job.id, claimed.token)
        row = session.get_one(Attempt, attempt.id)
        row.unreachable_since = None
        row.reported_event_seq = reported_event_seq
        set_waiting(session, job, "rollout" if missing else None)


def _seconds_since(moment: datetime) -> float:
    return (utc_now() - moment).total_seconds()
