"""Prometheus metrics of a replica, read from its worker at every scrape."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.metrics import new_registry
from services.rollout.assignment import ReplicaState
from services.rollout.worker import RolloutWorker


class RolloutMetrics:
    """Metrics of one replica in their own registry."""

    def __init__(self, worker: RolloutWorker, replica: str) -> None:
        self.registry: CollectorRegistry = new_registry()
        self.load_seconds = exported.ROLLOUT_WEIGHT_LOAD_SECONDS.register(self.registry)
        self.registry.register(_WorkerCollector(worker, replica))


class _WorkerCollector(Collector):
    """State and totals of the engine thread."""

    def __init__(self, worker: RolloutWorker, replica: str) -> None:
        self._worker, self._name = worker, replica

    def collect(self) -> Iterator[Metric]:
        """Collect without waiting for the engine thread."""
        replica, totals, own = self._worker.replica, self._worker.totals, [self._name]
        states = exported.ROLLOUT_STATE.new_family()
        for state in ReplicaState:
            states.add_metric([self._name, state.value], float(state is replica.state))
        yield states
        tokens = exported.ROLLOUT_GENERATED_TOKENS.new_family()
        tokens.add_metric(own, totals.generated_tokens)
        yield tokens
        busy = exported.ROLLOUT_BUSY_SECONDS.new_family()
        busy.add_metric(own, totals.busy_s)
        yield busy
        # Without an assignment there is no series, so that no job keeps a stale value.
        inflight = exported.ROLLOUT_INFLIGHT_GROUPS.new_family()
        version = exported.ROLLOUT_WEIGHT_VERSION.new_family()
        if replica.assignment is not None:
            labels = [self._name, replica.assignment.job_id, str(replica.assignment.attempt)]
            inflight.add_metric(labels, self._worker.inflight_groups)
            if replica.weights is not None:
                version.add_metric(labels, replica.weights.version)
        yield inflight
        yield version
