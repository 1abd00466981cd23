"""Types and columns that all tables share."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Float, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.api.db.clock import utc_now
from services.api.domain.failure import Failure

NEVER_LOCKED = datetime(1970, 1, 1, tzinfo=UTC)
"""Expiry of a lock that is not held."""


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy, never altered
        str: Text,
        int: BigInteger,
        float: Float(53),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB(none_as_null=True),
        dict[str, float]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
    }


class Failable:
    """A row of something that may fail, with the reason."""

    error_code: Mapped[str | None]
    error_message: Mapped[str | None]

    @property
    def error(self) -> Failure | None:
        """Why it failed, if it did."""
        if self.error_code is None:
            return None
        return Failure(self.error_code, self.error_message or "")


class Created:
    """A row that knows when it was made."""

    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Lockable:
    """A row that one task at a time may work on; see services.api.db.locks."""

    lock_token: Mapped[str] = mapped_column(default="")
    """Fencing token of the last holder."""
    lock_expires_at: Mapped[datetime] = mapped_column(
        default=NEVER_LOCKED, server_default=func.to_timestamp(0)
    )
