"""Signs of life of the processes that listen on no port."""

import time
from datetime import timedelta
from typing import Any, Final

from psutil import Process
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.api.db.clock import CLOCK
from services.api.db.job_tables import Heartbeat
from services.common.release import release
from services.common.telemetry.last_error import last_error

LATE: Final = timedelta(seconds=15)
"""A process that was not seen for so long does not work."""


def beat(session: Session, name: str) -> None:
    """Say that this process works, which release it runs, its resident bytes, how far its host's
    clock is ahead of the database's, and the last error that it logged.
    """
    sent_at = time.monotonic()
    now = session.scalars(select(func.extract("epoch", func.clock_timestamp()))).one()
    CLOCK.set(float(now), sent_at, time.monotonic())
    said: dict[str, Any] = {
        "seen_at": func.now(),
        "version": release(),
        "rss_bytes": Process().memory_info().rss,
        "clock_skew_s": CLOCK.skew_s(),
    }
    if (error := last_error()) is not None:
        said |= {"error": error.message, "error_at": error.at}
    statement = insert(Heartbeat).values(name=name, **said)
    session.execute(statement.on_conflict_do_update(index_elements=[Heartbeat.name], set_=said))


def last_beats(session: Session) -> dict[str, Heartbeat]:
    """The last sign of each process."""
    return {beat.name: beat for beat in session.scalars(select(Heartbeat))}
