"""A pool of worker processes with one comparison each, which are killed at the deadline.

Each slot is a thread that owns one worker. The deadline starts when a comparison is dispatched to a
worker, not when it arrives, so that time in the queue does not count. A worker that exceeds it is
killed and replaced; the other slots are not affected.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Final

import psutil
from prometheus_client import CollectorRegistry

from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.common.trajectory import Outcome
from services.reward.cancellation import Cancellation
from services.reward.comparison_request import ComparisonRequest
from services.reward.metrics import RewardMetrics
from services.reward.process import Worker, WorkerLostError, Zygote, ZygoteLostError

_MAX_CRASHES: Final = 2
_MAX_ATTEMPTS: Final = 4
SHUTTING_DOWN: Final = "shutting_down"
_INITIAL_MEAN_S: Final = 0.005
_MEAN_WINDOW: Final = 100
"""Comparisons in the moving average of their duration."""
_MIN_WAIT_S: Final = 0.1
_OUTCOMES: Final = {
    "correct": (Outcome.CORRECT, ""),
    "string_only": (Outcome.CORRECT, "string_only"),
    "incorrect": (Outcome.INCORRECT, ""),
    "unevaluated": (Outcome.INCORRECT, "unevaluated"),
    "answer_unparseable": (Outcome.INCORRECT, "answer_unparseable"),
    "reference_answer_invalid": (Outcome.UNVERIFIABLE, "reference_answer_invalid"),
    "contradiction": (Outcome.UNVERIFIABLE, "contradiction"),
    "memory": (Outcome.TOO_COMPLEX, "memory"),
    "cpu_time": (Outcome.TOO_COMPLEX, "cpu_time"),
}

log = get_logger()


@dataclass(frozen=True)
class PoolConfig:
    """Size and limits of the pool."""

    workers: int
    memory_bytes: int = 1 << 30
    """Address space of one worker."""
    items_per_worker: int = 5000
    """Comparisons after which a worker is replaced."""
    queue_size: int = 16_384
    """Maximum number of queued comparisons."""
    min_cpu_share: float = 0.5
    """A worker that got less CPU time than this share of its deadline was starved by the machine, so the comparison is
    unverifiable and not too complex.
    """


@dataclass(frozen=True)
class PoolStatus:
    """State of the pool."""

    workers: int
    """Live workers."""
    max_workers: int
    waiting: int
    """Queued comparisons."""
    kills: int
    """Workers killed since the start, for all reasons."""
    rss_bytes: int
    """Resident memory of this process, the zygote and the workers; shared pages count for each."""


@dataclass(frozen=True)
class ComparisonResult:
    """Result of one comparison."""

    outcome: Outcome
    reason: str = ""
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    """From dispatch to verdict."""
    queue_ms: float = 0.0
    """From arrival to dispatch."""
    path: str = "none"
    """Method that found the outcome: formula | math_verify | none"""

    @property
    def is_deterministic(self) -> bool:
        """Whether the same pair always has this result, on any machine."""
        return self.outcome in (Outcome.CORRECT, Outcome.INCORRECT) or self.reason in (
            "reference_answer_invalid",
            "contradiction",
        )


@dataclass(frozen=True)
class _Task:
    request: ComparisonRequest
    timeout_s: float
    arrived_at: float
    expires_at: float
    cancellation: Cancellation
    future: "Future[ComparisonResult]"


class Pool:
    """The pool. `start` returns when every worker has passed its self-test; `close` ends the workers."""

    def __init__(self, config: PoolConfig, metrics: RewardMetrics | None = None) -> None:
        self._config = config
        self.metrics = metrics or RewardMetrics(CollectorRegistry())
        self.metrics.watch(lambda: self.waiting, lambda: len(self.worker_pids))
        self._load = _Load(config.workers)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._admission = threading.Lock()
        self._zygote = Zygote(config.memory_bytes)
        self._slots: list[_Slot] = []
        self._closing = threading.Event()

    @property
    def zygote_pid(self) -> int | None:
        """Process id of the zygote."""
        return self._zygote.pid

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    @property
    def waiting(self) -> int:
        """Queued comparisons."""
        return self._tasks.qsize()

    def status(self) -> PoolStatus:
        """Return the state without waiting."""
        pids = self.worker_pids
        kills = self.metrics.total_kills()
        rss_bytes = 0
        for pid in (os.getpid(), self.zygote_pid, *pids):
            # A worker may be replaced, and the zygote be lost, while its memory is read.
            if pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    rss_bytes += psutil.Process(pid).memory_info().rss
        return PoolStatus(len(pids), self._config.workers, self.waiting, kills, rss_bytes)

    def start(self) -> None:
        """Start the zygote and the workers; raises PlatformError("verifier_unavailable")."""
        try:
            workers = [self._zygote.fork_worker() for _ in range(self._config.workers)]
        except (ZygoteLostError, WorkerLostError, TimeoutError) as error:
            self.close()
            raise PlatformError(
                "verifier_unavailable",
                f"The processes of the verifier did not start: {error!r}. See stderr.",
            ) from error
        except PlatformError:
            self.close()
            raise
        self._slots = [_Slot(self, worker) for worker in workers]

    def submit(
        self,
        requests: Sequence[ComparisonRequest],
        *,
        timeout_s: float,
        expires_at: float,
        cancellation: Cancellation | None = None,
    ) -> "list[Future[ComparisonResult]]":
        """Compare answers; the futures, in the order of the requests, always complete and never raise.

        `timeout_s` is wall time from dispatch; a request not dispatched by `expires_at` (monotonic) is
        unverifiable. `cancellation` frees the workers early. Raises PlatformError("busy"), with the
        time after which to retry, when the queue cannot take all, and
        "verifier_unavailable" when the pool is closing.
        """
        now = time.monotonic()
        shared = cancellation or Cancellation()
        tasks = [
            _Task(request, timeout_s, now, expires_at, shared, Future()) for request in requests
        ]
        # One lock for check and submission: two batches cannot both take the last places, and nothing
        # is queued behind the end marks of close(), where no slot would take it.
        with self._admission:
            if self._closing.is_set():
                raise PlatformError(
                    "verifier_unavailable",
                    "The verifier is shutting down and accepts no more comparisons.",
                )
            waiting = self.waiting
            if waiting + len(tasks) > self._config.queue_size:
                raise PlatformError(
                    "busy",
                    f"The queue is full: {waiting} of {self._config.queue_size} wait, {len(tasks)} were submitted.",
                    hint="Retry later, or add reward workers.",
                    retry_after_s=self._load.estimate_seconds(waiting),
                )
            self._load.add(len(tasks))
            for task in tasks:
                self._tasks.put(task)
        return [task.future for task in tasks]

    @property
    def is_closing(self) -> bool:
        """Whether the pool accepts no more comparisons."""
        return self._closing.is_set()

    def drain(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for all submitted comparisons; callers stop submitting before."""
        self._load.wait_idle(timeout_s)

    def close(self) -> None:
        """End every process; queued comparisons become unverifiable. May be called twice."""
        with self._admission:
            self._closing.set()
            # One end mark per slot, behind the queued comparisons, which each get a result.
            for _ in self._slots:
                self._tasks.put(None)
        self._zygote.close()
        for slot in self._slots:
            slot.thread.join()


class _Slot:
    """A thread that owns one worker."""

    def __init__(self, pool: Pool, worker: Worker) -> None:
        self._config, self._metrics = pool._config, pool.metrics
        self._zygote, self._tasks, self._closing, self._load = (
            pool._zygote,
            pool._tasks,
            pool._closing,
            pool._load,
        )
        self.worker: Worker | None = worker
        self.thread = threading.Thread(target=self._run, name="verifier-slot", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                result = self._compare(task)
            except Exception:  # the thread must survive, and the caller must get a result
                log.exception("verifier slot failed", **asdict(task.request))
                self._discard("internal_error")
                result = ComparisonResult(Outcome.UNVERIFIABLE, "internal_error")
            task.future.set_result(result)
            self._load.remove(result.wall_ms / 1000)
            self._metrics.latency.observe((result.queue_ms + result.wall_ms) / 1000)
        self._discard("closing")

    def _compare(self, task: _Task) -> ComparisonResult:
        """Return the result; retries once after a crash, and after the loss of the zygote."""
        queue_ms = 1000 * (time.monotonic() - task.arrived_at)
        crashes = 0
        for _ in range(_MAX_ATTEMPTS):
            if self._closing.is_set():
                return ComparisonResult(Outcome.UNVERIFIABLE, SHUTTING_DOWN, queue_ms=queue_ms)
            if task.cancellation.is_cancelled:
                return ComparisonResult(Outcome.UNVERIFIABLE, "cancelled", queue_ms=queue_ms)
            if time.monotonic() > task.expires_at:
                return ComparisonResult(Outcome.UNVERIFIABLE, "overloaded", queue_ms=queue_ms)
            try:
                return self._dispatch(task, queue_ms)
            except WorkerLostError:
                lost = "cancelled" if task.cancellation.is_cancelled else "crash"
                crashes += self._discard(lost) is not None and lost == "crash"
            except (ZygoteLostError, TimeoutError, PlatformError) as error:
                log.warning("cannot start a verifier worker", error=repr(error))
            if crashes >= _MAX_CRASHES:
                log.warning("answer crashed the verifier twice", **asdict(task.request))
                return ComparisonResult(Outcome.TOO_COMPLEX, "crash", queue_ms=queue_ms)
        return ComparisonResult(Outcome.UNVERIFIABLE, "worker_lost", queue_ms=queue_ms)

    def _dispatch(self, task: _Task, queue_ms: float) -> ComparisonResult:
        worker = self.worker = self.worker or self._zygote.fork_worker()
        started = time.monotonic()
        try:
            with task.cancellation.covers(worker):
                reply = worker.ask(task.request, task.timeout_s)
        except TimeoutError:
            return self._kill_at_deadline(task, queue_ms, started)
        wall_ms = 1000 * (time.monotonic() - started)
        if reply["status"] == "too_complex":
            outcome, reason = Outcome.TOO_COMPLEX, reply["detail"]
        else:
            outcome, reason = _OUTCOMES[reply["status"]]
        if reply["status"] == "contradiction":
            log.error("the verifier contradicts itself", **asdict(task.request))
        # The worker compares its peak size with the limit, and a peak never falls: it would report
        # "memory" for every later answer that is incorrect.
        if reply["status"] == "memory" or worker.items >= self._config.items_per_worker:
            self._discard("memory" if reply["status"] == "memory" else "recycled")
        return ComparisonResult(
            outcome, reason, 1000 * reply["cpu_s"], wall_ms, queue_ms, reply["path"]
        )

    def _kill_at_deadline(self, task: _Task, queue_ms: float, started: float) -> ComparisonResult:
        cpu_s = self._discard("deadline")
        wall_ms = 1000 * (time.monotonic() - started)
        if cpu_s is None:
            return ComparisonResult(Outcome.UNVERIFIABLE, "worker_lost", 0.0, wall_ms, queue_ms)
        # A worker that hardly ran says nothing about the answer: the machine was overloaded.
        if cpu_s < self._config.min_cpu_share * task.timeout_s:
            return ComparisonResult(
                Outcome.UNVERIFIABLE, "overloaded", 1000 * cpu_s, wall_ms, queue_ms
            )
        return ComparisonResult(Outcome.TOO_COMPLEX, "deadline", 1000 * cpu_s, wall_ms, queue_ms)

    def _discard(self, reason: str) -> float | None:
        """Kill the worker; return its CPU seconds since its last message, None if they are unknown."""
        worker, self.worker = self.worker, None
        if worker is None:
            return None
        self._metrics.kills.labels(reason).inc()
        return self._zygote.reap(worker)


class _Load:
    """Number of open comparisons, and a moving average of their duration."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._open = 0
        self._mean_s = _INITIAL_MEAN_S
        self._changed = threading.Condition()

    def add(self, count: int) -> None:
        """Count submitted comparisons."""
        with self._changed:
            self._open += count

    def remove(self, seconds: float) -> None:
        """Count one finished comparison and its duration."""
        with self._changed:
            self._open -= 1
            self._mean_s += (seconds - self._mean_s) / _MEAN_WINDOW
            self._changed.notify_all()

    def estimate_seconds(self, waiting: int) -> float:
        """Estimate the time to finish so many comparisons at the recent pace."""
        return max(_MIN_WAIT_S, waiting * self._mean_s / self._workers)

    def wait_idle(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` until no comparison is open."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, timeout_s)
