"""Priorities, revisions of the spec, forks, jobs that stall."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns of jobs."""
    for name in ("priority", "revision", "forgiven_attempts"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("forked_from", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("heard_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "jobs", sa.Column("stalled", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()))
    )


def downgrade() -> None:
    """The first schema."""
    for name in ("priority", "revision", "forgiven_attempts", "forked_from", "heard_at", "stalled"):
        op.drop_column("jobs", name)
