"""Runs revisions over the connection that services.api.db.migrate hands in."""

from alembic import context

from services.api.db import job_tables, record_tables, series, webhook_tables  # noqa: F401 - fills the metadata
from services.api.db.base import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
