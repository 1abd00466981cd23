"""How often a caller may ask: a bucket that fills at a constant rate."""

from threading import Lock
from typing import Final

_BURST_S: Final = 2.0
"""Seconds of its rate that a caller may spend at once."""
_MAX_CALLERS: Final = 10_000


class RateLimits:
    """One bucket per caller, in this process."""

    def __init__(self, per_second: float) -> None:
        self._rate, self._capacity = per_second, max(1.0, per_second * _BURST_S)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def wait_s(self, caller: str, now: float) -> float:
        """0 when the caller may ask now (and then it did), else the seconds until it may; `now` in
        seconds.
        """
        with self._lock:
            if len(self._buckets) > _MAX_CALLERS:
                self._buckets.clear()
            level, seen = self._buckets.get(caller, (self._capacity, now))
            level = min(self._capacity, level + (now - seen) * self._rate)
            if level < 1.0:
                return (1.0 - level) / self._rate
            self._buckets[caller] = (level - 1.0, now)
            return 0.0
