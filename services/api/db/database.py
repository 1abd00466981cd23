"""Connections and the unit of work."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic_core import from_json
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

CONNECT_TIMEOUT_S = 5
_POOL_SIZE = 10


class Database:
    """A PostgreSQL database; sessions speak UTC."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=_POOL_SIZE,
            max_overflow=_POOL_SIZE,
            json_deserializer=from_json,  # specs and trajectories are most of what is read
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": "-c timezone=utc"},
        )

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A unit of work: commits when its block ends, rolls back when it raises.

        Rows stay readable afterwards. No network call but the database's own belongs into the
        block.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def is_up(self) -> bool:
        """Whether a query is answered."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            return False
        return True

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()
