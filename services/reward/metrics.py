"""Prometheus metrics of the reward service."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from services.common.telemetry import exported_metrics as exported


class RewardMetrics:
    """Counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.verifications = exported.REWARD_VERIFICATIONS.register(registry)
        self.latency = exported.REWARD_LATENCY_SECONDS.register(registry)
        self.kills = exported.REWARD_KILLS.register(registry)
        self.cache = exported.REWARD_CACHE_LOOKUPS.register(registry)
        self.duplicates = exported.REWARD_DUPLICATES.register(registry)

    def total_kills(self) -> int:
        """Number of killed workers, for all reasons."""
        samples = (sample for family in self.kills.collect() for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def watch(self, queue_depth: Callable[[], int], workers: Callable[[], int]) -> None:
        """Register gauges that call these functions at every scrape."""
        depth = exported.REWARD_QUEUE_DEPTH.register(self.registry)
        depth.set_function(queue_depth)
        alive = exported.REWARD_WORKERS.register(self.registry)
        alive.set_function(workers)
