"""What the reward service counts, for Prometheus."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class RewardMetrics:
    """Counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.verifications = Counter(
            "dirl_reward_verifications",
            "Responses judged, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "dirl_reward_latency_seconds",
            "Seconds from the arrival of a comparison to its verdict.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.kills = Counter(
            "dirl_reward_kills", "Workers killed, by reason.", ["reason"], registry=registry
        )
        self.cache = Counter(
            "dirl_reward_cache_lookups",
            "Comparisons looked up, by result: hit or miss.",
            ["result"],
            registry=registry,
        )
        self.duplicates = Counter(
            "dirl_reward_duplicates",
            "Responses that shared a comparison of their batch.",
            registry=registry,
        )

    def total_kills(self) -> int:
        """Workers killed, for whatever reason."""
        samples = (sample for family in self.kills.collect() for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def watch(self, queue_depth: Callable[[], int], workers: Callable[[], int]) -> None:
        """Read these when asked: comparisons that wait, live workers."""
        depth = Gauge("dirl_reward_queue_depth", "Comparisons that wait.", registry=self.registry)
        depth.set_function(queue_depth)
        alive = Gauge("dirl_reward_workers", "Live worker processes.", registry=self.registry)
        alive.set_function(workers)
