"""The recorder: reads events from Redis and applies them to the database.

Events are acknowledged after the commit, so a crash repeats them, and repeating changes nothing. An
event that comes before its predecessors makes the recorder read the journal; when no trainer
answers, the event is left to the scheduler, which compares what a trainer has journalled with what
is recorded.
"""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import redis
from sqlalchemy.exc import OperationalError

from services.api.db.database import Database
from services.api.db.heartbeats import beat
from services.api.recorder.apply import apply_events
from services.api.recorder.catch_up import JournalReader
from services.common.errors import PlatformError
from services.common.events import Event
from services.common.streams import EventConsumer
from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.logs import get_logger
from services.common.telemetry.metrics import new_registry

_BATCH: Final = 200
_BLOCK_MS: Final = 500
_RETRY_S: Final = 1.0
_HEARTBEAT_S: Final = 5.0

log = get_logger()


class RecorderMetrics:
    """What the recorder counts, for Prometheus."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.events = exported.RECORDER_EVENTS.register(self.registry)
        self.seconds = exported.RECORDER_BATCH_SECONDS.register(self.registry)


class Recorder:
    """One consumer of the events stream."""

    def __init__(self, database: Database, journals: JournalReader, client: redis.Redis) -> None:
        self._database, self._journals, self._redis = database, journals, client
        self.metrics = RecorderMetrics()
        self._next_heartbeat = 0.0

    def run(self, ended: threading.Event) -> None:
        """Record until `ended`; a lost Redis or database is waited for."""
        name = f"{socket.gethostname()}-{os.getpid()}"
        while not ended.is_set():
            try:
                consumer = EventConsumer(self._redis, name)
                while not ended.is_set():
                    self.step(consumer, _BLOCK_MS)
            except PlatformError as error:
                _wait("events not read", error.message, ended)
            except OperationalError as error:
                _wait("events not recorded", str(error.orig), ended)

    def step(self, consumer: EventConsumer, block_ms: int) -> int:
        """Take a batch, record it, acknowledge it; returns its size."""
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
            with self._database.begin() as session:
                beat(session, "recorder")
        leased = consumer.take(_BATCH, block_ms)
        groups: dict[tuple[str, int], list[Event]] = defaultdict(list)
        for item in leased:
            groups[item.value.job_id, item.value.attempt].append(item.value)
        for (job_id, attempt), events in groups.items():
            with self.metrics.seconds.time():
                self._record(job_id, attempt, events)
        # After the commits: a crash repeats events, and a repeated event changes nothing.
        consumer.ack([item.entry_id for item in leased])
        return len(leased)

    def _record(self, job_id: str, attempt: int, events: Sequence[Event]) -> None:
        try:
            with self._database.begin() as session:
                applied = apply_events(session, job_id, attempt, events)
            self.metrics.events.inc(len(events))
        except PlatformError as error:
            log.warning(
                "events dropped",
                job_id=job_id,
                attempt=attempt,
                count=len(events),
                reason=error.message,
            )
            return
        if applied.gap:
            log.info(
                "gap in events",
                job_id=job_id,
                attempt=attempt,
                recorded=applied.last_seq,
                next=events[0].seq,
            )
            self._journals.catch_up(job_id, attempt)


def _wait(what: str, reason: str, ended: threading.Event) -> None:
    log.error(what, reason=reason)
    ended.wait(_RETRY_S)
