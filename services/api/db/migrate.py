"""Migrate a database, and wait for another process to migrate it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from services.api.db.clock import CLOCK, NOTABLE_SKEW_S
from services.api.db.database import open_engine
from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6469726C
"""Key of the advisory lock ("dirl"): processes that start together migrate one after another."""
_RETRY_S: Final = 1.0

_STATEMENT_S: Final = 3600.0
"""A migration may rewrite a table."""

log = get_logger()


def migrate(url: str) -> None:
    """Upgrade to head in one transaction under an advisory lock; does nothing when the schema is
    the newest.

    A schema that this release does not know, a newer one's, is left alone.
    """
    with _lock_and_configure(url) as config:
        if not _is_unknown(revision_of(config.attributes["connection"])):
            command.upgrade(config, "head")


def downgrade(url: str, revision: str) -> None:
    """Downgrade to the revision in one transaction; the content of dropped columns is lost.

    Raises PlatformError("invalid_request") for an unknown revision, or when this release does
    not know the schema and so cannot downgrade it.
    """
    try:
        with _lock_and_configure(url) as config:
            command.downgrade(config, revision)
    except CommandError as error:
        raise PlatformError(
            "invalid_request",
            f"Cannot downgrade the schema to {revision!r}: {error}.",
            hint="Name a revision before the present one, from the release that knows both.",
        ) from error


def wait_for_schema(url: str) -> None:
    """Return when the database answers and has this release's schema or a newer one; logs what is
    missing.
    """
    _wait(url, _has_schema, "waiting for the schema: run `python -m services.api.db`")
    skew_s = CLOCK.skew_s()
    if abs(skew_s) > NOTABLE_SKEW_S:
        log.warning(
            "this host's clock differs from the database's, whose time counts", skew_s=skew_s
        )


def wait_for_database(url: str) -> None:
    """Return when the database answers; logs that it waits."""
    _wait(url, lambda _connection: True, "")


def _wait(url: str, suffices: Callable[[Connection], bool], missing: str) -> None:
    engine = open_engine(url)
    said = None
    while True:
        try:
            with engine.connect() as connection:
                if suffices(connection):
                    break
            lack = missing
        except OperationalError as error:
            lack = f"waiting for the database: {error.orig}"
        if lack != said:
            log.warning(lack)
            said = lack
        time.sleep(_RETRY_S)
    engine.dispose()


def _has_schema(connection: Connection) -> bool:
    return revision_of(connection) == _read_scripts().get_current_head() or _is_unknown(
        revision_of(connection)
    )


def revision_of(connection: Connection) -> str | None:
    """The database's revision; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def _is_unknown(revision: str | None) -> bool:
    """Whether only a later release can have made it."""
    return revision is not None and revision not in {
        script.revision for script in _read_scripts().walk_revisions()
    }


def _read_scripts() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS))


@contextmanager
def _lock_and_configure(url: str) -> Iterator[Config]:
    """Alembic's configuration on a connection that holds the lock until its transaction ends."""
    engine = open_engine(url, statement_s=_STATEMENT_S)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            yield config
    finally:
        engine.dispose()
