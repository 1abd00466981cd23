"""Whether a caller still wants its answers; the comparisons of one call share one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.reward.process import Worker, WorkerLostError


class Cancellation:
    """`cancel` may be called from any thread, more than once, and after the call has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Let no further comparison begin, and interrupt those that run: their workers are free at once."""
        with self._lock:
            self._cancelled = True
            for worker in self._workers.values():
                worker.interrupt()

    @contextmanager
    def covers(self, worker: Worker) -> Iterator[None]:
        """While the worker works for this caller; raises WorkerLostError when it was cancelled before."""
        with self._lock:
            if self._cancelled:
                raise WorkerLostError
            self._workers[worker.pid] = worker
        try:
            yield
        finally:
            with self._lock:
                del self._workers[worker.pid]
