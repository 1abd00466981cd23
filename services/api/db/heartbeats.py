"""Signs of life of the processes that listen on no port."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.api.db.base import utc_now
from services.api.db.job_tables import Heartbeat

LATE: Final = timedelta(seconds=15)
"""A process that was not seen for so long does not work."""


def beat(session: Session, name: str) -> None:
    """Say that the process works."""
    now = utc_now()
    statement = insert(Heartbeat).values(name=name, seen_at=now)
    session.execute(statement.on_conflict_do_update(index_elements=[Heartbeat.name], set_={"seen_at": now}))


def last_beats(session: Session) -> dict[str, datetime]:
    """When each process was last seen."""
    return dict(session.execute(select(Heartbeat.name, Heartbeat.seen_at)).all())
