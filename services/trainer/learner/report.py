"""What an attempt says about itself while it runs: phase, progress, metrics and times, as events."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.events import EventType
from services.trainer.learner.journal import Journal


class Reporter:
    """Phase, progress, metrics and times of an attempt, as events."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.stage = ""
        self._phase: tuple[str, str, str | None] | None = None
        self._seconds: dict[str, float] = {}

    def phase(self, phase: str, waiting_for: str | None = None) -> None:
        """Say what is being done, once per change."""
        current = (phase, self.stage, waiting_for)
        if current != self._phase:
            self._phase = current
            self.journal.emit(
                EventType.PHASE, {"phase": phase, "stage": self.stage, "waiting_for": waiting_for}
            )

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """The values, with the times measured since the last call."""
        times, self._seconds = self._seconds, {}
        named = {f"time/{name}_s": seconds for name, seconds in times.items()}
        self.journal.emit(EventType.METRICS, {"step": step, "values": {**values, **named}})

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's wall time to `time/<name>_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

    def seconds(self, name: str) -> float:
        """Time measured under a name since the last `metrics`."""
        return self._seconds.get(name, 0.0)
