"""What exported models take, and which jobs are short of room."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns."""
    op.add_column(
        "models", sa.Column("num_bytes", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column(
        "jobs", sa.Column("shortage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()))
    )


def downgrade() -> None:
    """Without them."""
    op.drop_column("models", "num_bytes")
    op.drop_column("jobs", "shortage")
