"""Events for streams of a job, read once for all of them: two hundred streams cost the database as
much as one.

A stream first asks for a job's head, which is read at most a few times a second; only when there is
something behind its position does it ask for events, and streams at the same place share the
answer.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar, get_args

from sqlalchemy import Select, or_, select

from services.api.db.database import Database
from services.api.db.jobs import get_job
from services.api.db.record_tables import JobEvent
from services.api.schemas.records import EventView, Level
from services.common.events import EventType

BATCH: Final = 500
_LEVELS: Final[tuple[Level, ...]] = get_args(Level)
_HEAD_S: Final = 0.25
_MOST_ENTRIES: Final = 256

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Head:
    """How far a job's events go."""

    position: int
    """Of the newest event."""
    is_over: bool
    """Whether the job had ended when this was read, so that no event can follow."""


@dataclass(frozen=True)
class Batch:
    """Some events in order, and where to read on."""

    events: tuple[EventView, ...]
    position: int


@dataclass(frozen=True)
class EventFilter:
    """Which events of a job."""

    types: tuple[str, ...] = ()
    """All when empty."""
    level: Level | None = None
    """Of log events, those of this level or a worse one; other events have none and are not
    affected.
    """

    def of(self, job_id: str) -> Select[JobEvent]:
        """Such events, in no order."""
        statement = select(JobEvent).where(JobEvent.job_id == job_id)
        if self.types:
            statement = statement.where(JobEvent.type.in_(self.types))
        if self.level is not None:
            levels = _LEVELS[_LEVELS.index(self.level) :]
            statement = statement.where(
                or_(JobEvent.type != EventType.LOG, JobEvent.data["level"].astext.in_(levels))
            )
        return statement


EVERYTHING: Final = EventFilter()


class EventFeed:
    """Reads events for all streams of this process; safe to call from several threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = Lock()
        self._heads: OrderedDict[str, tuple[float, Head]] = OrderedDict()
        self._batches: OrderedDict[tuple[str, int, EventFilter, int], Batch] = OrderedDict()

    def head(self, job_id: str) -> Head:
        """At most a quarter of a second old."""
        with self._lock:
            read_at, head = self._heads.get(job_id, (float("-inf"), Head(0, False)))
            if self._clock() - read_at > _HEAD_S:
                # Read under the lock: streams that ask meanwhile wait, and share the answer.
                with self._database.begin() as session:
                    job = get_job(session, job_id)
                    head = Head(job.event_count, job.job_state.is_terminal)
                _keep(self._heads, job_id, (self._clock(), head))
            return head

    def batch(self, job_id: str, position: int, wanted: EventFilter, head: Head) -> Batch:
        """Up to BATCH events behind a position, no further than the head."""
        key = (job_id, position, wanted, head.position)
        with self._lock:
            if key not in self._batches:
                statement = (
                    events_after(job_id, position, wanted)
                    .where(JobEvent.position <= head.position)
                    .limit(BATCH)
                )
                with self._database.begin() as session:
                    rows = session.scalars(statement).all()
                # A filter may leave out the newest events: a batch that is not full reaches the head.
                reached = rows[-1].position if len(rows) == BATCH else head.position
                events = tuple(EventView.model_validate(row) for row in rows)
                _keep(self._batches, key, Batch(events, reached))
            return self._batches[key]


def events_after(job_id: str, position: int, wanted: EventFilter) -> Select[JobEvent]:
    """A job's events behind a position, in order."""
    return wanted.of(job_id).where(JobEvent.position > position).order_by(JobEvent.position)


def events_before(job_id: str, position: int | None, wanted: EventFilter) -> Select[JobEvent]:
    """A job's events ahead of a position, newest first; None is the end."""
    statement = wanted.of(job_id)
    if position is not None:
        statement = statement.where(JobEvent.position < position)
    return statement.order_by(JobEvent.position.desc())


def _keep(cache: "OrderedDict[Key, Value]", key: Key, value: Value) -> None:
    """Remember, and forget the oldest beyond the bound."""
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > _MOST_ENTRIES:
        cache.popitem(last=False)
