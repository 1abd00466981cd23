"""What happens to a job's row: transitions, events, attempts. Every change is made under the row's
lock.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job, ServiceLease
from services.api.db.record_tables import Checkpoint, JobEvent
from services.api.db.webhooks import announce
from services.api.domain.failure import make_not_found
from services.api.domain.job_state import JobState, check_transition
from services.api.domain.placement import Share
from services.api.domain.webhooks import WebhookEvent
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.ids import new_id

STATE_EVENT = "state"
"""{from: state, to: state, error: {code, message} | None}"""
WAITING_EVENT = "waiting"
"""{waiting_for: trainer | rollout | reward | None, reason: why it cannot be placed at all | None}"""
ATTEMPT_EVENT = "attempt"
"""{state: attempt state, trainer: host:port, error: {code, message} | None}"""
RETRY_EVENT = "retry"
"""{after_s: seconds until the next attempt, error: {code, message} of the last one}"""

_SHARES_KEPT: Final = timedelta(days=7)
_RECENT_EVENTS: Final = 1000
"""Events among which a recent one is looked for: a job may have hundreds of thousands."""
_ANNOUNCED: Final = {
    JobState.SUCCEEDED: WebhookEvent.SUCCEEDED,
    JobState.FAILED: WebhookEvent.FAILED,
    JobState.CANCELLED: WebhookEvent.CANCELLED,
    JobState.PAUSED: WebhookEvent.PAUSED,
}


def get_job(session: Session, job_id: str) -> Job:
    """The job; raises PlatformError("not_found")."""
    job = session.get(Job, job_id)
    if job is None:
        raise make_not_found("job", job_id, "GET /v1/jobs")
    return job


def get_checkpoint(session: Session, checkpoint_id: str, *, lock: bool = False) -> Checkpoint:
    """A checkpoint, which may be removed from the disk; raises PlatformError("not_found")."""
    row = session.get(Checkpoint, checkpoint_id, with_for_update=lock)
    if row is None:
        raise make_not_found("checkpoint", checkpoint_id, "GET /v1/jobs/{id}/checkpoints")
    return row


def find_checkpoint(session: Session, job_id: str, checkpoint_id: str) -> Checkpoint:
    """A checkpoint of the job that still exists; raises PlatformError "not_found" or "conflict"."""
    row = get_checkpoint(session, checkpoint_id)
    if row.deleted_at is not None:
        raise PlatformError(
            "not_found",
            f"Checkpoint {checkpoint_id} was removed.",
            hint="GET /v1/jobs/{id}/checkpoints lists a job's.",
        )
    if row.job_id != job_id:
        raise PlatformError(
            "conflict", f"Checkpoint {row.id} belongs to {row.job_id}, not to {job_id}."
        )
    return row


def mentions(word: str) -> ColumnElement[bool]:
    """Whether a job has the word, in either case, in id, suffix, model, method, state or metadata."""
    spec = (Job.spec["suffix"].astext, Job.spec["model"].astext)
    return func.concat_ws(
        " ", Job.id, *spec, Job.method, Job.state, cast(Job.labels, Text)
    ).icontains(word, autoescape=True)


def lock_job(session: Session, job_id: str) -> Job:
    """The job as it is now, its row locked until the transaction ends; raises
    PlatformError("not_found").
    """
    statement = select(Job).where(Job.id == job_id).with_for_update()
    job = session.execute(
        statement, execution_options={"populate_existing": True}
    ).scalar_one_or_none()
    return job if job is not None else get_job(session, job_id)


def append_event(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    """Record an event of the control plane; the job's row must be locked."""
    append_numbered_event(session, job, kind, data, attempt=job.attempt, seq=None, time=utc_now())


def append_numbered_event(
    session: Session,
    job: Job,
    kind: str,
    data: dict[str, Any],
    *,
    attempt: int,
    seq: int | None,
    time: datetime,
) -> None:
    """Record an event; the job's row must be locked, so that positions are dense and in commit order."""
    job.event_count += 1
    session.add(
        JobEvent(
            job_id=job.id,
            position=job.event_count,
            attempt=attempt,
            seq=seq,
            type=kind,
            time=time,
            data=data,
        )
    )


def find_recent_log(session: Session, job: Job, code: str, age: timedelta) -> str | None:
    """Message of the newest log event with the code that is not older than `age`."""
    message = JobEvent.data["message"].astext
    return session.scalar(
        select(message)
        .where(
            JobEvent.job_id == job.id,
            JobEvent.position > job.event_count - _RECENT_EVENTS,
            JobEvent.type == EventType.LOG,
            JobEvent.data["code"].astext == code,
            JobEvent.time > func.now() - age,
        )
        .order_by(JobEvent.position.desc())
        .limit(1)
    )


def transition(
    session: Session, job: Job, target: JobState, error: AttemptResult | None = None
) -> None:
    """Move the job; raises PlatformError("illegal_transition"). `error` is why it failed or paused."""
    check_transition(job.id, job.job_state, target)
    data = {"from": job.state, "to": target.value, "error": _to_error_json(error)}
    job.state = target
    if target is JobState.RUNNING and job.started_at is None:
        job.started_at = utc_now()
    if target not in (JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING):
        job.phase = job.learner_waiting_for = job.stalled = job.shortage = None
        set_waiting(session, job, None)
    if target is JobState.QUEUED or error is not None:
        job.error_code = None if error is None else error.error_code
        job.error_message = None if error is None else error.error_message
    if target.is_terminal:
        job.finished_at = utc_now()
        job.result_checkpoint = newest_checkpoint(session, job.id)
    append_event(session, job, STATE_EVENT, data)
    if target in _ANNOUNCED:
        announce(session, job, _ANNOUNCED[target])


def queue_again(session: Session, job: Job) -> None:
    """Queue a job that no learner works on: it resumes from its newest checkpoint, with a fresh retry
    budget.
    """
    transition(session, job, JobState.QUEUED)
    job.excluded_attempts = job.attempt
    job.finished_at = job.result_checkpoint = job.retry_at = job.retry_reason = None


def delay_attempt(session: Session, job: Job, seconds: float, failure: AttemptResult) -> None:
    """Let the next attempt wait, by the clock of the database."""
    job.retry_at = func.now() + timedelta(seconds=seconds)
    job.retry_reason = f"{failure.error_code}: {failure.error_message}"
    append_event(session, job, RETRY_EVENT, {"after_s": seconds, "error": _to_error_json(failure)})


def _to_error_json(error: AttemptResult | None) -> dict[str, str] | None:
    return None if error is None else {"code": error.error_code, "message": error.error_message}


def newest_checkpoint(session: Session, job_id: str) -> str | None:
    """Id of the checkpoint with the most steps that still exists."""
    return session.scalar(
        select(Checkpoint.id)
        .where(Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        .limit(1)
    )


def set_waiting(session: Session, job: Job, service: str | None, reason: str | None = None) -> None:
    """Store which service the job waits for, and why it cannot be placed at all if that is so, with
    an event when it changes.
    """
    if (job.waiting_for, job.waiting_reason) != (service, reason):
        job.waiting_for, job.waiting_reason = service, reason
        append_event(session, job, WAITING_EVENT, {"waiting_for": service, "reason": reason})


def running_attempt(session: Session, job_id: str) -> Attempt | None:
    """The attempt that has not ended, if any."""
    return session.scalar(
        select(Attempt).where(Attempt.job_id == job_id, Attempt.ended_at.is_(None))
    )


def awaiting_placement(session: Session) -> Sequence[Job]:
    """Jobs that wait for services and whose next attempt is due, oldest first."""
    has_attempt = (
        select(Attempt.id).where(Attempt.job_id == Job.id, Attempt.ended_at.is_(None)).exists()
    )
    wanting = Job.state.in_((JobState.QUEUED, JobState.PROVISIONING))
    is_due = Job.retry_at.is_(None) | (Job.retry_at <= func.now())
    return session.scalars(
        select(Job).where(wanting, ~has_attempt, is_due).order_by(Job.created_at, Job.id)
    ).all()


def read_shares(session: Session, owner: InstrumentedAttribute[Any]) -> dict[str, Share]:
    """Services that each owner has had; `owner` is a column of jobs, and "" stands for none.

    Attempts that ended more than a week ago no longer count.
    """
    name = func.coalesce(owner, "")
    statement = (
        select(
            name,
            func.count().filter(Attempt.ended_at.is_(None)),
            func.extract("epoch", func.max(Attempt.created_at)),
        )
        .join(Attempt)
        .where(or_(Attempt.ended_at.is_(None), Attempt.ended_at > func.now() - _SHARES_KEPT))
        .group_by(name)
    )
    return {
        whose: Share(running, float(last)) for whose, running, last in session.execute(statement)
    }


def open_attempt(
    session: Session, job: Job, trainer: str, replicas: Sequence[str]
) -> Attempt | None:
    """Begin the next attempt with these services; None, with nothing changed, when another job has
    one of them.

    The primary key of the leases decides between schedulers that chose the same service at the same
    time.
    """
    number = job.attempt + 1
    kinds = {trainer: "trainer", **dict.fromkeys(replicas, "rollout")}
    rows = [
        {
            "address": address,
            "kind": kind,
            "job_id": job.id,
            "attempt": number,
            "created_at": utc_now(),
        }
        for address, kind in sorted(kinds.items())
    ]
    # A savepoint: when a lease is taken, the others are given back, and the caller's lock on the
    # job stays. The rows are sorted: schedulers that insert them in different orders deadlock.
    with session.begin_nested() as savepoint:
        statement = (
            insert(ServiceLease)
            .values(rows)
            .on_conflict_do_nothing()
            .returning(ServiceLease.address)
        )
        if len(session.execute(statement).all()) < len(rows):
            savepoint.rollback()
            return None
    job.attempt = number
    job.retry_at = job.retry_reason = None
    attempt = Attempt(
        id=new_id("att"),
        job_id=job.id,
        number=number,
        trainer_address=trainer,
        rollout_addresses=list(replicas),
    )
    session.add(attempt)
    if job.job_state is JobState.QUEUED:
        transition(session, job, JobState.PROVISIONING)
    set_waiting(session, job, None)
    append_event(
        session, job, ATTEMPT_EVENT, _to_attempt_json(AttemptState.PROVISIONING, trainer, None)
    )
    return attempt


def close_attempt(session: Session, job: Job, attempt: Attempt, end: AttemptResult) -> int:
    """End an attempt and release its services; return how many failed before it within the
    retry budget.

    The budget starts anew when the user queues the job, and with every attempt that writes a
    checkpoint: trainers that are restarted repeatedly over weeks do not end a job.
    """
    attempt.state = end.state
    attempt.ended_at = utc_now()
    failed = end if end.state is AttemptState.FAILED else None
    if failed is not None:
        attempt.error_code, attempt.error_message = end.error_code, end.error_message
    session.execute(
        delete(ServiceLease).where(
            ServiceLease.job_id == job.id, ServiceLease.attempt == attempt.number
        )
    )
    append_event(
        session, job, ATTEMPT_EVENT, _to_attempt_json(end.state, attempt.trainer_address, failed)
    )
    if session.scalar(
        select(Checkpoint.id).where(
            Checkpoint.job_id == job.id, Checkpoint.attempt == attempt.number
        )
    ):
        job.excluded_attempts = max(job.excluded_attempts, attempt.number - 1)
    earlier = select(func.count()).where(
        Attempt.job_id == job.id,
        Attempt.number > job.excluded_attempts,
        Attempt.number < attempt.number,
        Attempt.state == AttemptState.FAILED,
    )
    return session.scalar(earlier) or 0


def _to_attempt_json(
    state: AttemptState, trainer: str, error: AttemptResult | None
) -> dict[str, Any]:
    return {"state": state.value, "trainer": trainer, "error": _to_error_json(error)}
