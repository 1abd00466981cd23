"""Memory of this process and everything it started, sampled while something runs."""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Self

import psutil

_INTERVAL_S: Final = 0.5


class PeakMemory:
    """Samples while the context is open; `peak_bytes` is the largest sum seen.

    The sum is of proportional set sizes: a page that n processes share counts 1/n in each, so
    nothing is counted twice, shared libraries and PostgreSQL's buffers included. Peaks shorter than
    half a second can be missed.
    """

    def __init__(
        self, measure: Callable[[], int] | None = None, *, interval_s: float = _INTERVAL_S
    ) -> None:
        """`measure` returns the bytes in use now; None measures this process and its descendants."""
        self.peak_bytes = 0
        self._measure = measure or partial(tree_bytes, os.getpid())
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.peak_bytes = max(self.peak_bytes, self._measure())


def tree_bytes(pid: int) -> int:
    """Proportional set size of a process and all its descendants."""
    root = psutil.Process(pid)
    return sum(_bytes(process) for process in (root, *root.children(recursive=True)))


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        # Ended meanwhile, or PostgreSQL's (another account's) when we may not look: counted by what
        # is visible.
        return 0
