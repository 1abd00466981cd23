"""Sandboxes: processes in which untrusted Python runs, one call at a time, and the pool of them.

services.reward.jail is the code of such a process and documents its restrictions; it forks a child for
every call, so that no call sees what another one left behind.
"""

import atexit
import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.reward.isolation import Isolation
from services.reward.scores import GradingLimits
from services.reward.settings import SandboxMode

_START_S: Final = 60.0
_REPLY_S: Final = 5.0
"""Seconds beyond the wall time of a call, in which the sandbox must reply."""
_STOP_S: Final = 3.0
_MAX_REPLY_BYTES: Final = 256 << 20
_PROBE_S: Final = 10.0
_IDLE_PER_LEASE: Final = 2
"""Idle sandboxes per one that may be in use: training and validation may have setups of their own."""
_ENDS: Final = {
    "cpu": "it took longer than its time limit (CPU time)",
    "wall": "it took longer than its time limit",
    "result": "its result is too long",
}
"""Failure by the limit that ended a child."""

log = get_logger()


class SandboxError(Exception):
    """The sandbox ended, did not reply, or does not start; it must be replaced."""


class SandboxBusyError(Exception):
    """No sandbox became free in time."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a sandbox has besides the interpreter and the modules of its jail."""

    directories: tuple[str, ...] = ()
    """Directories that it can read, where the isolation lets it read files at all."""
    path: tuple[str, ...] = ()
    """Directories added to its import path."""
    modules: tuple[str, ...] = ()
    """Modules imported at its start."""
    preparation: tuple[tuple[str, str, str], ...] = ()
    """(module, function, argument) of calls at its start, before any limit."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of untrusted code."""

    kind: str
    """`program`, `function`, `expression`, `assertions`, `grade` or `module`: what the jail does with it."""
    job: Mapping[str, Any]
    """Fields that the code may see from its first line on."""
    test: Mapping[str, Any] = field(default_factory=dict)
    """Fields sent when the source is loaded."""
    cpu_s: float
    wall_s: float
    memory_bytes: int
    """Address space beyond that of the interpreter."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of a call."""

    failure: str
    """Why there is no value; empty if there is one."""
    loaded: bool
    """Whether the source was loaded, so that the failure is one of this call."""
    replied: bool
    """Whether the code came to an end by itself: it returned a value or raised an exception."""
    value: Any
    """Value returned, as JSON has it."""
    stdout: str
    cpu_s: float
    wall_s: float


class Sandbox:
    """One sandbox. `call` is for one thread at a time, `interrupt` for any."""

    def __init__(self, isolation: Isolation, setup: Setup) -> None:
        """Start it; raises SandboxError."""
        self.is_lost = False
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                isolation.command(setup.directories),
                cwd="/",
                env={},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stderr is not None
        self._stderr: IO[bytes] = self._process.stderr
        try:
            self._send(
                {
                    "path": setup.path,
                    "modules": setup.modules,
                    "preparation": setup.preparation,
                    "reads_files": isolation.reads_files,
                }
            )
            ready = self._receive(_START_S)
        except SandboxError as error:
            said = self.close()
            raise SandboxError(f"{error}{': ' if said else ''}{said}") from None
        if not ready.get("ready"):
            self.close()
            raise SandboxError(str(ready.get("failure")))

    def call(self, call: Call) -> Reply:
        """Make one call; raises SandboxError."""
        token = secrets.token_hex(16)
        limits = {"cpu_s": call.cpu_s, "wall_s": call.wall_s, "memory_bytes": call.memory_bytes}
        try:
            # The jail reads the test when the child has loaded its source.
            self._send({**call.job, "kind": call.kind, **limits}, {**call.test, "token": token})
            reply = self._receive(call.wall_s + _REPLY_S)
        except SandboxError:
            self.is_lost = True
            raise
        failure = _read_end(reply)
        replied, value = not failure, None
        if replied:
            failure, value = _read_result(reply["result"], token)
        return Reply(
            failure=failure,
            loaded=reply["loaded"],
            replied=replied,
            value=value,
            stdout=reply["stdout"],
            cpu_s=reply["cpu_s"],
            wall_s=reply["wall_s"],
        )

    def interrupt(self) -> None:
        """Kill it, so that `call` raises SandboxError."""
        self.is_lost = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> str:
        """End it with everything in it, and return what it wrote to standard error."""
        self._control.close()  # the jail ends when it sees this
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.interrupt()
        with self._stderr:
            said = self._stderr.read()
        self._process.wait()
        return said.decode(errors="replace").strip()[-300:]

    def _send(self, *messages: Mapping[str, Any]) -> None:
        frames = (json.dumps(message).encode() for message in messages)
        try:
            self._control.settimeout(_START_S)
            self._control.sendall(
                b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
            )
        except OSError as error:
            raise SandboxError("the sandbox ended") from error

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        (length,) = struct.unpack(">I", self._receive_exactly(4, deadline))
        if length > _MAX_REPLY_BYTES:
            raise SandboxError("the reply of the sandbox is too long")
        message: dict[str, Any] = json.loads(self._receive_exactly(length, deadline))
        return message

    def _receive_exactly(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._control.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._control.recv(min(count - len(data), 1 << 20))
            except TimeoutError:
                raise SandboxError("the sandbox did not reply") from None
            except OSError:
                part = b""
            if not part:
                raise SandboxError("the sandbox ended")
            data += part
        return bytes(data)


def _read_end(reply: Mapping[str, Any]) -> str:
    """Return why the child sent no result, or "" if it did."""
    if reply["ended"] in _ENDS:
        return _ENDS[reply["ended"]]
    if reply["signal"]:
        return f"the process ended by {signal.Signals(reply['signal']).name}"
    return "" if reply["result"] else "the process ended without a result"


def _read_result(text: str, token: str) -> tuple[str, Any]:
    """Return why a result has no value, or "" and its value.

    It is untrusted: only one JSON object with the token of the call is the harness's own.
    """
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        result = None
    # An exception while the source is loaded comes before the token; it can only be a failure.
    if isinstance(result, dict) and isinstance(result.get("failure"), str):
        return result["failure"] or "it failed", None
    if not isinstance(result, dict) or result.get("token") != token:
        return "it wrote to its result channel", None
    return "", result.get("value")


class SandboxPool:
    """Sandboxes that are kept between calls. Thread-safe; `close` ends them."""

    def __init__(self, isolation: Isolation, size: int) -> None:
        self.isolation, self.size = isolation, size
        self._free = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: defaultdict[Setup, list[Sandbox]] = defaultdict(list)

    @contextlib.contextmanager
    def lease(self, setup: Setup, limits: GradingLimits) -> Iterator[Sandbox]:
        """Lend a sandbox with this setup; a cancellation of the limits kills it.

        Raises SandboxBusyError when none is free before they expire, and SandboxError when none starts.
        """
        expires_at = limits.expires_at
        wait_s = None if math.isinf(expires_at) else max(0.0, expires_at - time.monotonic())
        if not self._free.acquire(timeout=wait_s):
            raise SandboxBusyError
        try:
            sandbox = self._take(setup)
            try:
                with limits.cancellation.covers(sandbox):
                    yield sandbox
            finally:
                self._return(setup, sandbox)
        finally:
            self._free.release()

    def close(self) -> None:
        """End all idle sandboxes."""
        with self._lock:
            idle = [sandbox for sandboxes in self._idle.values() for sandbox in sandboxes]
            self._idle.clear()
        for sandbox in idle:
            sandbox.close()

    def _take(self, setup: Setup) -> Sandbox:
        with self._lock:
            if self._idle[setup]:
                return self._idle[setup].pop()
            # Sandboxes of other setups would add up.
            spare = next((found for found in self._idle.values() if found), None)
            count = sum(map(len, self._idle.values()))
            dropped = spare.pop() if spare and count >= _IDLE_PER_LEASE * self.size else None
        if dropped is not None:
            dropped.close()
        return Sandbox(self.isolation, setup)

    def _return(self, setup: Setup, sandbox: Sandbox) -> None:
        if sandbox.is_lost:
            sandbox.close()
            return
        with self._lock:
            self._idle[setup].append(sandbox)


def open_pool(mode: SandboxMode, size: int) -> SandboxPool:
    """Return a pool with the isolation of a mode; `auto` takes bubblewrap where a sandbox starts with it.

    Raises PlatformError("verifier_unavailable") when the mode is `bubblewrap` and none does.
    """
    if mode == "process":
        return SandboxPool(Isolation("process", "DIRL_REWARD_SANDBOX is `process`"), size)
    pool = SandboxPool(Isolation("bubblewrap", ""), size)
    reason = _probe(pool)
    if not reason:
        return pool
    if mode == "bubblewrap":
        raise PlatformError(
            "verifier_unavailable",
            f"Cannot isolate untrusted code with bubblewrap: {reason}.",
            hint="Install bubblewrap and allow user namespaces, or set DIRL_REWARD_SANDBOX=auto.",
        )
    log.warning(
        "sandbox without bubblewrap: untrusted code shares the namespaces of this machine",
        reason=reason,
    )
    return SandboxPool(Isolation("process", reason), size)


def _probe(pool: SandboxPool) -> str:
    """Return why no sandbox of the pool works, or ""."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    call = Call(
        kind="program",
        job={"source": "print(6 * 7)"},
        cpu_s=_PROBE_S,
        wall_s=_PROBE_S,
        memory_bytes=64 << 20,
    )
    try:
        with pool.lease(Setup(), GradingLimits()) as sandbox:
            reply = sandbox.call(call)
    except (SandboxError, OSError) as error:
        return str(error)
    return "" if reply.stdout == "42\n" else reply.failure or "its output is wrong"


class _Shared:
    """The pool of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: SandboxPool | None = None

    def open(self, mode: SandboxMode = "auto", size: int | None = None) -> SandboxPool:
        """Return the pool, opened at the first call; raises like open_pool."""
        with self._lock:
            if self._pool is None:
                self._pool = open_pool(mode, size or len(os.sched_getaffinity(0)))
                atexit.register(self._pool.close)
            return self._pool


shared_sandboxes: Final = _Shared()
