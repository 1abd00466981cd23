"""Migrations that the release before can live with, so that services are replaced one by one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.db.migrate import MIGRATIONS

RENAMES = {"rev_0008_names_and_deletions", "rev_0009_reference_answers"}
"""Rename columns and fields before the first release, so no process of a release has to live with it."""
REVISIONS = sorted(
    path for path in (MIGRATIONS / "versions").glob("rev_*.py") if path.stem not in RENAMES
)
ADDS = {
    "create_table",
    "add_column",
    "create_index",
    "create_unique_constraint",
    "create_foreign_key",
    "f",
}
KEY_ANEW = re.compile(
    r"'ALTER TABLE (\w+) DROP CONSTRAINT (\w+), ADD CONSTRAINT \2 PRIMARY KEY \(.*'"
)
BREAKS = (
    'def upgrade():\n    op.drop_column("jobs", "state")\n',
    'def upgrade():\n    op.alter_column("jobs", "state", new_column_name="status")\n',
    'def upgrade():\n    op.execute("ALTER TABLE jobs DROP CONSTRAINT pk_jobs")\n',
    'def upgrade():\n    op.add_column("jobs", sa.Column("n", sa.Text(), nullable=False))\n',
)


def faults(source: str) -> Iterator[str]:
    """What an older process would stumble over in `upgrade`."""
    tree = ast.parse(source)
    (upgrade,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"
    )
    for call in (node for node in ast.walk(upgrade) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        if function == "op.execute" and KEY_ANEW.fullmatch(ast.unparse(call.args[0])):
            continue
        if function.startswith("op.") and function.removeprefix("op.") not in ADDS:
            yield f"{function} takes something away"
        if function == "op.add_column" and _is_missed_by_old_inserts(call):
            yield f"{ast.unparse(call)} has no default"


def _is_missed_by_old_inserts(call: ast.Call) -> bool:
    values = {
        word.arg: ast.unparse(word.value)
        for node in call.args
        for word in getattr(node, "keywords", ())
    }
    return values.get("nullable") == "False" and "server_default" not in values


@pytest.mark.parametrize("path", REVISIONS, ids=lambda path: path.stem)
def test_an_upgrade_only_adds(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize("source", BREAKS)
def test_an_upgrade_that_old_processes_cannot_live_with_is_found(source: str) -> None:
    assert len(list(faults(source))) == 1
