"""Pages of tables that are listed newest first."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from services.api.db.job_tables import Job
from services.api.db.record_tables import RegisteredModel, StoredFile
from services.common.errors import PlatformError

Row = TypeVar("Row", Job, StoredFile, RegisteredModel)


def newest_first(
    session: Session, table: type[Row], statement: Select[Row], after: str | None, limit: int
) -> Sequence[Row]:
    """Up to limit + 1 rows, so that the caller sees whether there are more; raises for an unknown cursor."""
    if after is not None:
        cursor = session.get(table, after)
        if cursor is None:
            raise PlatformError("not_found", f"after={after!r} names nothing that could be listed.", param="after")
        statement = statement.where(tuple_(table.created_at, table.id) < (cursor.created_at, cursor.id))
    return session.scalars(statement.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)).all()
