"""Metrics of a trainer for Prometheus: the supervisor's own state, and the newest values in its
learner's journal.

The learner is another process and serves nothing; what it reports is read from its journal when
Prometheus asks.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.common.job_metrics import JobMetric
from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.metrics import new_registry
from services.trainer.service.supervisor import LearnerSupervisor

_STATES: Final = ("idle", "running", "succeeded", "stopped", "failed")
_MARK: Final = b'"type":"metrics"'
_HEAD_BYTES: Final = 512
"""The type stands near the beginning of a journal's line; trajectories are long."""
_OWN_SERIES: Final[Mapping[str, exported.ExportedGauge]] = {
    JobMetric.TRAIN_GLOBAL_STEP: exported.TRAINER_STEP,
    JobMetric.TIME_STEP_S: exported.TRAINER_STEP_SECONDS,
    JobMetric.WEIGHTS_SYNC_S: exported.WEIGHTS_SYNC_SECONDS,
    JobMetric.WEIGHTS_SYNC_BYTES: exported.WEIGHTS_SYNC_BYTES,
}
"""Metrics of a job with a series of their own; the others share `dirl_trainer_metric`."""


@dataclass
class JournalTail:
    """The newest value of every metric in a journal that grows; reads each line once."""

    path: Path
    values: dict[str, float] = field(default_factory=dict)
    time: float | None = None
    """Unix seconds of the newest metrics."""
    _offset: int = 0

    def read(self) -> None:
        """Take in the whole lines that were added."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if _MARK in line[:_HEAD_BYTES] and (event := json.loads(line))["type"] == "metrics":
                    self.values.update(event["data"]["values"])
                    self.time = event["time"]


class TrainerCollector(Collector):
    """State of the supervisor and the newest metrics of its learner."""

    def __init__(self, supervisor: LearnerSupervisor) -> None:
        self._supervisor = supervisor
        self._tail: JournalTail | None = None
        self._lock = Lock()

    def collect(self) -> Iterator[Metric]:
        """Metrics of the attempt last started; none of a job before the first."""
        status = self._supervisor.status()
        states = exported.TRAINER_STATE.new_family()
        for state in _STATES:
            states.add_metric([state], float(state == status.state))
        yield states
        memory = exported.TRAINER_RESIDENT_BYTES.new_family()
        memory.add_metric([], status.rss_bytes)
        yield memory
        journal = self._supervisor.journal()
        if journal is not None and status.state == "running":
            yield from self._of_learner([status.job_id, str(status.attempt)], journal)

    def _of_learner(self, labels: list[str], journal: Path) -> Iterator[Metric]:
        values, newest = self._newest(journal)
        if newest is None:
            return
        last = exported.TRAINER_LAST_STEP.new_family()
        last.add_metric(labels, newest)
        yield last
        for key in _OWN_SERIES.keys() & values.keys():
            family = _OWN_SERIES[key].new_family()
            family.add_metric(labels, values[key])
            yield family
        others = exported.TRAINER_METRIC.new_family()
        for key in sorted(values.keys() - _OWN_SERIES.keys()):
            others.add_metric([*labels, key], values[key])
        yield others

    def _newest(self, journal: Path) -> tuple[dict[str, float], float | None]:
        with self._lock:
            if self._tail is None or self._tail.path != journal:
                self._tail = JournalTail(journal)
            self._tail.read()
            return dict(self._tail.values), self._tail.time


def trainer_registry(supervisor: LearnerSupervisor) -> CollectorRegistry:
    """Registry with every metric of a trainer."""
    registry = new_registry()
    registry.register(TrainerCollector(supervisor))
    return registry
