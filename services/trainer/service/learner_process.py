"""One learner as child processes, one per rank: a process group that never outlives its
supervisor.
"""

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import psutil
import structlog

from services.common.attempt_result import AttemptResult, AttemptState
from services.common.checkpoint.store import remove_leftovers
from services.common.errors import ERROR_KINDS, PlatformError
from services.common.storage_errors import STORAGE_EXITS, to_storage_error
from services.trainer.learner.request import (
    RANK_VARIABLE,
    LearnerRequest,
    read_result,
    request_path,
)

_CGROUP_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")
_LOG_TAIL_BYTES: Final = 2000

log = structlog.get_logger()


class LearnerProcess:
    """A running learner, or the result of one that ended."""

    def __init__(self, request: LearnerRequest, program: Sequence[str]) -> None:
        """Start `program` with the request's file as its argument.

        The calling thread must live as long as the learner: the kernel ties the two (PDEATHSIG).
        """
        self.request = request
        self._result: AttemptResult | None = None
        self._stop_asked = False
        self._kill_timer: threading.Timer | None = None
        self._oom_kills = _oom_kills()
        self._process, *self._followers = _spawn(request, program)
        self._fallen: int | None = None
        self._follower_watchers = [
            threading.Thread(target=self._watch_follower, args=(follower.pid,), daemon=True)
            for follower in self._followers
        ]
        for thread in self._follower_watchers:
            thread.start()
        self._watcher = threading.Thread(
            target=self._watch, name=f"learner-{self._process.pid}", daemon=True
        )
        self._watcher.start()

    @property
    def pid(self) -> int:
        """Process id, also of the process group."""
        return self._process.pid

    @property
    def result(self) -> AttemptResult | None:
        """Result of the attempt; None while it runs."""
        return self._result

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and kill the whole group after `grace_s`; a second call may shorten the
        wait.
        """
        self._stop_asked = True
        self._signal_group(signal.SIGTERM)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = threading.Timer(grace_s, self._signal_group, args=(signal.SIGKILL,))
        self._kill_timer.daemon = True
        self._kill_timer.start()

    def dump_stacks(self) -> None:
        """Have it write the stacks of its threads to its log."""
        self._signal_group(signal.SIGUSR1)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False when it still runs."""
        self._watcher.join(timeout_s)
        return not self._watcher.is_alive()

    def rss_bytes(self) -> int:
        """Resident memory of the learner and its descendants; 0 once it has ended."""
        try:
            root = psutil.Process(self.pid)
            return sum(_rss(process) for process in (root, *root.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0

    def _signal_group(self, number: signal.Signals) -> None:
        # The group's leader is reaped by the watcher only after it has set `_result`, so the id cannot
        # be another's.
        if self._result is None:
            _kill_group(self.pid, number)

    def _watch(self) -> None:
        """Wait without reaping, clear the group, then reap: until then no other process
        can get the group's id.
        """
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        fallen = (
            self._fallen or _first_failure(self._followers) or 0
        )  # before the rest of the group is killed
        _kill_group(self.pid, signal.SIGKILL)
        for thread in self._follower_watchers:
            thread.join()  # they look at processes that are reaped below
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        status = fallen if fallen < 0 else _exit_status(self.pid)
        try:
            self._result = self._interpret(status, is_follower=fallen < 0)
            remove_leftovers(self.request.checkpoints)
        except (OSError, ValueError) as error:
            # No result is the end of this thread: the attempt would be running for ever.
            self._result = self._result or self._storage_failure(error)
        for process in (*self._followers, self._process):
            process.wait()
        log.info(
            "learner ended",
            job_id=self.request.job_id,
            attempt=self.request.attempt,
            state=self._result.state,
            code=self._result.error_code,
            exit_status=status,
        )

    def _watch_follower(self, pid: int) -> None:
        """End all ranks when one fails: the others would wait for it forever."""
        status = _exit_status(pid)
        if status != 0:
            self._fallen = self._fallen or status
            self._signal_group(signal.SIGKILL)

    def _interpret(self, status: int, *, is_follower: bool) -> AttemptResult:
        result = read_result(self.request.job_dir, self.request.attempt)
        succeeded = result is not None and result.state == "succeeded"
        if is_follower and not (self._stop_asked or succeeded):
            return self._crash(status)  # rank 0 only noticed that a rank was lost
        if result is not None:
            return result
        if self._stop_asked and status in (-signal.SIGTERM, -signal.SIGKILL):
            return AttemptResult(
                AttemptState.STOPPED, error_message="Killed before it could write a checkpoint."
            )
        return self._crash(status)

    def _storage_failure(self, error: OSError | ValueError) -> AttemptResult:
        """The end of an attempt whose result cannot be read."""
        os_error = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
        action = f"read the result of {self.request.job_id} attempt {self.request.attempt}"
        return AttemptResult.from_error(to_storage_error(action, os_error))

    def _crash(self, status: int) -> AttemptResult:
        name = f"{self.request.job_id} attempt {self.request.attempt}"
        unwritable = next((code for code, exit in STORAGE_EXITS.items() if exit == status), None)
        if unwritable is not None:
            error = PlatformError(
                unwritable,
                f"The learner of {name} could not write to {self.request.job_dir}.",
                hint=ERROR_KINDS[unwritable].remedy,
            )
        elif status == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            error = PlatformError(
                "oom_train",
                f"The kernel killed the learner of {name} for lack of memory.",
                hint="Give the trainer more memory, or lower trainer.max_tokens_per_microbatch.",
            )
        elif status < 0:
            error = PlatformError(
                "worker_lost",
                f"The learner of {name} was killed by {signal.Signals(-status).name}.",
            )
        else:
            tail = _tail(log_path(self.request))
            error = PlatformError(
                "internal",
                f"The learner of {name} ended with status {status}. Its log ends: {tail}",
            )
        return AttemptResult.from_error(error)


def log_path(request: LearnerRequest) -> Path:
    """File of the learner's output."""
    return request.job_dir / "logs" / f"attempt-{request.attempt:04d}.log"


def _spawn(request: LearnerRequest, program: Sequence[str]) -> "list[subprocess.Popen[bytes]]":
    """One process per rank, all in the process group that rank 0 leads."""
    if request_path(request.job_dir, request.attempt).exists():
        raise PlatformError(
            "worker_lost",
            f"Cannot start attempt {request.attempt} of {request.job_id}: it was started before, by a supervisor that "
            "has ended, and its learner with it. An attempt runs once.",
        )
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        file = request.save()
        log_path(request).parent.mkdir(parents=True, exist_ok=True)
        with log_path(request).open("ab") as output:
            for rank in request.ranks_of_host(0):
                ranks.append(
                    _spawn_rank([*program, str(file)], rank, output, ranks[0].pid if ranks else 0)
                )
            return ranks
    except OSError as error:
        if ranks:
            _kill_group(ranks[0].pid, signal.SIGKILL)
        action = f"start the learner of {request.job_id} in {request.job_dir}"
        raise to_storage_error(action, error) from error


def _spawn_rank(
    command: Sequence[str], rank: int, output: BinaryIO, group: int
) -> "subprocess.Popen[bytes]":
    """`group` 0 opens a new process group."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=group,
        env={**os.environ, RANK_VARIABLE: str(rank)},
    )


def _exit_status(pid: int) -> int:
    """Wait for a child's exit status, or minus the number of the signal that ended it, without
    reaping it.
    """
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _first_failure(processes: "Sequence[subprocess.Popen[bytes]]") -> int | None:
    """Exit status of a process that failed, or None."""
    ended = [
        p.pid for p in processes if os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    ]
    return next((status for pid in ended if (status := _exit_status(pid)) != 0), None)


def _kill_group(pgid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        log.debug("process group already gone", pgid=pgid)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _oom_kills() -> int:
    """Kills for lack of memory in this control group so far; 0 where the kernel does not count
    them.
    """
    if not _CGROUP_EVENTS.exists():
        return 0
    counters = dict(
        line.split() for line in _CGROUP_EVENTS.read_text(encoding="ascii").splitlines()
    )
    return int(counters.get("oom_kill", 0))


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace").strip()
