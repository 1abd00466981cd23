"""Connections and the unit of work.

Nothing waits for the database without a limit. The server ends statements, waits for locks and
forgotten transactions; the client ends a wait for a server that is stopped or unreachable, which
the server's limits and TCP keepalives do not notice (a stopped process still has its kernel
acknowledge packets).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from pydantic_core import from_json
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from services.api.db.clock import CLOCK

_CONNECT_S: Final = 5
_POOL_SIZE: Final = 10
_POOL_WAIT_S: Final = 10.0
_POOL_RECYCLE_S: Final = 600
"""Also how often a process without heartbeats reads the database's clock."""
_STATEMENT_S: Final = 60.0
_LOCK_S: Final = 15.0
"""Transactions hold the lock of a row for milliseconds, unless their process was stopped."""
_IDLE_IN_TRANSACTION_S: Final = 30.0
"""After so long the server ends the transaction of a process that was stopped within it."""
_RESPONSE_MARGIN_S: Final = 5.0
"""The client waits longer than the server works, so that the server's error arrives."""
_PROBE_S: Final = 2

RV = TypeVar("RV")


class _NoResponseError(psycopg.OperationalError):
    """The server did not respond in time."""


class _BoundedConnection(psycopg.Connection[Any]):
    """Closes itself and raises OperationalError when the server does not respond in time."""

    response_s = _STATEMENT_S + _RESPONSE_MARGIN_S

    def wait(self, gen: PQGen[RV], *args: Any, **options: Any) -> RV:
        """Wait for a response; see psycopg.Connection.wait."""
        try:
            return super().wait(_limit(gen, self.response_s), *args, **options)
        except _NoResponseError:
            # What the server does with the statement is unknown: nothing else may use the connection.
            self.pgconn.finish()
            raise


def _limit(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """The generator, which psycopg resumes ten times a second while it waits, with a deadline."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() > deadline:
                raise _NoResponseError(f"the server did not respond for {seconds:.0f} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: RV = end.value
        return result


def open_engine(url: str, *, statement_s: float = _STATEMENT_S, **options: Any) -> Engine:
    """Engine whose connections speak UTC and have limits; `statement_s` is that of one statement."""
    limits = {
        "statement_timeout": statement_s,
        "lock_timeout": min(_LOCK_S, statement_s),
        "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_S,
    }
    settings = [f"-c {name}={seconds * 1000:.0f}" for name, seconds in limits.items()]
    engine = create_engine(
        url,
        connect_args={
            "connect_timeout": _CONNECT_S,
            "options": " ".join(["-c timezone=utc", *settings]),
            # A host that is gone is noticed in half a minute, not in the kernel's two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
        },
        **options,
    )
    event.listen(engine, "do_connect", partial(_connect, statement_s + _RESPONSE_MARGIN_S))
    return engine


def _connect(
    response_s: float, _dialect: Any, _record: Any, args: list[Any], options: dict[str, Any]
) -> _BoundedConnection:
    connection = _BoundedConnection.connect(*args, **options)
    connection.response_s = response_s
    sent_at = time.monotonic()
    ((now,),) = connection.execute("SELECT extract(epoch FROM clock_timestamp())")
    CLOCK.set(float(now), sent_at, time.monotonic())
    connection.rollback()  # leaves no transaction behind
    return connection


class Database:
    """A PostgreSQL database; sessions speak UTC."""

    def __init__(self, url: str, *, statement_s: float = _STATEMENT_S) -> None:
        self.engine = open_engine(
            url,
            statement_s=statement_s,
            pool_pre_ping=True,
            pool_size=_POOL_SIZE,
            max_overflow=_POOL_SIZE,
            pool_timeout=_POOL_WAIT_S,
            pool_recycle=_POOL_RECYCLE_S,
            json_deserializer=from_json,  # specs and trajectories are most of what is read
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
        """Whether the server accepts a connection within two seconds.

        A new one: those of the pool may all wait for a server that is stopped.
        """
        args, options = self.engine.dialect.create_connect_args(self.engine.url)
        try:
            psycopg.connect(*args, **{**options, "connect_timeout": _PROBE_S}).close()
        except psycopg.OperationalError:
            return False
        return True

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()
