"""A pool of worker processes that are killed at the deadline, one comparison each at a time.

Each slot is a thread that owns one worker. The deadline runs from the dispatch to the worker, not from the arrival: an
item never pays for the queue before it. A worker that overruns is killed and replaced while the other slots go on.
"""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from services.common.errors import PlatformError
from services.common.telemetry.logs import get_logger
from services.common.trajectory import Outcome
from services.reward.process import Worker, WorkerLostError, Zygote, ZygoteLostError

_MAX_CRASHES: Final = 2
_MAX_TRIES: Final = 4
_OUTCOMES: Final = {
    "correct": (Outcome.CORRECT, ""),
    "string_only": (Outcome.CORRECT, "string_only"),
    "incorrect": (Outcome.INCORRECT, ""),
    "answer_unparseable": (Outcome.INCORRECT, "answer_unparseable"),
    "gold_invalid": (Outcome.UNVERIFIABLE, "gold_invalid"),
    "memory": (Outcome.TOO_COMPLEX, "memory"),
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
    """A worker that got less CPU than this share of its deadline was starved: our fault, not the answer's."""


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
    future: "Future[Graded]"


class Pool:
    """Starts with `start`, which returns when every worker has passed its self-test; ends with `close`."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
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

    def start(self) -> None:
        """Start zygote and workers; raises PlatformError("verifier_unavailable")."""
        try:
            workers = [self._zygote.worker() for _ in range(self._config.workers)]
        except (ZygoteLostError, WorkerLostError, TimeoutError) as error:
            self.close()
            raise PlatformError(
                "verifier_unavailable", f"The verifier's processes did not start: {error!r}; see stderr."
            ) from error
        except PlatformError:
            self.close()
            raise
        self._slots = [_Slot(self._config, self._zygote, self._tasks, self._closing, worker) for worker in workers]

    def submit(
        self, pairs: Sequence[tuple[str, str]], *, timeout_s: float, expires_at: float
    ) -> "list[Future[Graded]]":
        """Compare (gold, answer) pairs; futures in their order, which always complete and never raise.

        `timeout_s` is wall time from dispatch; a pair not dispatched by `expires_at` (monotonic) is unverifiable.
        Raises PlatformError("busy") when the queue cannot take all of them.
        """
        now = time.monotonic()
        tasks = [_Task(gold, answer, timeout_s, now, expires_at, Future()) for gold, answer in pairs]
        with self._admission:
            if self._closing.is_set():
                raise PlatformError("verifier_unavailable", "The verifier is shutting down; it takes no more answers.")
            waiting = self._tasks.qsize()
            if waiting + len(tasks) > self._config.queue_size:
                raise PlatformError(
                    "busy",
                    f"{len(tasks)} comparisons were asked for while {waiting} of {self._config.queue_size} wait.",
                    hint="Try again later, or run more reward services.",
                )
            for task in tasks:
                self._tasks.put(task)
        return [task.future for task in tasks]

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

    def __init__(
        self,
        config: PoolConfig,
        zygote: Zygote,
        tasks: "queue.SimpleQueue[_Task | None]",
        closing: threading.Event,
        worker: Worker,
    ) -> None:
        self._config = config
        self._zygote = zygote
        self._tasks = tasks
        self._closing = closing
        self.worker: Worker | None = worker
        self.thread = threading.Thread(target=self._run, name="verifier-slot", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                graded = self._grade(task)
            except Exception:  # the thread must outlive any fault, and the caller must get an answer
                log.exception("verifier slot failed", gold=task.gold, answer=task.answer)
                self._discard()
                graded = Graded(Outcome.UNVERIFIABLE, "internal_error")
            task.future.set_result(graded)
        self._discard()

    def _grade(self, task: _Task) -> Graded:
        """Try until there is a verdict: again after a crash, once, and after the loss of the zygote."""
        queue_ms = 1000 * (time.monotonic() - task.arrived_at)
        crashes = 0
        for _ in range(_MAX_TRIES):
            if self._closing.is_set():
                return Graded(Outcome.UNVERIFIABLE, "shutting_down", queue_ms=queue_ms)
            if time.monotonic() > task.expires_at:
                return Graded(Outcome.UNVERIFIABLE, "overloaded", queue_ms=queue_ms)
            try:
                return self._dispatch(task, queue_ms)
            except WorkerLostError:
                crashes += self._discard() is not None
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
            reply = worker.ask(task.gold, task.answer, task.timeout_s)
        except TimeoutError:
            return self._overrun(task, queue_ms)
        wall_ms = 1000 * (time.monotonic() - started)
        outcome, reason = _OUTCOMES[reply["status"]]
        if reply["status"] == "memory" or worker.items >= self._config.items_per_worker:
            self._discard()
        return Graded(outcome, reason, 1000 * reply["cpu_s"], wall_ms, queue_ms)

    def _overrun(self, task: _Task, queue_ms: float) -> Graded:
        cpu_s = self._discard()
        wall_ms = 1000 * task.timeout_s
        if cpu_s is None:
            return Graded(Outcome.UNVERIFIABLE, "worker_lost", 0.0, wall_ms, queue_ms)
        if cpu_s < self._config.min_cpu_share * task.timeout_s:
            return Graded(Outcome.UNVERIFIABLE, "overloaded", 1000 * cpu_s, wall_ms, queue_ms)
        return Graded(Outcome.TOO_COMPLEX, "deadline", 1000 * cpu_s, wall_ms, queue_ms)

    def _discard(self) -> float | None:
        """Kill the worker; its CPU seconds since its last message, None when that cannot be known."""
        worker, self.worker = self.worker, None
        return None if worker is None else self._zygote.reap(worker)
