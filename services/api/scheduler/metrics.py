"""What the scheduler's worker counts, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.metrics import new_registry


class SchedulerMetrics:
    """Counters of one worker process."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._tasks = exported.SCHEDULER_TASKS.register(self.registry)
        self._seconds = exported.SCHEDULER_TASK_SECONDS.register(self.registry)

    @contextmanager
    def observe(self, task: str) -> Iterator[None]:
        """Count and time the block; an exception counts as failed and is raised again."""
        with self._seconds.labels(task).time():
            try:
                yield
            except BaseException:
                self._tasks.labels(task, "failed").inc()
                raise
        self._tasks.labels(task, "done").inc()
