"""Idle time of the rollout engines, from the busy seconds that the replicas report."""

import time
from collections.abc import Callable

from services.common.job_metrics import JobMetric
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.trajectory_statistics import drop_missing

Mark = tuple[float, float]
"""Engines' busy seconds, and the clock."""


class Idleness:
    """Idle times of the engines, taken once per step."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        overlapped: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`overlapped`: replicas decode while the learner trains, so that the whole step
        counts.
        """
        self._replicas, self._overlapped, self._clock = replicas, overlapped, clock
        self._begun: Mark | None = None
        self._gathered: Mark | None = None

    def begin(self) -> None:
        """Note that a step begins to gather its batch."""
        if self._begun is None or not self._overlapped:
            self._begun = (self._replicas.busy_seconds(), self._clock())

    def end(self) -> dict[str, float]:
        """Note that the batch is complete; returns metrics. One is left out when a replica was
        restarted since.

        `perf/rollout_idle_ratio`: share of the gathering, or of the whole step, in which engines
        did not compute; `time/wait_for_trainer_s`: seconds per engine since the last batch was
        complete, from the second step on.
        """
        self._replicas.poll()
        now = (self._replicas.busy_seconds(), self._clock())
        begun, last, self._begun, self._gathered = self._begun, self._gathered, now, now
        ratio = (
            None
            if begun is None or (idle := self._idle(begun, now)) is None
            else idle / (now[1] - begun[1])
        )
        waited = None if last is None else self._idle(last, now)
        return drop_missing(
            {JobMetric.PERF_ROLLOUT_IDLE_RATIO: ratio, JobMetric.TIME_WAIT_FOR_TRAINER_S: waited}
        )

    def _idle(self, since: Mark, now: Mark) -> float | None:
        """Idle seconds per replica; None when the busy seconds decreased."""
        # A restarted replica counts from zero again; a difference over its restart is meaningless.
        busy, seconds = now[0] - since[0], now[1] - since[1]
        return max(0.0, seconds - busy / self._replicas.count) if busy > 0 else None
