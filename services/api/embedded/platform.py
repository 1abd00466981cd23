"""The whole platform on this machine: servers, migration, services, and the file that tells other
programs of it.
"""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Self

from services.api.embedded.locations import LOCK_FILE, PLATFORM_FILE
from services.api.embedded.ports import free_ports, is_free
from services.api.embedded.processes import ProcessSupervisor, Service
from services.api.embedded.servers import start_servers
from services.api.embedded.services import (
    choose_addresses,
    migration_command,
    platform_services,
    shared_environment,
)
from services.common.errors import PlatformError

_DEFAULT_API_PORT: Final = 8000
_MIGRATION_TIMEOUT_S: Final = 120

OnReady = Callable[[Service, float], None]
"""Called for every process that is ready, with the seconds since the start of the platform."""


class LocalPlatform:
    """Runs while the context is open; everything it started has ended when the context is left.

    `data_dir` holds all state: a later platform on it resumes where this one ended. `api_port` None
    takes 8000 when it is free. `report` hears about crashes and restarts.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        on_ready: OnReady,
        report: Callable[[str], None],
        api_port: int | None = None,
        rollout_replicas: int = 1,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._on_ready = on_ready
        self._report = report
        self._api_port = api_port
        self._rollout_replicas = rollout_replicas
        self._started_at = time.monotonic()

    def __enter__(self) -> Self:
        """Start everything; raises PlatformError, with nothing left running, when a part does not
        come up.

        "conflict" when a platform already runs on the data directory.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.data_dir)
        self._supervisor = ProcessSupervisor(self.data_dir / "logs", self._report)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._supervisor.stop()
        (self.data_dir / PLATFORM_FILE).unlink(missing_ok=True)
        # Last: the next platform on the directory may start when no process of this one is left.
        self._lock.close()

    @property
    def api_url(self) -> str:
        """Base URL of the REST API."""
        return self.addresses.api_url

    def pids(self) -> dict[str, int]:
        """Process id of every service that runs."""
        return self._supervisor.pids()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self.urls = start_servers(self._supervisor, self.data_dir, self._tell)
        self.addresses = choose_addresses(_choose_api_port(self._api_port), self._rollout_replicas)
        env = shared_environment(self.data_dir, self.urls, self.addresses)
        done = subprocess.run(
            migration_command(),
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MIGRATION_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise PlatformError(
                "internal", f"The database cannot be migrated:\n{done.stderr.strip()}"
            )
        services = platform_services(env, self.addresses, self._supervisor.log_path)
        self._supervisor.start(*services, on_ready=self._tell)
        # Renamed into place: another program must never read half a file.
        content = {
            "pid": os.getpid(),
            "api_url": self.api_url,
            "started_at": time.time(),
            "processes": self.pids(),
        }
        partial = self.data_dir / f"{PLATFORM_FILE}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.rename(self.data_dir / PLATFORM_FILE)

    def _tell(self, service: Service) -> None:
        self._on_ready(service, time.monotonic() - self._started_at)


def _take_lock(data_dir: Path) -> IO[str]:
    lock = (data_dir / LOCK_FILE).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise PlatformError(
            "conflict",
            f"Cannot start a platform on {data_dir}: process {holder} runs one there.",
            hint="Use it, stop it (Ctrl-C, or `kill` with that process id), or choose another --data-dir.",
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _choose_api_port(asked: int | None) -> int:
    if asked is None:
        return _DEFAULT_API_PORT if is_free(_DEFAULT_API_PORT) else free_ports(1)[0]
    if not is_free(asked):
        raise PlatformError(
            "conflict",
            f"The API cannot listen on port {asked}: another program does.",
            hint="Choose another --port.",
        )
    return asked
