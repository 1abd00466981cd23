"""What the scheduler's worker counts, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Histogram

from services.common.telemetry.metrics import new_registry

_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class SchedulerMetrics:
    """Counters of one worker process."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._tasks = Counter(
            "dirl_scheduler_tasks",
            "Tasks done, by outcome: done or failed.",
            ["task", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "dirl_scheduler_task_seconds",
            "Seconds of one task.",
            ["task"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    @contextmanager
    def observed(self, task: str) -> Iterator[None]:
        """Count and time the block; what it raises counts as failed and goes on."""
        with self._seconds.labels(task).time():
            try:
                yield
            except BaseException:
                self._tasks.labels(task, "failed").inc()
                raise
        self._tasks.labels(task, "done").inc()
