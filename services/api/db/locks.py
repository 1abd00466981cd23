"""Locks on rows that tasks work on: taken for a while, told apart by a fencing token.

A task claims, works with no session open, and applies its result only while its token still stands
in the row. A holder that was too slow finds another token there and changes nothing.
"""

import secrets
from datetime import timedelta
from typing import TypeVar

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services.api.db.base import NEVER_LOCKED
from services.api.db.job_tables import Job
from services.api.db.record_tables import Export

LockedRow = TypeVar("LockedRow", Job, Export)


class StaleTokenError(Exception):
    """The lock was taken over by another task; the result of this one is to be dropped."""


def claim(session: Session, table: type[LockedRow], row_id: str, seconds: float) -> str | None:
    """Lock a row for `seconds` by the database's clock; returns the fencing token, None when
    another task holds it.
    """
    token = secrets.token_hex(8)
    # One statement by the database's clock: of two tasks only one finds the lock expired, and the
    # clocks of their hosts, which differ, do not matter.
    statement = (
        update(table)
        .where(table.id == row_id, table.lock_expires_at < func.now())
        .values(lock_token=token, lock_expires_at=func.now() + timedelta(seconds=seconds))
        .returning(table.id)
        .execution_options(synchronize_session=False)
    )
    return token if session.execute(statement).first() is not None else None


def open_locked(session: Session, table: type[LockedRow], row_id: str, token: str) -> LockedRow:
    """The row, locked in the transaction, its lock given back on commit; StaleTokenError when the
    token is replaced.
    """
    statement = select(table).where(table.id == row_id, table.lock_token == token).with_for_update()
    # The session may hold the row as it was before the work; what stands in the database counts.
    row = session.execute(
        statement, execution_options={"populate_existing": True}
    ).scalar_one_or_none()
    if row is None:
        raise StaleTokenError(f"{table.__tablename__} {row_id}: the lock was taken over")
    # Given back in the transaction of the result: after a crash the lock expires, and the next task
    # repeats the work.
    row.lock_token = ""
    row.lock_expires_at = NEVER_LOCKED
    return row
