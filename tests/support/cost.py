"""Whether the cost of a function grows linearly, whatever else the machine does."""

import time
from collections.abc import Callable
from typing import Final

_TRIES: Final = 8
_MAX_GROWTH: Final = 2.5
_NEGLIGIBLE_S: Final = 0.002


def grows_linearly(run: Callable[[str], object], short: str, double: str) -> bool:
    """Whether twice the text costs at most 2.5 times the CPU time, or next to nothing.

    The least of several times is compared, because a busy machine adds time but takes none away.
    """
    once = twice = float("inf")
    for _ in range(_TRIES):
        twice = min(twice, cpu_seconds(run, double))
        if twice < _NEGLIGIBLE_S:
            return True
        once = min(once, cpu_seconds(run, short))
        if twice <= _MAX_GROWTH * once:
            return True
    return False


def cpu_seconds(run: Callable[[str], object], text: str) -> float:
    """Return the CPU time of this thread that a call takes."""
    started = time.thread_time()
    run(text)
    return time.thread_time() - started
