"""Reporter: the phase, progress, metrics and times of a running attempt, as events of its journal."""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from services.common.events import EventType
from services.common.job_metrics import JobMetric, find_metric
from services.trainer.learner.journal import Journal


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
        self.journal.emit(EventType.METRICS, {"step": step, "values": {**registered, **times}})
        self._report_unregistered(values.keys() - registered.keys() - self._refused)

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
