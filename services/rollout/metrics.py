"""What a replica tells Prometheus, read from its worker when asked."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.common.telemetry.metrics import new_registry
from services.rollout.assignment import ReplicaState
from services.rollout.worker import RolloutWorker

_LOAD_SECONDS: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_OF_REPLICA: Final = ("replica",)
_OF_ATTEMPT: Final = ("replica", "job_id", "attempt")


class RolloutMetrics:
    """Numbers of one replica, in a registry of its own."""

    def __init__(self, worker: RolloutWorker, replica: str) -> None:
        self.registry: CollectorRegistry = new_registry()
        self.load_seconds = Histogram(
            "dirl_rollout_weight_load_seconds",
            "Seconds from the first chunk of a weight version to its use.",
            buckets=_LOAD_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_WorkerCollector(worker, replica))


class _WorkerCollector(Collector):
    """State and totals of the engine thread."""

    def __init__(self, worker: RolloutWorker, replica: str) -> None:
        self._worker, self._name = worker, replica

    def collect(self) -> Iterator[Metric]:
        """Never waits for the engine thread."""
        yield self._states()
        totals, own = self._worker.totals, [self._name]
        tokens = CounterMetricFamily(
            "dirl_rollout_generated_tokens", "Tokens decoded.", labels=_OF_REPLICA
        )
        tokens.add_metric(own, totals.generated_tokens)
        yield tokens
        busy = CounterMetricFamily(
            "dirl_rollout_busy_seconds", "Seconds in which the engine computed.", labels=_OF_REPLICA
        )
        busy.add_metric(own, totals.busy_s)
        yield busy
        yield from self._of_attempt()

    def _states(self) -> Metric:
        states = GaugeMetricFamily(
            "dirl_rollout_state",
            "1 for the state that the replica is in.",
            labels=["replica", "state"],
        )
        current = self._worker.replica.state
        for state in ReplicaState:
            states.add_metric([self._name, state.value], float(state is current))
        return states

    def _of_attempt(self) -> Iterator[Metric]:
        """Of the assignment; no series while there is none."""
        inflight = GaugeMetricFamily(
            "dirl_rollout_inflight_groups", "Prompts taken and not answered.", labels=_OF_ATTEMPT
        )
        version = GaugeMetricFamily(
            "dirl_rollout_weight_version", "Weight version in use.", labels=_OF_ATTEMPT
        )
        replica = self._worker.replica
        if replica.assignment is not None:
            labels = [self._name, replica.assignment.job_id, str(replica.assignment.attempt)]
            inflight.add_metric(labels, self._worker.inflight_groups)
            if replica.weights is not None:
                version.add_metric(labels, replica.weights.version)
        yield inflight
        yield version
