"""Tables of who may do what, and who did what."""

from datetime import datetime

from sqlalchemy import BigInteger, Identity
from sqlalchemy.orm import Mapped, mapped_column

from services.api.db.base import Base, Created
from services.api.db.clock import utc_now


class ApiKey(Created, Base):
    """A key; the secret itself is not stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project: Mapped[str]
    scopes: Mapped[list[str]]
    secret_sha256: Mapped[str] = mapped_column(unique=True)
    """Of 256 random bits, so that neither salt nor a slow hash is needed."""
    hint: Mapped[str]
    """Last characters of the secret, to tell keys apart."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """A request that was to change something."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    time: Mapped[datetime] = mapped_column(default=utc_now)
    key_id: Mapped[str | None]
    """None for a local user without a key."""
    project: Mapped[str]
    method: Mapped[str]
    path: Mapped[str]
    outcome: Mapped[str]
    """done, or the code of the error."""
    request_id: Mapped[str]
