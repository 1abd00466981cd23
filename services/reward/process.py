"""Handles of the serving process for the zygote and the workers."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from socket import SHUT_RDWR, socket
from typing import Any, Final

from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.reward import wire
from services.reward.comparison_request import ComparisonRequest

_START_S: Final = 60.0
_CONTROL_S: Final = 10.0
_STOP_S: Final = 3.0

log = get_logger()


class WorkerLostError(Exception):
    """The process of the worker ended before it replied."""


class ZygoteLostError(Exception):
    """The process of the zygote ended or hangs; its workers have ended with it."""


@dataclass
class Worker:
    """One worker process, which handles one comparison at a time."""

    pid: int
    end: socket
    generation: int
    """Number of the zygote that forked it."""
    cpu_s: float = 0.0
    """Total CPU seconds, as of its last message."""
    items: int = 0

    def ask(self, request: ComparisonRequest, timeout_s: float) -> dict[str, Any]:
        """Return the reply; raises TimeoutError at the deadline, WorkerLostError if the process ended."""
        self.end.settimeout(timeout_s)
        try:
            wire.send(self.end, {**asdict(request), "timeout_s": timeout_s})
        except ConnectionError as error:
            raise WorkerLostError from error
        reply = self._receive()
        self.items += 1
        return reply

    def interrupt(self) -> None:
        """Make the thread that waits for the reply see a lost worker. May be called from any thread."""
        with contextlib.suppress(OSError):  # already closed
            self.end.shutdown(SHUT_RDWR)

    def wait_ready(self) -> None:
        """Wait for the self-test; raises WorkerLostError or TimeoutError."""
        self.end.settimeout(_CONTROL_S)
        if not self._receive()["ready"]:
            raise PlatformError(
                "verifier_unavailable",
                "The comparator failed its self-test: it returns wrong results.",
            )

    def _receive(self) -> dict[str, Any]:
        reply = wire.receive(self.end)
        if reply is None:
            raise WorkerLostError
        self.cpu_s, reply["cpu_s"] = reply["cpu_s"], reply["cpu_s"] - self.cpu_s
        return reply


@dataclass(frozen=True)
class _Running:
    process: "subprocess.Popen[bytes]"
    control: socket


class Zygote:
    """Starts the zygote, requests workers from it, and restarts it when it is lost. Thread-safe."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._generation = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id while the zygote runs."""
        running = self._running
        return running.process.pid if running is not None else None

    def fork_worker(self) -> Worker:
        """Return a new worker that passed its self-test.

        Raises ZygoteLostError, WorkerLostError, TimeoutError, or
        PlatformError("verifier_unavailable").
        """
        # Replies have no id, so one request is made at a time. The self-test runs outside the lock,
        # so that workers start in parallel.
        with self._lock:
            message, end = self._fork(self._ensure_running())
            worker = Worker(int(message["pid"]), end, self._generation)
        try:
            worker.wait_ready()
        except (WorkerLostError, TimeoutError, PlatformError):
            self.reap(worker)
            raise
        return worker

    def reap(self, worker: Worker) -> float | None:
        """Kill the worker; return its CPU seconds since its last message.

        None if its zygote has ended, which also ended the worker.
        """
        worker.end.close()
        with self._lock:
            # The pid is known to the zygote that forked it; to a later one it may be any process.
            if self._running is None or worker.generation != self._generation:
                return None
            try:
                wire.send(self._running.control, {"op": "reap", "pid": worker.pid})
                ended = wire.receive(self._running.control)
            except OSError:
                ended = None
            if ended is None:
                self._drop()
                return None
        return float(ended["cpu_s"]) - worker.cpu_s

    def close(self) -> None:
        """End the zygote and its workers for good."""
        # Set before the lock is taken: a thread that waits for it must not start a new zygote.
        self._closed = True
        with self._lock:
            self._drop()

    def _fork(self, running: _Running) -> tuple[dict[str, Any], socket]:
        try:
            wire.send(running.control, {"op": "fork"})
            message, end = wire.receive_with_socket(running.control)
        except OSError as error:
            self._drop()
            raise ZygoteLostError from error
        if message is None:
            self._drop()
            raise ZygoteLostError
        if end is None:
            raise PlatformError(
                "verifier_unavailable", f"Cannot start a verifier process: {message['error']}."
            )
        return message, end

    def _ensure_running(self) -> _Running:
        if self._closed:
            raise PlatformError("verifier_unavailable", "The verifier is shutting down.")
        if self._running is not None:
            return self._running
        started = time.monotonic()
        running = self._running = self._spawn()
        self._generation += 1
        running.control.settimeout(_START_S)
        try:
            ready = wire.receive(running.control)
        except TimeoutError:
            ready = None
        if ready is None:
            self._drop()
            raise PlatformError(
                "verifier_unavailable",
                f"The zygote of the verifier did not start (exit status {running.process.returncode}). See stderr.",
                hint="Install the reward extra: pip install 'dirl-platform[reward]'.",
            )
        running.control.settimeout(_CONTROL_S)
        log.info(
            "verifier zygote ready",
            pid=running.process.pid,
            seconds=round(time.monotonic() - started, 2),
        )
        return running

    def _spawn(self) -> _Running:
        """Start the zygote in its own session, so that Ctrl-C reaches only the serving process."""
        ours, theirs = wire.packet_pair()
        command = [
            sys.executable,
            "-m",
            "services.reward.zygote",
            str(theirs.fileno()),
            str(self._memory_bytes),
        ]
        environment = {**os.environ, "SYMPY_GROUND_TYPES": "python"}
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return _Running(process, ours)

    def _drop(self) -> None:
        """Close the socket of the zygote, which ends it and its workers; kill it if it does not end."""
        running, self._running = self._running, None
        if running is None:
            return
        running.control.close()
        try:
            running.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
        if not self._closed:
            log.error("verifier zygote lost", exit_status=running.process.returncode)
