"""Database and queue: the user's own servers where the environment names them, else started for the
user.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.api.embedded.ports import free_ports
from services.api.embedded.postgres import prepare_postgres
from services.api.embedded.processes import ProcessSupervisor, Service
from services.api.embedded.valkey import prepare_valkey

DATABASE_VARIABLE: Final = "DIRL_DATABASE_URL"
REDIS_VARIABLE: Final = "DIRL_REDIS_URL"


@dataclass(frozen=True)
class ServerUrls:
    """Where database and queue are; passwords included."""

    database: str
    redis: str
    rpc_token: str
    """Shared by the services."""


def start_servers(
    supervisor: ProcessSupervisor, data_dir: Path, on_ready: Callable[[Service], None]
) -> ServerUrls:
    """Start what the environment does not name; `on_ready` is called for each server that was started."""
    password = _read_secret(data_dir, "server-password")
    database = os.environ.get(DATABASE_VARIABLE) or _start_postgres(
        supervisor, data_dir, password, on_ready
    )
    queue = os.environ.get(REDIS_VARIABLE) or _start_valkey(
        supervisor, data_dir, password, on_ready
    )
    return ServerUrls(database, queue, _read_secret(data_dir, "rpc-token"))


def _start_postgres(
    supervisor: ProcessSupervisor,
    data_dir: Path,
    password: str,
    on_ready: Callable[[Service], None],
) -> str:
    (port,) = free_ports(1)
    server = prepare_postgres(data_dir, port, password)
    supervisor.start(server.service)
    server.create_database()
    on_ready(server.service)
    return server.url


def _start_valkey(
    supervisor: ProcessSupervisor,
    data_dir: Path,
    password: str,
    on_ready: Callable[[Service], None],
) -> str:
    (port,) = free_ports(1)
    server = prepare_valkey(data_dir, port, password)
    supervisor.start(server.service, on_ready=on_ready)
    return server.url


def _read_secret(data_dir: Path, name: str) -> str:
    """One random secret per data directory, readable by its owner only: loopback is open to every
    local user.
    """
    path = data_dir / name
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16))
    return path.read_text()
