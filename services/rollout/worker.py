"""The engine thread: the only one that touches model, engine and session. RPC handlers hand it
commands and wait.

Weights change only while nothing is decoded: an update stops the taking of prompts, prompts in
flight are finished, the new version is loaded, taking resumes. So a trajectory has exactly one weight
version. An exception of the engine makes the replica unhealthy; its prompts go back to the stream,
and the next full load of weights starts from a new model.
"""

import gc
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import psutil
import structlog
import torch
from torch import Tensor

from services.common.errors import PlatformError
from services.common.parity import ParityProbe
from services.common.telemetry.logs import get_logger
from services.rollout.assignment import Assignment, LoadedWeights, Replica, ReplicaState
from services.rollout.decoding_session import DecodingSession
from services.rollout.engines.base import RolloutEngine

_POLL_S: Final = 0.01
_JOIN_S: Final = 5.0

T = TypeVar("T")
OpenSession = Callable[[Assignment], DecodingSession]
"""Builds the model of an assignment and connects its streams; the model has no weights yet."""

log = get_logger()


@dataclass(frozen=True)
class WeightUpdate:
    """A complete, verified version on its way into the model."""

    job_id: str
    attempt: int
    weights: LoadedWeights
    tensors: Mapping[str, Tensor]
    probe: ParityProbe | None = None


@dataclass(frozen=True)
class WorkTotals:
    """Work of the replica since it started."""

    generated_tokens: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True)
class _Command:
    """A call that the engine thread makes for a waiting caller."""

    future: "Future[Any]"
    action: Callable[[], Any]
    drained: bool
    """Only when nothing is being decoded; no prompts are taken until then."""


class RolloutWorker:
    """Owns the engine thread of a replica."""

    def __init__(self, open_session: OpenSession) -> None:
        self._open_session = open_session
        self._replica = Replica()
        self._session: DecodingSession | None = None
        self._past = WorkTotals()
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._updates: deque[_Command] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def replica(self) -> Replica:
        """State, assignment, weights and last error, as of now."""
        session = self._session
        if session is not None and session.queue_error:
            return replace(self._replica, last_error=session.queue_error)
        return self._replica

    @property
    def inflight_groups(self) -> int:
        """Prompts taken and not yet answered."""
        session = self._session
        return 0 if session is None else session.inflight_groups

    @property
    def totals(self) -> WorkTotals:
        """Tokens generated and seconds computed since the process started."""
        session, past = self._session, self._past
        if session is None:
            return past
        engine = session.engine
        return WorkTotals(
            past.generated_tokens + engine.generated_tokens, past.busy_s + engine.busy_s
        )

    def assign(self, assignment: Assignment, timeout_s: float) -> None:
        """Build the model of an assignment, replacing an older one; nothing when it is assigned
        already.

        Raises PlatformError: "stale_attempt", "conflict", "model_invalid", or "deadline_exceeded"
        after `timeout_s` seconds (loading continues then; assign again to wait for it).
        """
        self._wait(
            self._post(partial(self._assign, assignment)), timeout_s, f"assigning {assignment}"
        )

    def release(self, job_id: str, attempt: int, timeout_s: float) -> bool:
        """End the assignment to this attempt or an older one of the job; returns whether there was
        one.
        """
        what = f"releasing {job_id} attempt {attempt}"
        return self._wait(self._post(partial(self._release, job_id, attempt)), timeout_s, what)

    def update_weights(self, update: WeightUpdate, timeout_s: float) -> bool:
        """Load a version once what is being decoded is finished; False when it was loaded already.

        Raises PlatformError: "stale_attempt", "stale_weights", "parity_violation",
        "deadline_exceeded" after `timeout_s` seconds (the version is then not loaded, unless
        loading had begun), or what the engine raises for unsuitable tensors.
        """
        future = self._post(partial(self._load, update), drained=True)
        return self._wait(future, timeout_s, f"loading weight version {update.weights.version}")

    def sleep(self, job_id: str, attempt: int, timeout_s: float) -> int:
        """Release the memory of weights and cache once nothing is decoded; returns the bytes.

        Raises PlatformError: "stale_attempt", "deadline_exceeded".
        """
        return self._wait(
            self._post(partial(self._sleep, job_id, attempt), drained=True),
            timeout_s,
            "going to sleep",
        )

    def stop(self) -> None:
        """End the thread within seconds; prompts in flight go back to the stream."""
        self._stopping.set()
        self._thread.join(_JOIN_S)
        self._cancel_commands()

    def _post(self, action: Callable[[], T], *, drained: bool = False) -> "Future[T]":
        future: Future[T] = Future()
        self._commands.put(_Command(future, action, drained))
        # stop() may have emptied the queue just before this command was added.
        if self._stopping.is_set():
            self._cancel_commands()
        return future

    def _wait(self, future: "Future[T]", timeout_s: float, what: str) -> T:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            message = f"The deadline of {timeout_s:.1f} s passed while {what}."
            raise PlatformError("deadline_exceeded", message) from None
        except CancelledError:
            raise PlatformError("worker_lost", f"The replica was stopped while {what}.") from None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._run_command()
                # Weights change between responses only, so an update waits for those in flight.
                if self._updates and not (self._session is not None and self._session.is_decoding):
                    _resolve(self._updates.popleft())
                if self._session is not None:
                    self._session.turn(
                        taking=self._replica.state is ReplicaState.READY and not self._updates
                    )
            except Exception as error:
                log.exception("engine failed")
                self._become_unhealthy(error)
        self._close_session()

    def _run_command(self) -> None:
        """Run a posted command; wait a moment for one when nothing is being decoded."""
        decoding = self._session is not None and self._session.is_decoding
        try:
            command = self._commands.get(timeout=0.0 if decoding else _POLL_S)
        except queue.Empty:
            return
        if command.drained:
            self._updates.append(command)
        else:
            _resolve(command)

    def _assign(self, assignment: Assignment) -> None:
        if not self._replica.needs(assignment):
            return
        self._close_session()
        structlog.contextvars.bind_contextvars(job_id=assignment.job_id, attempt=assignment.attempt)
        self._replica = self._replica.move_to(
            ReplicaState.LOADING, assignment=assignment, weights=None, last_error=""
        )
        try:
            self._session = self._open_session(assignment)
        except Exception as error:
            self._replica = self._replica.move_to(
                ReplicaState.IDLE, assignment=None, last_error=_describe(error)
            )
            raise
        self._replica = self._replica.move_to(ReplicaState.WAITING_FOR_WEIGHTS)
        log.info("assigned")

    def _release(self, job_id: str, attempt: int) -> bool:
        if not self._replica.holds(job_id, attempt):
            return False
        self._close_session()
        self._replica = self._replica.move_to(
            ReplicaState.IDLE, assignment=None, weights=None, last_error=""
        )
        log.info("released")
        structlog.contextvars.unbind_contextvars("job_id", "attempt")
        return True

    def _load(self, update: WeightUpdate) -> bool:
        if not self._replica.accepts(update.job_id, update.attempt, update.weights.version):
            return False
        try:
            if self._session is None:
                # The engine failed: its model may be damaged, so the weights go into a new one.
                if self._replica.assignment is None:
                    raise RuntimeError("weights were accepted without an assignment")
                self._session = self._open_session(self._replica.assignment)
            session = self._session
            session.engine.load_weights(update.tensors)
            weights = replace(
                update.weights, parity_gap=_measure_parity_gap(session.engine, update)
            )
        except Exception as error:
            # The model may hold parts of both versions.
            self._become_unhealthy(error)
            raise
        self._replica = self._replica.move_to(ReplicaState.READY, weights=weights, last_error="")
        session.use(weights)
        log.info(
            "weights loaded",
            weight_version=weights.version,
            weight_digest=weights.digest,
            gap=weights.parity_gap,
        )
        return True

    def _sleep(self, job_id: str, attempt: int) -> int:
        if not self._replica.may_sleep(job_id, attempt) or self._session is None:
            return 0
        before = _free_bytes()
        try:
            self._session.engine.sleep()
        except Exception as error:
            # The engine may hold a part of its memory.
            self._become_unhealthy(error)
            raise
        gc.collect()
        self._replica = self._replica.move_to(ReplicaState.SLEEPING)
        return _free_bytes() - before

    def _become_unhealthy(self, error: Exception) -> None:
        self._close_session()
        if self._replica.assignment is not None:
            self._replica = self._replica.move_to(
                ReplicaState.UNHEALTHY, weights=None, last_error=_describe(error)
            )

    def _close_session(self) -> None:
        """Abandon what is being decoded and free model and cache."""
        session, totals = self._session, self.totals
        if session is None:
            return
        self._past, self._session = totals, None
        try:
            session.close()
        except Exception:
            # The thread must survive, whatever the session still holds: no other thread reports the failure.
            log.exception("engine not closed")
        # Freed before the allocator returns its cache, which can only return unused memory.
        del session
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _cancel_commands(self) -> None:
        while not self._commands.empty():
            self._commands.get().future.cancel()
        for command in self._updates:
            command.future.cancel()


def _free_bytes() -> int:
    """Free bytes of the device, after what was freed was given back; without one, less what this process
    holds.
    """
    if not torch.cuda.is_available():
        return -int(psutil.Process().memory_info().rss)
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def _measure_parity_gap(engine: RolloutEngine, update: WeightUpdate) -> float | None:
    """How far the loaded weights' log-probabilities are from the learner's; None without a probe.

    Raises PlatformError("parity_violation") beyond the probe's tolerance.
    """
    if update.probe is None:
        return None
    gap = update.probe.gap(engine.replay(update.probe.paths))
    if gap > update.probe.tolerance:
        raise PlatformError(
            "parity_violation",
            f"Weight version {update.weights.version} of {update.job_id} is not used: the replica's log-probabilities "
            f"differ from the learner's by {gap:.3g} on the probe (relative to max(1, |log-prob|)); at most "
            f"{update.probe.tolerance:.3g} is allowed by rl.parity_tolerance.",
            hint="Look for another release, dtype or broken memory on that replica.",
        )
    return gap


def _resolve(command: _Command) -> None:
    """Run a command and give its result to the waiting caller; a cancelled one is skipped."""
    future = command.future
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(command.action())
    except PlatformError as error:
        log.warning("command refused", code=error.code, error=str(error))
        future.set_exception(error)
    except Exception as error:
        log.exception("command failed")
        future.set_exception(error)


def _describe(error: Exception) -> str:
    code = error.code if isinstance(error, PlatformError) else type(error).__name__
    return f"{code}: {error}"
