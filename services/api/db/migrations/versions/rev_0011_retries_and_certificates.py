"""When and why the next attempt waits, and a job's worst certificate."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns of jobs."""
    op.add_column("jobs", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("retry_reason", sa.Text(), nullable=True))
    op.add_column(
        "jobs", sa.Column("certificate", postgresql.JSONB(none_as_null=True), nullable=True)
    )


def downgrade() -> None:
    """Without them."""
    for name in ("certificate", "retry_reason", "retry_at"):
        op.drop_column("jobs", name)
