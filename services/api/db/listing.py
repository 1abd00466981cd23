"""Tables listed newest first, page by page."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from services.api.db.access_tables import ApiKey
from services.api.db.job_tables import Job
from services.api.db.record_tables import RegisteredModel, StoredFile
from services.api.db.webhook_tables import Delivery, Webhook
from services.api.domain.access import Caller
from services.common.errors import PlatformError

Row = TypeVar("Row", Job, StoredFile, RegisteredModel, ApiKey, Webhook, Delivery)
Owned = TypeVar("Owned", Job, StoredFile, RegisteredModel)


def owned_by(table: type[Owned], caller: Caller) -> Select[Owned]:
    """The rows that exist for a caller."""
    statement = select(table)
    return statement if caller.is_admin else statement.where(table.project == caller.project)


def newest_first(
    session: Session, table: type[Row], statement: Select[Row], after: str | None, limit: int
) -> Sequence[Row]:
    """Up to limit + 1 rows, so that the caller sees whether there are more; raises for an unknown
    cursor.
    """
    if after is not None:
        cursor = session.get(table, after)
        if cursor is None:
            raise PlatformError(
                "not_found", f"after={after!r} names nothing that could be listed.", param="after"
            )
        statement = statement.where(
            tuple_(table.created_at, table.id) < (cursor.created_at, cursor.id)
        )
    return session.scalars(
        statement.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    ).all()
