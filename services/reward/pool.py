"""A pool of worker processes that are killed at the deadline, one comparison each at a time.

Each slot is a thread that owns one worker. The deadline runs from the dispatch to the worker, not
from the arrival: an item never pays for the queue before it. A worker that overruns is killed and
replaced while the other slots go on.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import psutil
from prometheus_client import CollectorRegistry

from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.common.trajectory import Outcome
from services.reward.cancellation import Cancellation
from services.reward.metrics import RewardMetrics
from services.reward.process import Worker, WorkerLostError, Zygote, ZygoteLostError

_MAX_CRASHES: Final = 2
_MAX_TRIES: Final = 4
SHUTTING_DOWN: Final = "shutting_down"
_FIRST_GUESS_S: Final = 0.005
_MEMORY: Final = 100
"""Comparisons over which the mean is taken."""
_LEAST_WAIT_S: Final = 0.1
_OUTCOMES: Final = {
    "correct": (Outcome.CORRECT, ""),
    "string_only": (Outcome.CORRECT, "string_only"),
    "incorrect": (Outcome.INCORRECT, ""),
    "answer_unparseable": (Outcome.INCORRECT, "answer_unparseable"),
    "gold_invalid": (Outcome.UNVERIFIABLE, "gold_invalid"),
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
    """A worker is replaced after so many comparisons."""
    queue_size: int = 16_384
    """Comparisons that may wait."""
    min_cpu_share: float = 0.5
    """A worker that got less CPU than this share of its deadline was starved: our fault, not the
    answer's.
    """


@dataclass(frozen=True)
class PoolStatus:
    """How the pool is."""

    workers: int
    """Live ones."""
    max_workers: int
    waiting: int
    """Comparisons that no worker has begun."""
    kills: int
    """Workers killed since the start, for whatever reason."""
    rss_bytes: int
    """Resident memory of this process, zygote and workers; pages that they share count for each."""


@dataclass(frozen=True)
class Graded:
    """What became of one comparison."""

    outcome: Outcome
    reason: str = ""
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    """From dispatch to verdict."""
    queue_ms: float = 0.0
    """From arrival to dispatch."""

    @property
    def is_deterministic(self) -> bool:
        """Whether the same pair would be judged so again, on any machine."""
        return self.outcome in (Outcome.CORRECT, Outcome.INCORRECT) or self.reason == "gold_invalid"


@dataclass(frozen=True)
class _Task:
    gold: str
    answer: str
    timeout_s: float
    arrived_at: float
    expires_at: float
    cancellation: Cancellation
    future: "Future[Graded]"


class Pool:
    """Starts with `start`, which returns when every worker has passed its self-test; ends with
    `close`.
    """

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
        """Comparisons that no worker has begun."""
        return self._tasks.qsize()

    def status(self) -> PoolStatus:
        """Waits for nothing."""
        pids = self.worker_pids
        kills = self.metrics.total_kills()
        return PoolStatus(
            len(pids),
            self._config.workers,
            self.waiting,
            kills,
            _resident((self.zygote_pid, *pids)),
        )

    def start(self) -> None:
        """Start zygote and workers; raises PlatformError("verifier_unavailable")."""
        try:
            workers = [self._zygote.worker() for _ in range(self._config.workers)]
        except (ZygoteLostError, WorkerLostError, TimeoutError) as error:
            self.close()
            raise PlatformError(
                "verifier_unavailable",
                f"The verifier's processes did not start: {error!r}; see stderr.",
            ) from error
        except PlatformError:
            self.close()
            raise
        self._slots = [_Slot(self, worker) for worker in workers]

    def submit(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        timeout_s: float,
        expires_at: float,
        cancellation: Cancellation | None = None,
    ) -> "list[Future[Graded]]":
        """Compare (gold, answer) pairs; futures in their order, which always complete and never
        raise.

        `timeout_s` is wall time from dispatch; a pair not dispatched by `expires_at` (monotonic) is
        unverifiable. `cancellation` frees the workers early. Raises PlatformError("busy"), with a
        hint when to come back, when the queue cannot take all of them, and "verifier_unavailable"
        once it closes.
        """
        now = time.monotonic()
        shared = cancellation or Cancellation()
        tasks = [
            _Task(gold, answer, timeout_s, now, expires_at, shared, Future())
            for gold, answer in pairs
        ]
        with self._admission:
            if self._closing.is_set():
                raise PlatformError(
                    "verifier_unavailable",
                    "The verifier is shutting down; it takes no more answers.",
                )
            waiting = self.waiting
            if waiting + len(tasks) > self._config.queue_size:
                raise PlatformError(
                    "busy",
                    f"{len(tasks)} comparisons were asked for while {waiting} of {self._config.queue_size} wait.",
                    hint="Try again later, or run more reward services.",
                    retry_after_s=self._load.seconds_for(waiting),
                )
            self._load.add(len(tasks))
            for task in tasks:
                self._tasks.put(task)
        return [task.future for task in tasks]

    def drain(self, timeout_s: float) -> None:
        """Wait until all that was submitted is judged, at most so long; callers stop submitting
        before.
        """
        self._load.wait_idle(timeout_s)

    def close(self) -> None:
        """End every process; what waits becomes unverifiable. May be called twice."""
        with self._admission:
            self._closing.set()
            for _ in self._slots:
                self._tasks.put(None)
        self._zygote.close()
        for slot in self._slots:
            slot.thread.join()


class _Slot:
    """One thread with one worker."""

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
                graded = self._grade(task)
            except (
                Exception
            ):  # the thread must outlive any fault, and the caller must get an answer
                log.exception("verifier slot failed", gold=task.gold, answer=task.answer)
                self._discard("internal_error")
                graded = Graded(Outcome.UNVERIFIABLE, "internal_error")
            task.future.set_result(graded)
            self._load.remove(graded.wall_ms / 1000)
            self._metrics.latency.observe((graded.queue_ms + graded.wall_ms) / 1000)
        self._discard("closing")

    def _grade(self, task: _Task) -> Graded:
        """Try until there is a verdict: again after a crash, once, and after the loss of the
        zygote.
        """
        queue_ms = 1000 * (time.monotonic() - task.arrived_at)
        crashes = 0
        for _ in range(_MAX_TRIES):
            if self._closing.is_set():
                return Graded(Outcome.UNVERIFIABLE, SHUTTING_DOWN, queue_ms=queue_ms)
            if task.cancellation.is_cancelled:
                return Graded(Outcome.UNVERIFIABLE, "cancelled", queue_ms=queue_ms)
            if time.monotonic() > task.expires_at:
                return Graded(Outcome.UNVERIFIABLE, "overloaded", queue_ms=queue_ms)
            try:
                return self._dispatch(task, queue_ms)
            except WorkerLostError:
                lost = "cancelled" if task.cancellation.is_cancelled else "crash"
                crashes += self._discard(lost) is not None and lost == "crash"
            except (ZygoteLostError, TimeoutError, PlatformError) as error:
                log.warning("verifier worker could not be made", error=repr(error))
            if crashes >= _MAX_CRASHES:
                log.warning("answer crashed the verifier twice", gold=task.gold, answer=task.answer)
                return Graded(Outcome.TOO_COMPLEX, "crash", queue_ms=queue_ms)
        return Graded(Outcome.UNVERIFIABLE, "worker_lost", queue_ms=queue_ms)

    def _dispatch(self, task: _Task, queue_ms: float) -> Graded:
        worker = self.worker = self.worker or self._zygote.worker()
        started = time.monotonic()
        try:
            with task.cancellation.covers(worker):
                reply = worker.ask(task.gold, task.answer, task.timeout_s)
        except TimeoutError:
            return self._overrun(task, queue_ms, started)
        wall_ms = 1000 * (time.monotonic() - started)
        outcome, reason = _OUTCOMES[reply["status"]]
        if reply["status"] == "memory" or worker.items >= self._config.items_per_worker:
            self._discard("memory" if reply["status"] == "memory" else "recycled")
        return Graded(outcome, reason, 1000 * reply["cpu_s"], wall_ms, queue_ms)

    def _overrun(self, task: _Task, queue_ms: float, started: float) -> Graded:
        cpu_s = self._discard("deadline")
        wall_ms = 1000 * (time.monotonic() - started)
        if cpu_s is None:
            return Graded(Outcome.UNVERIFIABLE, "worker_lost", 0.0, wall_ms, queue_ms)
        if cpu_s < self._config.min_cpu_share * task.timeout_s:
            return Graded(Outcome.UNVERIFIABLE, "overloaded", 1000 * cpu_s, wall_ms, queue_ms)
        return Graded(Outcome.TOO_COMPLEX, "deadline", 1000 * cpu_s, wall_ms, queue_ms)

    def _discard(self, reason: str) -> float | None:
        """Kill the worker; its CPU seconds since its last message, None when that cannot be known."""
        worker, self.worker = self.worker, None
        if worker is None:
            return None
        self._metrics.kills.labels(reason).inc()
        return self._zygote.reap(worker)


def _resident(pids: Iterable[int | None]) -> int:
    total = 0
    for pid in (os.getpid(), *(pid for pid in pids if pid is not None)):
        with contextlib.suppress(psutil.NoSuchProcess):  # replaced meanwhile
            total += psutil.Process(pid).memory_info().rss
    return total


class _Load:
    """How much is open, and how long one comparison takes."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._open = 0
        self._mean_s = _FIRST_GUESS_S
        self._changed = threading.Condition()

    def add(self, count: int) -> None:
        """Comparisons were submitted."""
        with self._changed:
            self._open += count

    def remove(self, seconds: float) -> None:
        """One was judged and took so long."""
        with self._changed:
            self._open -= 1
            self._mean_s += (seconds - self._mean_s) / _MEMORY
            self._changed.notify_all()

    def seconds_for(self, waiting: int) -> float:
        """When so many will be done, at the pace of late."""
        return max(_LEAST_WAIT_S, waiting * self._mean_s / self._workers)

    def wait_idle(self, timeout_s: float) -> None:
        """Until nothing is open, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, timeout_s)
