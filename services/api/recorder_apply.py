"""Applies a learner's events to the tables: each once, in the order of their numbers.

The scheduler applies what it fetched with the same function, so the two may race: the job's row is locked while
events are applied, and everything up to the attempt's `last_event_seq` counts as applied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.api.db.base import utc_now
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import append_numbered_event, lock_job
from services.api.db.record_tables import Checkpoint, Evaluation, Metric, TrajectoryGroup
from services.api.domain.progress import Progress, advance
from services.api.domain.storable import storable
from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.ids import new_id
from services.common.telemetry.logs import get_logger

log = get_logger()


@dataclass(frozen=True)
class Applied:
    """What became of a batch."""

    last_seq: int
    """Every event up to here is applied."""
    gap: bool
    """Whether events of the batch were left out because earlier ones are missing."""


def apply_events(session: Session, job_id: str, attempt_number: int, events: Sequence[Event]) -> Applied:
    """Apply the events of one attempt that follow what is applied already, without a gap; duplicates do nothing.

    Raises PlatformError("not_found") for a job or attempt that the database does not know.
    """
    job = lock_job(session, job_id)
    attempt = _attempt(session, job_id, attempt_number)
    ahead = sorted({event.seq: event for event in events if event.seq > attempt.last_event_seq}.items())
    batch = [event for offset, (seq, event) in enumerate(ahead, 1) if seq == attempt.last_event_seq + offset]
    with session.no_autoflush:  # the job's row is written once, not once per event
        for event in batch:
            _apply(session, job, attempt, event)
    attempt.last_event_seq += len(batch)
    if batch and _is_current(job, attempt):
        job.heard_at = utc_now()
    return Applied(attempt.last_event_seq, gap=len(batch) < len(ahead))


def _attempt(session: Session, job_id: str, number: int) -> Attempt:
    attempt = session.scalar(select(Attempt).where(Attempt.job_id == job_id, Attempt.number == number))
    if attempt is None:
        raise PlatformError(
            "not_found", f"Events of attempt {number} of job {job_id} came, but there is no such attempt."
        )
    return attempt


def _apply(session: Session, job: Job, attempt: Attempt, event: Event) -> None:
    data: dict[str, Any] = storable(event.data)
    time = datetime.fromtimestamp(event.time, UTC)
    append_numbered_event(
        session, job, event.type.value, _shown(event.type, data), attempt=attempt.number, seq=event.seq, time=time
    )
    handler = _HANDLERS.get(event.type)
    if handler is None:
        return
    try:
        handler(session, job, attempt, event, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The fact is kept as an event; only what was to be read from it is missing.
        log.exception("event not understood", job_id=job.id, attempt=attempt.number, seq=event.seq, type=event.type)
        append_numbered_event(
            session, job, EventType.LOG, _misunderstood(event, error), attempt=attempt.number, seq=None, time=utc_now()
        )


def _shown(kind: EventType, data: dict[str, Any]) -> dict[str, Any]:
    """The event's data as listed; trajectories are in a table of their own and too large to be said twice."""
    if kind is not EventType.TRAJECTORIES or not isinstance(data.get("group"), dict):
        return data
    return {
        **{name: data.get(name) for name in ("step", "purpose", "disposition")},
        "group_id": data["group"].get("group_id"),
    }


def _misunderstood(event: Event, error: Exception) -> dict[str, Any]:
    message = f"Event {event.seq} ({event.type.value}) could not be recorded in full: {type(error).__name__}: {error}"
    return {"level": "error", "code": "internal", "message": message}


def _is_current(job: Job, attempt: Attempt) -> bool:
    """Whether what the attempt says still describes the job; late events of an ended one do not."""
    return attempt.number == job.attempt and attempt.ended_at is None


def _phase(_session: Session, job: Job, attempt: Attempt, _event: Event, data: dict[str, Any]) -> None:
    if _is_current(job, attempt):
        job.phase, job.stage, job.learner_waiting_for = data["phase"], data["stage"], data.get("waiting_for")


def _progress(_session: Session, job: Job, attempt: Attempt, event: Event, data: dict[str, Any]) -> None:
    previous = None if job.progress is None else Progress(**job.progress)
    if _is_current(job, attempt):
        job.progress = advance(previous, data, attempt.number, event.time).to_json()


def _metrics(session: Session, job: Job, attempt: Attempt, _event: Event, data: dict[str, Any]) -> None:
    values = {name: float(value) for name, value in data["values"].items() if value is not None}
    rows = [
        {"job_id": job.id, "attempt": attempt.number, "name": name, "step": int(data["step"]), "value": value}
        for name, value in values.items()
    ]
    if not rows:
        return
    session.execute(_STORE_METRIC, rows)
    if _is_current(job, attempt):
        job.latest_metrics = {**job.latest_metrics, **values}


_METRIC: Final = insert(Metric)
_STORE_METRIC: Final = _METRIC.on_conflict_do_update(
    index_elements=[Metric.job_id, Metric.name, Metric.attempt, Metric.step], set_={"value": _METRIC.excluded.value}
)


def _checkpoint(session: Session, job: Job, attempt: Attempt, event: Event, data: dict[str, Any]) -> None:
    row = {
        "attempt": attempt.number,
        "step": int(data["step"]),
        "stage": str(data["stage"]),
        "weight_version": int(data["weight_version"]),
        "weight_digest": str(data["weight_digest"]),
        "num_bytes": int(data["bytes"]),
        "created_at": datetime.fromtimestamp(event.time, UTC),
        "deleted_at": None,
    }
    statement = insert(Checkpoint).values(id=new_id("ckpt"), job_id=job.id, path=str(data["path"]), **row)
    session.execute(statement.on_conflict_do_update(index_elements=[Checkpoint.job_id, Checkpoint.path], set_=row))
    session.execute(
        update(Checkpoint)
        .where(Checkpoint.job_id == job.id, Checkpoint.path.in_([str(path) for path in data.get("deleted", ())]))
        .values(deleted_at=func.now())
        .execution_options(synchronize_session=False)
    )


def _trajectories(session: Session, job: Job, attempt: Attempt, event: Event, data: dict[str, Any]) -> None:
    group = data["group"]
    verdicts = [trajectory.get("verdict") for trajectory in group["trajectories"]]
    stated = data.get("rewards")
    sums = [sum(verdict["rewards"].values()) for verdict in verdicts if verdict and verdict["rewards"]]
    rewards = sums if stated is None else [reward for reward in stated if reward is not None]
    row = {
        "job_id": job.id,
        "attempt": attempt.number,
        "step": int(data["step"]),
        "purpose": str(data["purpose"]),
        "disposition": str(data["disposition"]),
        "outcomes": [verdict["outcome"] if verdict else "ungraded" for verdict in verdicts],
        "max_reward": max(rewards, default=None),
        "payload": data,
        "created_at": datetime.fromtimestamp(event.time, UTC),
    }
    statement = insert(TrajectoryGroup).values(group_id=str(group["group_id"]), **row)
    session.execute(statement.on_conflict_do_update(index_elements=[TrajectoryGroup.group_id], set_=row))


def _evaluation(session: Session, job: Job, attempt: Attempt, event: Event, data: dict[str, Any]) -> None:
    session.add(
        Evaluation(
            job_id=job.id,
            attempt=attempt.number,
            seq=event.seq,
            step=int(data["step"]),
            stage=str(data["stage"]),
            dataset=str(data["dataset"]),
            results=dict(data["results"]),
            created_at=datetime.fromtimestamp(event.time, UTC),
        )
    )


def _certificate(_session: Session, _job: Job, attempt: Attempt, _event: Event, data: dict[str, Any]) -> None:
    attempt.resumed_from = int(data["resumed_from"])
    attempt.certificate = data


_HANDLERS: Final[Mapping[EventType, Callable[[Session, Job, Attempt, Event, dict[str, Any]], None]]] = {
    EventType.PHASE: _phase,
    EventType.PROGRESS: _progress,
    EventType.METRICS: _metrics,
    EventType.CHECKPOINT: _checkpoint,
    EventType.TRAJECTORIES: _trajectories,
    EventType.EVALUATION: _evaluation,
    EventType.CERTIFICATE: _certificate,
}
