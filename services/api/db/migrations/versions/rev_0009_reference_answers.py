"""Reference answers of stored trajectories."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_RENAMED = (
    ('"gold": ', '"reference_answer": '),
    ('"gold_type": ', '"answer_type": '),
    ('"normalized_gold": ', '"normalized_reference_answer": '),
    ('"gold_invalid"', '"reference_answer_invalid"'),
)
"""Keys of the payload and a reason of verdicts. Quotes inside texts are escaped, so that no text of a
response contains one of these.
"""


def upgrade() -> None:
    """Names of groups, tasks and verdicts in the payload."""
    _rename(_RENAMED)


def downgrade() -> None:
    """The former names."""
    _rename(tuple((new, old) for old, new in _RENAMED))


def _rename(pairs: tuple[tuple[str, str], ...]) -> None:
    expression = "payload::text"
    for old, new in pairs:
        expression = f"replace({expression}, '{old}', '{new}')"
    op.execute(f"UPDATE trajectory_groups SET payload = ({expression})::jsonb")
