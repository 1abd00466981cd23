"""The platform's time is the database's. Leases, expiry and silence are decided by it, so that a
host whose clock is wrong, or is corrected, neither ends what others hold nor waits for ever.
"""

import time
from datetime import UTC, datetime
from typing import Final

NOTABLE_SKEW_S: Final = 5.0
"""A difference that a synchronised clock never has."""
_LONGEST_ROUND_TRIP_S: Final = 1.0
"""A reading that took longer says too little; one of them is better than none."""


class DatabaseClock:
    """The database's clock as this process knows it: one reading, and the time since by the monotonic
    clock, which no correction of the host's clock changes.
    """

    def __init__(self) -> None:
        self._reading: tuple[float, float] | None = None
        """Unix seconds of the database, and the monotonic time at which they were true."""

    def set(self, database_time: float, sent_at: float, received_at: float) -> None:
        """Take a reading in Unix seconds; the other two are the monotonic times around it."""
        if self._reading is None or received_at - sent_at < _LONGEST_ROUND_TRIP_S:
            self._reading = (database_time, (sent_at + received_at) / 2)

    def now(self) -> float:
        """Unix seconds; by the host's clock before the first reading."""
        if self._reading is None:
            return time.time()
        database_time, read_at = self._reading
        return database_time + time.monotonic() - read_at

    def skew_s(self) -> float:
        """Seconds by which the host's clock is ahead of the database's."""
        return time.time() - self.now()


CLOCK: Final = DatabaseClock()
"""The clock of this process. Every new connection to the database and every heartbeat reads it."""


def utc_now() -> datetime:
    """The present by the database's clock, aware."""
    return datetime.fromtimestamp(CLOCK.now(), UTC)
