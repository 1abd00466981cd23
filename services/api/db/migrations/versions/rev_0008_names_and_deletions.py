"""Names that operators use, and directories that are to be removed."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_RENAMED = {"forgiven_attempts": "excluded_attempts", "heard_at": "last_heartbeat_at"}
_REWOUND = (
    "UPDATE events SET data = (data - '{old}') || jsonb_build_object('{new}', data -> '{old}') "
    "WHERE type = 'rewound' AND data ? '{old}'"
)


def upgrade() -> None:
    """Columns of jobs renamed; the table of pending deletions."""
    for old, new in _RENAMED.items():
        op.alter_column("jobs", old, new_column_name=new)
    op.execute(_REWOUND.format(old="set_aside", new="archived"))
    op.create_table(
        "pending_deletions",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("is_archived", sa.Boolean(), nullable=False, server_default="false"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_pending_deletions")),
    )
    op.create_index("ix_pending_deletions_job_id", "pending_deletions", ["job_id"])


def downgrade() -> None:
    """The former names; deletions that are not finished leave their directories behind."""
    op.drop_table("pending_deletions")
    op.execute(_REWOUND.format(old="archived", new="set_aside"))
    for old, new in _RENAMED.items():
        op.alter_column("jobs", new, new_column_name=old)
