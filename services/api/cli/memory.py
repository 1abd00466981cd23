"""Peak memory of this process and its descendants, measured by sampling."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Self

import psutil

_INTERVAL_S: Final = 0.5


class PeakMemory:
    """Samples memory inside the context; `peak_bytes` is the maximum.

    The sum is of proportional set sizes: a page that n processes share counts 1/n in each, so
    no page is counted twice, including shared libraries and the buffers of PostgreSQL. Peaks shorter
    than half a second can be missed.
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
    total = 0
    for process in (root, *root.children(recursive=True)):
        # One that has ended meanwhile, or belongs to another account, as PostgreSQL does, is left
        # out: its shared pages are not counted then.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += int(process.memory_full_info().pss)
    return total
