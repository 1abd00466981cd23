"""Whether a caller still wants its answers; the comparisons and graders of one call share one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Interruptible(Protocol):
    """Somebody's work in another process."""

    def interrupt(self) -> None:
        """Make whoever waits for it see it lost; from any thread."""


class Cancellation:
    """`cancel` may be called from any thread, more than once, and after the call has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Interruptible] = {}
        self._cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Let nothing further begin, and interrupt what runs: its processes are free at once."""
        with self._lock:
            self._cancelled = True
            for work in self._running.values():
                work.interrupt()

    @contextmanager
    def covers(self, work: Interruptible) -> Iterator[None]:
        """While the work is done for this caller; what was cancelled before is interrupted as it
        begins.
        """
        with self._lock:
            self._running[id(work)] = work
            if self._cancelled:
                work.interrupt()
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(work)]
