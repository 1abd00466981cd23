"""What processes without a port say of themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Four columns."""
    op.add_column("heartbeats", sa.Column("version", sa.Text()))
    op.add_column("heartbeats", sa.Column("rss_bytes", sa.BigInteger()))
    op.add_column("heartbeats", sa.Column("error", sa.Text()))
    op.add_column("heartbeats", sa.Column("error_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Without them."""
    for column in ("version", "rss_bytes", "error", "error_at"):
        op.drop_column("heartbeats", column)
