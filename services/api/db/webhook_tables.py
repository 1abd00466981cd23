"""Tables of who is told about jobs, and what is still to be told."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from services.api.db.base import Base, Created


class Webhook(Created, Base):
    """An address that wants to know what becomes of a project's jobs."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    """services.api.domain.webhooks.WebhookEvent"""
    secret: Mapped[str]
    """What deliveries are signed with; kept as it is, because both sides compute the signature."""


class Delivery(Created, Base):
    """One message to one webhook."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str]
    event: Mapped[str]
    body: Mapped[str]
    """JSON, as it is signed and sent."""
    tries: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]
    """When it is to be tried next; None once it was taken or given up."""
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    """Why the newest try failed."""
