"""Supervision of local processes: start, wait until ready, restart after a crash, stop all in
order.

Every process leads a session of its own, so that Ctrl-C reaches only the supervisor, which then
stops them in order. The kernel ends them when the supervisor dies without having done so
(PR_SET_PDEATHSIG, Linux).
"""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from services.api.embedded.account import Account
from services.common.errors import PlatformError

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.1
_PROBE_S: Final = 0.2
_TAIL_LINES: Final = 25
_TAIL_BYTES: Final = 16_384
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 30.0
_HEALTHY_S: Final = 60.0
"""A process that ran this long starts again with the first backoff."""
# Loaded here because the child may not import anything between fork and exec.
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Service:
    """One process: how it is started, when it is ready, how it is asked to end."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    """The whole environment; holds passwords."""
    ready: Callable[[], bool]
    """Whether it serves; asked until it says so, must return within seconds."""
    address: str = ""
    """host:port where it listens; empty when it does not."""
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    """Whom it runs as; None is the supervisor's own user."""
    start_timeout_s: float = 120.0


@dataclass
class _Child:
    service: Service
    process: subprocess.Popen[bytes]
    started_at: float
    watched: bool = False
    """Whether a crash is followed by a restart: from the first readiness on."""
    crashes: int = 0
    retry_at: float | None = None


class ProcessSupervisor:
    """Owns the processes it started; use as a context manager or call `stop`.

    `report` hears in one line about every crash and restart.
    """

    def __init__(self, log_dir: Path, report: Callable[[str], None]) -> None:
        self._log_dir = log_dir
        self._report = report
        self._children: list[_Child] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # The death signal comes when the *thread* that started the process ends, so one thread
        # starts them all and lives until the last one has been stopped.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        log_dir.mkdir(parents=True, exist_ok=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, *services: Service, on_ready: Callable[[Service], None] = lambda _service: None
    ) -> None:
        """Start processes side by side and wait for them in turn; `on_ready` is called for each.

        Raises PlatformError("internal") with the tail of its log when one ends or is not ready in
        time.
        """
        children = [self._launch(service) for service in services]
        for child in children:
            service = child.service
            while not service.ready():
                if child.process.poll() is not None:
                    raise self._to_error(
                        service.name,
                        f"ended with {_describe_end(child.process)} before it was ready",
                    )
                if time.monotonic() - child.started_at > service.start_timeout_s:
                    raise self._to_error(
                        service.name, f"was not ready within {service.start_timeout_s:.0f} s"
                    )
                time.sleep(_PROBE_S)
            child.watched = True
            on_ready(child.service)

    def log_path(self, name: str) -> Path:
        """Log file of a service."""
        return self._log_dir / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Process id of every service that runs."""
        with self._lock:
            return {
                child.service.name: child.process.pid
                for child in self._children
                if child.process.poll() is None
            }

    def stop(self, timeout_s: float = 30.0) -> None:
        """End all processes, last started first: ask, wait up to `timeout_s` for each, kill its
        process group.
        """
        self._stopping.set()
        # First the watcher: it must not restart a process that is being stopped.
        self._watcher.join()
        with self._lock:
            while self._children:
                child = self._children.pop()
                process, service = child.process, child.service
                if process.poll() is None:
                    process.send_signal(service.stop_signal)
                    try:
                        process.wait(timeout_s)
                    except subprocess.TimeoutExpired:
                        self._report(
                            f"{service.name} did not stop within {timeout_s:g} s and was killed"
                        )
                # The whole group: a service that has ended may have left children behind.
                with contextlib.suppress(ProcessLookupError):  # the group is empty
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._spawner.shutdown()

    def _launch(self, service: Service) -> _Child:
        child = _Child(service, self._spawn(service), time.monotonic())
        with self._lock:
            self._children.append(child)
        return child

    def _spawn(self, service: Service) -> "subprocess.Popen[bytes]":
        return self._spawner.submit(_popen, service, self.log_path(service.name)).result()

    def _to_error(self, name: str, what: str) -> PlatformError:
        path = self.log_path(name)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (empty)"
        return PlatformError("internal", f"{name} {what}. The end of {path}:\n{tail}")

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_S):
            with self._lock:
                ended = [
                    child
                    for child in self._children
                    if child.watched and child.process.poll() is not None
                ]
            for child in ended:
                self._revive(child)

    def _revive(self, child: _Child) -> None:
        now = time.monotonic()
        if child.retry_at is None:
            child.crashes = 1 if now - child.started_at > _HEALTHY_S else child.crashes + 1
            self._schedule(child, now, _describe_end(child.process))
        elif now >= child.retry_at:
            try:
                process = self._spawn(child.service)
            except OSError as error:
                child.crashes += 1
                self._schedule(child, now, str(error))
                return
            with self._lock:
                child.process, child.started_at, child.retry_at = process, now, None
            self._report(f"{child.service.name} restarted")

    def _schedule(self, child: _Child, now: float, why: str) -> None:
        delay = min(_FIRST_BACKOFF_S * 2 ** (child.crashes - 1), _LONGEST_BACKOFF_S)
        child.retry_at = now + delay
        path = self.log_path(child.service.name)
        self._report(f"{child.service.name} ended ({why}); restarting in {delay:g} s (log: {path})")


def _popen(service: Service, log_path: Path) -> "subprocess.Popen[bytes]":
    account = service.account
    with log_path.open("ab") as output:
        return subprocess.Popen(
            service.command,
            env=dict(service.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            preexec_fn=functools.partial(_die_with_parent, service.stop_signal, os.getpid()),
        )


def _die_with_parent(death_signal: signal.Signals, parent: int) -> None:
    """Runs in the child after the change of user, which would clear the setting."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:  # died before the setting
        os._exit(1)


def _describe_end(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
