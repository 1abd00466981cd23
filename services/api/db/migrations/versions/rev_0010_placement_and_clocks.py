"""Why a job cannot be placed, and the clocks of processes."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns that older releases ignore."""
    op.add_column("jobs", sa.Column("waiting_reason", sa.Text(), nullable=True))
    op.add_column("heartbeats", sa.Column("clock_skew_s", sa.Float(53), nullable=True))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("heartbeats", "clock_skew_s")
    op.drop_column("jobs", "waiting_reason")
