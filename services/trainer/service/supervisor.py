"""The supervisor: at most one learner at a time, fenced by attempt number, and no process left
when the service ends.

It decides nothing about a job: it reports how a learner ended, and the control plane starts the
next attempt.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import psutil
import structlog

from services.common.attempt_result import AttemptResult
from services.common.errors import PlatformError
from services.trainer.learner.journal import journal_path, last_seq
from services.trainer.learner.request import LearnerRequest, read_result
from services.trainer.service.learner_process import LearnerProcess

LEARNER_PROGRAM: Final = (sys.executable, "-m", "services.trainer.learner")

log = structlog.get_logger()


@dataclass(frozen=True)
class SupervisorStatus:
    """Status of the attempt last started."""

    job_id: str
    """Empty when none was."""
    attempt: int
    result: AttemptResult | None
    """None while the attempt runs, and when none was started."""
    last_event_seq: int
    rss_bytes: int

    @property
    def state(self) -> str:
        """idle | running | succeeded | stopped | failed"""
        if self.result is not None:
            return self.result.state.value
        return "running" if self.job_id else "idle"


class LearnerSupervisor:
    """Starts, stops and watches learners; safe to call from several threads."""

    def __init__(self, program: Sequence[str] = LEARNER_PROGRAM) -> None:
        """`program` is run with the request's file as its argument."""
        self._program = tuple(program)
        self._lock = Lock()
        self._learner: LearnerProcess | None = None
        self._newest: dict[str, int] = {}
        # Learners die with the thread that started them, so it must be one that lasts; a caller's
        # may end early.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="learner-starter")

    def start(self, request: LearnerRequest) -> int:
        """Start an attempt; returns the learner's process id. The attempt that was started last is
        not started again.

        Raises `stale_attempt` for an attempt older than one seen of the same job, `busy` while
        another learner runs, `worker_lost` for an attempt that a former supervisor started.
        """
        with self._lock:
            if (
                self._learner is not None
                and self._learner.request.job_id == request.job_id
                and self._learner.request.attempt == request.attempt
            ):
                return self._learner.pid
            self._refuse_stale(request)
            if self._learner is not None and self._learner.result is None:
                running = self._learner.request
                raise PlatformError(
                    "busy",
                    f"Cannot start {request.job_id} attempt {request.attempt}: {running.job_id} attempt "
                    f"{running.attempt} is running, and a trainer runs one job at a time.",
                    hint="Stop it, wait for it, or add a trainer.",
                )
            learner = self._starter.submit(LearnerProcess, request, self._program).result()
            self._learner = learner
            self._newest[request.job_id] = request.attempt
        log.info("learner started", job_id=request.job_id, attempt=request.attempt, pid=learner.pid)
        return learner.pid

    def stop(self, job_id: str, attempt: int, grace_s: float) -> bool:
        """Send the attempt's learner SIGTERM, and SIGKILL after `grace_s`; False when it does not
        run.
        """
        learner = self._running(job_id, attempt)
        if learner is not None:
            learner.stop(grace_s)
        return learner is not None

    def dump_stacks(self, job_id: str, attempt: int) -> bool:
        """Have the attempt's learner write its stacks to its log; False when it does not run."""
        learner = self._running(job_id, attempt)
        if learner is not None:
            learner.dump_stacks()
        return learner is not None

    def _running(self, job_id: str, attempt: int) -> LearnerProcess | None:
        with self._lock:
            learner = self._learner
        if learner is None or learner.result is not None:
            return None
        return (
            learner
            if (learner.request.job_id, learner.request.attempt) == (job_id, attempt)
            else None
        )

    def status(self) -> SupervisorStatus:
        """State of the attempt last started, and memory of the whole service."""
        own = int(psutil.Process().memory_info().rss)
        with self._lock:
            learner = self._learner
        if learner is None:
            return SupervisorStatus("", 0, None, 0, own)
        # The result first: what is read after it is final.
        result = learner.result
        request = learner.request
        return SupervisorStatus(
            job_id=request.job_id,
            attempt=request.attempt,
            result=result,
            last_event_seq=last_seq(request.job_dir, request.attempt),
            rss_bytes=own + learner.rss_bytes(),
        )

    def status_of(self, job_id: str, attempt: int, job_dir: Path) -> SupervisorStatus:
        """State of this attempt, also of one that another supervisor started, from the files of
        its learner.

        The status of the attempt last started where the learner of this one wrote no result.
        """
        own = self.status()
        if (own.job_id, own.attempt) == (job_id, attempt):
            return own
        result = read_result(job_dir, attempt)
        if result is None:
            return own
        return SupervisorStatus(job_id, attempt, result, last_seq(job_dir, attempt), own.rss_bytes)

    def journal(self) -> Path | None:
        """Journal of the attempt last started, or None."""
        with self._lock:
            learner = self._learner
        return (
            None
            if learner is None
            else journal_path(learner.request.job_dir, learner.request.attempt)
        )

    def shutdown(self, grace_s: float) -> None:
        """End the running learner, if any, and return when it has ended."""
        with self._lock:
            learner = self._learner
        if learner is not None and learner.result is None:
            learner.stop(grace_s)
            learner.wait(grace_s + 5.0)
        self._starter.shutdown()

    def _refuse_stale(self, request: LearnerRequest) -> None:
        newest = self._newest.get(request.job_id, 0)
        if request.attempt <= newest:
            raise PlatformError(
                "stale_attempt",
                f"Cannot start attempt {request.attempt} of {request.job_id}: attempt {newest} was started here "
                "already. Attempts are numbered upwards.",
                hint="The caller's view of the job is out of date; read the job's state again.",
            )
