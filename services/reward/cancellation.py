"""Cancellation of a gRPC call, shared by all comparisons and graders of that call."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Interruptible(Protocol):
    """Work in another process that can be aborted."""

    def interrupt(self) -> None:
        """Abort the work, so that its waiting thread sees it as lost. May be called from any thread."""


class Cancellation:
    """`cancel` may be called from any thread, repeatedly, and after the call has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Interruptible] = {}
        self._cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has hung up or its deadline has passed."""
        return self._cancelled

    def cancel(self) -> None:
        """Start no further work and interrupt the running work, which frees its processes at once."""
        with self._lock:
            self._cancelled = True
            for work in self._running.values():
                work.interrupt()

    @contextmanager
    def covers(self, work: Interruptible) -> Iterator[None]:
        """Register the work of this call for the duration of the block.

        Interrupts it at once if the call is already cancelled.
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
