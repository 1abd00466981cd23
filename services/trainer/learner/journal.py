"""The journal: every event of an attempt, numbered from 1, in a file next to the checkpoints; and the
reporter, which writes phase, metrics and times to it.

The file is authoritative; the Redis stream delivers events to the recorder quickly. Line n of
`journal/attempt-0001.jsonl` is event n, so a reader that misses events asks for the lines after the
last one it has.
"""

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

import structlog

from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.job_metrics import JobMetric, find_metric

DEFAULT_LIMIT: Final = 1000
_MAX_RESPONSE_BYTES: Final = 32 << 20
"""Half of what a message may hold."""
_PIECE_BYTES: Final = 1 << 16
_PREFIX_BYTES: Final = 1 << 12
_SEQ: Final = re.compile(rb'"seq":(\d+)')
_RETRY_AFTER_S: Final = 5.0

log = structlog.get_logger()


class EventSink(Protocol):
    """Where events are sent in addition to the file; services.common.streams.EventQueue."""

    def send(self, event: Event) -> None:
        """Raises PlatformError `queue_unavailable`."""


class Journal:
    """The one writer of an attempt's events."""

    def __init__(
        self,
        job_dir: Path,
        job_id: str,
        attempt: int,
        sink: EventSink,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the file; raises PlatformError `stale_attempt` when the attempt has one already."""
        self._job_id, self._attempt, self._sink = job_id, attempt, sink
        self._clock, self._monotonic = clock, monotonic
        self._seq = 0
        self._send_after = 0.0
        path = journal_path(job_dir, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Exclusive creation is the fence: a second learner of the same attempt fails here.
        try:
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError:
            raise PlatformError(
                "stale_attempt",
                f"Cannot start attempt {attempt} of {job_id}: {path} exists, so it was started before. "
                "An attempt runs once.",
            ) from None

    @property
    def last_seq(self) -> int:
        """Number of the last event; 0 before the first."""
        return self._seq

    def emit(self, kind: EventType, data: dict[str, Any]) -> None:
        """Write one event to the file, then send it; a stream that cannot be reached costs a
        warning, not the job.
        """
        self._seq += 1
        event = Event(
            job_id=self._job_id,
            attempt=self._attempt,
            seq=self._seq,
            type=kind,
            time=self._clock(),
            data=data,
        )
        # File first: an event that only the stream had would be lost with Redis.
        self._file.write(event.model_dump_json() + "\n")
        self._file.flush()
        self._send(event)

    def say(
        self, level: Literal["info", "warning", "error"], code: str, message: str, **fields: Any
    ) -> None:
        """Emit a LOG event, and write the same line to the process log."""
        say = {"info": log.info, "warning": log.warning, "error": log.error}[level]
        say(message, code=code, **fields)
        self.emit(EventType.LOG, {"level": level, "code": code, "message": message, **fields})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _send(self, event: Event) -> None:
        # While the stream cannot be reached each send may wait for a connection; one try every few seconds is
        # enough, the recorder fetches the rest.
        if self._monotonic() < self._send_after:
            return
        try:
            self._sink.send(event)
        except PlatformError as error:
            self._send_after = self._monotonic() + _RETRY_AFTER_S
            log.warning(
                "event not sent; it stays in the journal", seq=event.seq, reason=error.message
            )


class UnregisteredMetricWarning(UserWarning):
    """A metric is reported under a name that services/common/job_metrics.py does not describe."""


class Reporter:
    """Phase, progress, metrics and times of an attempt, as events."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.stage = ""
        self._phase: tuple[str, str, str | None] | None = None
        self._seconds: dict[JobMetric, float] = {}
        self._refused: set[str] = set()
        self._reported: tuple[int, dict[str, float]] = (0, {})
        """Newest step that was reported, and its metrics."""

    def phase(self, phase: str, waiting_for: str | None = None) -> None:
        """Report the current phase, once per change."""
        current = (phase, self.stage, waiting_for)
        if current != self._phase:
            self._phase = current
            self.journal.emit(
                EventType.PHASE, {"phase": phase, "stage": self.stage, "waiting_for": waiting_for}
            )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Report the values, with the times measured since the last call.

        A name that is not registered is left out, and the job's events have an error that names it:
        a value that no chart, alert or document explains is a bug, but a training job must not fail
        for it after hours. The warning makes the same bug an error in tests, where warnings are
        errors.
        """
        times, self._seconds = self._seconds, {}
        registered = {name: value for name, value in values.items() if find_metric(name)}
        known = self._reported[1] if self._reported[0] == step else {}
        self._reported = step, {**known, **registered}
        self.journal.emit(EventType.METRICS, {"step": step, "values": {**registered, **times}})
        self._report_unregistered(values.keys() - registered.keys() - self._refused)

    def read_value(self, step: int, metric: str) -> float | None:
        """Return the value of a metric that was reported for the newest step; None without one."""
        return self._reported[1].get(metric) if self._reported[0] == step else None

    @contextmanager
    def record_time(self, metric: JobMetric) -> Iterator[None]:
        """Add the wall time of the block to a metric in seconds."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[metric] = self.seconds(metric) + time.monotonic() - started

    def seconds(self, metric: JobMetric) -> float:
        """Return the time measured for a metric since the last `metrics`."""
        return self._seconds.get(metric, 0.0)

    def _report_unregistered(self, names: Iterable[str]) -> None:
        """Report each name once."""
        for name in sorted(names):
            self._refused.add(name)
            message = (
                f"Cannot report metric {name!r}: it is not registered in services/common/job_metrics.py. "
                "Its values are left out. Register it with its unit and meaning."
            )
            self.journal.say("error", "unregistered_metric", message, metric=name)
            warnings.warn(message, UnregisteredMetricWarning, stacklevel=3)


def journal_path(job_dir: Path, attempt: int) -> Path:
    """File of an attempt's events."""
    return job_dir / "journal" / f"attempt-{attempt:04d}.jsonl"


def last_seq(job_dir: Path, attempt: int) -> int:
    """Number of the last whole event of an attempt; 0 when there is none."""
    path = journal_path(job_dir, attempt)
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = _last_newline(file, path.stat().st_size)
        if end < 0:
            return 0
        file.seek(_last_newline(file, end) + 1)
        return _seq_of(file.read(_PREFIX_BYTES))


def has_event(
    job_dir: Path, attempts: Iterable[int], kind: EventType, step: int | None = None
) -> bool:
    """Whether a journal of the attempts has an event of this type, and of this global step where
    one is given.
    """
    paths = (journal_path(job_dir, attempt) for attempt in attempts)
    return any(_has_event(path, kind, step) for path in paths if path.exists())


def _has_event(path: Path, kind: EventType, step: int | None) -> bool:
    # Most lines are trajectories: only those of the type are parsed.
    mark = f'"type":"{kind.value}"'.encode()
    with path.open("rb") as file:
        lines = (line for line in file if mark in line[:_PREFIX_BYTES] and line.endswith(b"\n"))
        events = map(Event.model_validate_json, lines)
        return any(event.type is kind and step in (None, event.data["step"]) for event in events)


def read_events(job_dir: Path, attempt: int, after_seq: int, limit: int) -> list[str]:
    """JSON of the events after `after_seq`, in order: at most `limit` (0 takes 1000), and about 32
    MiB.

    A line that is still being written is left for the next call. An attempt without a journal has
    no events.
    """
    path = journal_path(job_dir, attempt)
    if not path.exists():
        return []
    events: list[str] = []
    free = _MAX_RESPONSE_BYTES
    with path.open("rb") as file:
        file.seek(_offset_after(file, path.stat().st_size, after_seq))
        for line in islice(file, limit or DEFAULT_LIMIT):
            free -= len(line)
            if not line.endswith(b"\n") or (events and free < 0):
                break
            events.append(line.decode("utf-8").rstrip("\n"))
    return events


def _offset_after(file: BinaryIO, size: int, after_seq: int) -> int:
    """Where the first event beyond `after_seq` begins: found by bisection, journals grow to
    gigabytes.
    """
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        start = _last_newline(file, middle) + 1
        file.seek(start)
        line = file.readline()
        if not line.endswith(b"\n") or _seq_of(line) > after_seq:
            high = start
        else:
            low = start + len(line)
    return low


def _last_newline(file: BinaryIO, before: int) -> int:
    """Offset of the last newline before an offset; -1 when there is none."""
    while before > 0:
        start = max(0, before - _PIECE_BYTES)
        file.seek(start)
        found = file.read(before - start).rfind(b"\n")
        if found >= 0:
            return start + found
        before = start
    return -1


def _seq_of(line: bytes) -> int:
    """`seq` stands before `data`, so the first one found is the event's own."""
    match = _SEQ.search(line[:_PREFIX_BYTES])
    if match is None:
        raise PlatformError(
            "internal", f"Cannot read the journal: this line has no number: {line[:80]!r}."
        )
    return int(match[1])
