"""Applies a learner's events to the tables: each once, in the order of their numbers.

The scheduler applies what it fetched with the same function, so the two may race: the job's row is
locked while events are applied, and everything up to the attempt's `last_event_seq` counts as
applied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import append_numbered_event, lock_job
from services.api.db.record_tables import Checkpoint, Evaluation, TrajectoryGroup
from services.api.domain.certificate import worst
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


def apply_events(
    session: Session, job_id: str, attempt_number: int, events: Sequence[Event]
) -> Applied:
    """Apply the events of one attempt that follow what is applied already, without a gap;
    duplicates do nothing.

    Raises PlatformError("not_found") for a job or attempt that the database does not know.
    """
    job = lock_job(session, job_id)
    # Read under the job's lock: the scheduler may apply the same events from the journal meanwhile.
    attempt = _find_attempt(session, job_id, attempt_number)
    ahead = sorted(
        {event.seq: event for event in events if event.seq > attempt.last_event_seq}.items()
    )
    batch = [
        event
        for offset, (seq, event) in enumerate(ahead, 1)
        if seq == attempt.last_event_seq + offset
    ]
    recording = _Recording(session, job, attempt)
    with session.no_autoflush:  # the job's row is written once, not once per event
        for event in batch:
            _apply(recording, event)
        recording.store_metrics()
    attempt.last_event_seq += len(batch)
    if batch and recording.is_current:
        job.last_heartbeat_at = utc_now()
    return Applied(attempt.last_event_seq, gap=len(batch) < len(ahead))


def _find_attempt(session: Session, job_id: str, number: int) -> Attempt:
    attempt = session.scalar(
        select(Attempt).where(Attempt.job_id == job_id, Attempt.number == number)
    )
    if attempt is None:
        raise PlatformError(
            "not_found",
            f"Events of attempt {number} of job {job_id} cannot be recorded: the database has no such attempt.",
        )
    return attempt


@dataclass(frozen=True)
class _Recording:
    """What the events of a batch are applied to."""

    session: Session
    job: Job
    attempt: Attempt
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)
    """Values by name and step, gathered to be stored at once."""

    @property
    def is_current(self) -> bool:
        """Whether what the attempt says still describes the job; late events of an ended one do
        not.
        """
        return self.attempt.number == self.job.attempt and self.attempt.ended_at is None

    def append_event(
        self, kind: str, data: dict[str, Any], seq: int | None, time: datetime
    ) -> None:
        """List a fact among the job's."""
        append_numbered_event(
            self.session, self.job, kind, data, attempt=self.attempt.number, seq=seq, time=time
        )

    def store_metrics(self) -> None:
        """Write what was gathered, in one statement: one for each event takes several times as
        long.
        """
        if not self.metrics:
            return
        names, steps = zip(*self.metrics, strict=True)
        points = {"names": list(names), "steps": list(steps), "values": list(self.metrics.values())}
        self.session.execute(
            _STORE_METRICS, {"job_id": self.job.id, "attempt": self.attempt.number, **points}
        )


_STORE_METRICS: Final = text(
    "INSERT INTO metrics (job_id, attempt, name, step, value) SELECT :job_id, :attempt, point.* "
    "FROM unnest(CAST(:names AS text[]), CAST(:steps AS bigint[]), CAST(:values AS float[])) AS point "
    "ON CONFLICT (job_id, name, attempt, step) DO UPDATE SET value = excluded.value"
)


def _apply(to: _Recording, event: Event) -> None:
    data: dict[str, Any] = storable(event.data)
    to.append_event(
        event.type.value,
        _to_event_data(event.type, data),
        event.seq,
        datetime.fromtimestamp(event.time, UTC),
    )
    handler = _HANDLERS.get(event.type)
    if handler is None:
        return
    try:
        handler(to, event, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The fact is kept as an event; only what was to be read from it is missing.
        about = {
            "job_id": to.job.id,
            "attempt": to.attempt.number,
            "seq": event.seq,
            "type": event.type,
        }
        log.exception("event not understood", **about)
        reason = f"{type(error).__name__}: {error}"
        message = f"Event {event.seq} ({event.type.value}) could not be recorded in full: {reason}"
        fields = {"level": "error", "code": "internal", "message": message}
        to.append_event(EventType.LOG, fields, None, utc_now())


def _to_event_data(kind: EventType, data: dict[str, Any]) -> dict[str, Any]:
    """The event's data as listed; trajectories are in a table of their own and too large to be said
    twice.
    """
    if kind is not EventType.TRAJECTORIES or not isinstance(data.get("group"), dict):
        return data
    return {
        **{name: data.get(name) for name in ("step", "purpose", "disposition")},
        "group_id": data["group"].get("group_id"),
    }


def _apply_phase(to: _Recording, _event: Event, data: dict[str, Any]) -> None:
    if to.is_current:
        to.job.phase, to.job.stage, to.job.learner_waiting_for = (
            data["phase"],
            data["stage"],
            data.get("waiting_for"),
        )


def _apply_progress(to: _Recording, event: Event, data: dict[str, Any]) -> None:
    previous = None if to.job.progress is None else Progress(**to.job.progress)
    if to.is_current:
        to.job.progress = advance(previous, data, to.attempt.number, event.time).to_json()


def _apply_metrics(to: _Recording, _event: Event, data: dict[str, Any]) -> None:
    step = int(data["step"])
    values = {name: float(value) for name, value in data["values"].items() if value is not None}
    to.metrics.update({(name, step): value for name, value in values.items()})
    if to.is_current:
        to.job.latest_metrics = {**to.job.latest_metrics, **values}


def _apply_checkpoint(to: _Recording, event: Event, data: dict[str, Any]) -> None:
    row = {
        # A later attempt may be the first to report one: its writer was killed before it could.
        "attempt": int(data.get("attempt", to.attempt.number)),
        "step": int(data["step"]),
        "stage": str(data["stage"]),
        "weight_version": int(data["weight_version"]),
        "weight_digest": str(data["weight_digest"]),
        "num_bytes": int(data["bytes"]),
        "created_at": datetime.fromtimestamp(event.time, UTC),
        "deleted_at": None,
    }
    statement = insert(Checkpoint).values(
        id=new_id("ckpt"), job_id=to.job.id, path=str(data["path"]), **row
    )
    to.session.execute(
        statement.on_conflict_do_update(
            index_elements=[Checkpoint.job_id, Checkpoint.path], set_=row
        )
    )
    to.session.execute(
        update(Checkpoint)
        .where(
            Checkpoint.job_id == to.job.id,
            Checkpoint.path.in_([str(path) for path in data.get("deleted", ())]),
        )
        .values(deleted_at=func.now())
        .execution_options(synchronize_session=False)
    )


def _apply_trajectories(to: _Recording, event: Event, data: dict[str, Any]) -> None:
    group = data["group"]
    verdicts = [trajectory.get("verdict") for trajectory in group["trajectories"]]
    stated = data.get("rewards")
    sums = [
        sum(verdict["rewards"].values()) for verdict in verdicts if verdict and verdict["rewards"]
    ]
    rewards = sums if stated is None else [reward for reward in stated if reward is not None]
    row = {
        "job_id": to.job.id,
        "attempt": to.attempt.number,
        "step": int(data["step"]),
        "purpose": str(data["purpose"]),
        "disposition": str(data["disposition"]),
        "outcomes": [verdict["outcome"] if verdict else "ungraded" for verdict in verdicts],
        "max_reward": max(rewards, default=None),
        "payload": data,
        "created_at": datetime.fromtimestamp(event.time, UTC),
    }
    statement = insert(TrajectoryGroup).values(group_id=str(group["group_id"]), **row)
    to.session.execute(
        statement.on_conflict_do_update(index_elements=[TrajectoryGroup.group_id], set_=row)
    )


def _apply_evaluation(to: _Recording, event: Event, data: dict[str, Any]) -> None:
    to.session.add(
        Evaluation(
            job_id=to.job.id,
            attempt=to.attempt.number,
            seq=event.seq,
            step=int(data["step"]),
            stage=str(data["stage"]),
            dataset=str(data["dataset"]),
            results=dict(data["results"]),
            created_at=datetime.fromtimestamp(event.time, UTC),
        )
    )


def _apply_certificate(to: _Recording, _event: Event, data: dict[str, Any]) -> None:
    to.attempt.resumed_from = int(data["resumed_from"])
    to.attempt.certificate = worst(to.attempt.certificate, data)
    to.job.certificate = worst(to.job.certificate, data)


_HANDLERS: Final[Mapping[EventType, Callable[[_Recording, Event, dict[str, Any]], None]]] = {
    EventType.PHASE: _apply_phase,
    EventType.PROGRESS: _apply_progress,
    EventType.METRICS: _apply_metrics,
    EventType.CHECKPOINT: _apply_checkpoint,
    EventType.TRAJECTORIES: _apply_trajectories,
    EventType.EVALUATION: _apply_evaluation,
    EventType.CERTIFICATE: _apply_certificate,
}
