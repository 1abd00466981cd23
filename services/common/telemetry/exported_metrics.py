"""Every metric that a process of the platform exports to Prometheus: name, type, labels, meaning.

Processes create their counters and collectors from these entries, and the tests of monitoring/ and
docs/reference/metrics.md read them. The names of a job's own metrics are in
services/common/job_metrics.py; `dirl_trainer_metric` exports those of the running job.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Process = Literal["api", "scheduler", "recorder", "trainer", "rollout", "reward"]


@dataclass(frozen=True)
class ExportedMetric:
    """What every kind of metric has."""

    name: str
    """Name without the suffix that Prometheus adds to the series of counters and histograms."""
    process: Process
    meaning: str
    labels: tuple[str, ...] = ()


class ExportedGauge(ExportedMetric):
    """A value that goes up and down."""

    kind: ClassVar[str] = "gauge"

    @property
    def series(self) -> tuple[str, ...]:
        """Names that queries may use."""
        return (self.name,)

    def register(self, registry: CollectorRegistry) -> Gauge:
        """Create the gauge in a registry."""
        return Gauge(self.name, self.meaning, self.labels, registry=registry)

    def new_family(self) -> GaugeMetricFamily:
        """Create an empty family, for a collector that fills it when Prometheus asks."""
        return GaugeMetricFamily(self.name, self.meaning, labels=self.labels)


class ExportedCounter(ExportedMetric):
    """A total that only grows while the process lives."""

    kind: ClassVar[str] = "counter"

    @property
    def series(self) -> tuple[str, ...]:
        """Names that queries may use."""
        return (f"{self.name}_total",)

    def register(self, registry: CollectorRegistry) -> Counter:
        """Create the counter in a registry."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def new_family(self) -> CounterMetricFamily:
        """Create an empty family, for a collector that fills it when Prometheus asks."""
        return CounterMetricFamily(self.name, self.meaning, labels=self.labels)


@dataclass(frozen=True)
class ExportedHistogram(ExportedMetric):
    """A distribution, counted in buckets."""

    kind: ClassVar[str] = "histogram"
    buckets: tuple[float, ...] = Histogram.DEFAULT_BUCKETS
    """Upper bounds."""

    @property
    def series(self) -> tuple[str, ...]:
        """Names that queries may use."""
        return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))

    def register(self, registry: CollectorRegistry) -> Histogram:
        """Create the histogram in a registry."""
        return Histogram(
            self.name, self.meaning, self.labels, registry=registry, buckets=self.buckets
        )


API_REQUESTS: Final = ExportedCounter(
    "dirl_api_requests", "api", "HTTP requests answered.", ("method", "route", "status")
)
API_REQUEST_SECONDS: Final = ExportedHistogram(
    "dirl_api_request_seconds",
    "api",
    "Seconds from a request to the start of its response.",
    ("method", "route"),
)
JOBS: Final = ExportedGauge("dirl_jobs", "api", "Jobs by state.", ("status",))
JOBS_STALLED: Final = ExportedGauge("dirl_jobs_stalled", "api", "Jobs that make no progress.")
SERVICE_LAST_SEEN: Final = ExportedGauge(
    "dirl_service_last_seen_timestamp_seconds",
    "api",
    "Unix time of the last heartbeat of the scheduler, beat and the recorder.",
    ("service",),
)
# /metrics of the API is open, so its series name no job; those of the other processes, whose ports are
# for Prometheus alone, do.
_OF_QUEUE: Final = ("queue",)
QUEUE_DEPTH: Final = ExportedGauge(
    "dirl_queue_depth",
    "api",
    "Entries of the streams of all running jobs that are pending or leased.",
    _OF_QUEUE,
)
QUEUE_BYTES: Final = ExportedGauge(
    "dirl_queue_bytes", "api", "Memory of the streams of all running jobs.", _OF_QUEUE
)
QUEUE_OLDEST_AGE: Final = ExportedGauge(
    "dirl_queue_oldest_age_seconds",
    "api",
    "Age of the oldest entry in the streams of all running jobs.",
    _OF_QUEUE,
)

SCHEDULER_TASKS: Final = ExportedCounter(
    "dirl_scheduler_tasks",
    "scheduler",
    "Tasks finished, by outcome: done or failed.",
    ("task", "outcome"),
)
SCHEDULER_TASK_SECONDS: Final = ExportedHistogram(
    "dirl_scheduler_task_seconds",
    "scheduler",
    "Seconds of one task.",
    ("task",),
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)

RECORDER_EVENTS: Final = ExportedCounter(
    "dirl_recorder_events", "recorder", "Events recorded, repeated ones included."
)
RECORDER_BATCH_SECONDS: Final = ExportedHistogram(
    "dirl_recorder_batch_seconds", "recorder", "Seconds to record the events of one attempt."
)

_OF_ATTEMPT: Final = ("job_id", "attempt")
TRAINER_STATE: Final = ExportedGauge(
    "dirl_trainer_state", "trainer", "1 for the current state of the trainer, else 0.", ("state",)
)
TRAINER_RESIDENT_BYTES: Final = ExportedGauge(
    "dirl_trainer_resident_bytes", "trainer", "Resident memory of the service and its learner."
)
TRAINER_LAST_STEP: Final = ExportedGauge(
    "dirl_trainer_last_step_timestamp_seconds",
    "trainer",
    "Unix time at which the running job last reported metrics.",
    _OF_ATTEMPT,
)
TRAINER_STEP: Final = ExportedGauge(
    "dirl_trainer_step", "trainer", "Steps of the running job so far.", _OF_ATTEMPT
)
TRAINER_STEP_SECONDS: Final = ExportedGauge(
    "dirl_trainer_step_seconds", "trainer", "Seconds of the last step.", _OF_ATTEMPT
)
WEIGHTS_SYNC_SECONDS: Final = ExportedGauge(
    "dirl_weights_sync_seconds",
    "trainer",
    "Seconds of the last weight sync to all replicas.",
    _OF_ATTEMPT,
)
WEIGHTS_SYNC_BYTES: Final = ExportedGauge(
    "dirl_weights_sync_bytes",
    "trainer",
    "Bytes of the last weight sync, all replicas together.",
    _OF_ATTEMPT,
)
TRAINER_METRIC: Final = ExportedGauge(
    "dirl_trainer_metric",
    "trainer",
    "Latest value of every other metric of the running job, by its name.",
    (*_OF_ATTEMPT, "name"),
)

_OF_REPLICA: Final = ("replica",)
ROLLOUT_STATE: Final = ExportedGauge(
    "dirl_rollout_state",
    "rollout",
    "1 for the current state of the replica, else 0.",
    ("replica", "state"),
)
ROLLOUT_GENERATED_TOKENS: Final = ExportedCounter(
    "dirl_rollout_generated_tokens", "rollout", "Tokens generated.", _OF_REPLICA
)
ROLLOUT_BUSY_SECONDS: Final = ExportedCounter(
    "dirl_rollout_busy_seconds", "rollout", "Seconds in which the engine computed.", _OF_REPLICA
)
ROLLOUT_INFLIGHT_GROUPS: Final = ExportedGauge(
    "dirl_rollout_inflight_groups",
    "rollout",
    "Prompts in flight: leased and without a response yet.",
    (*_OF_REPLICA, *_OF_ATTEMPT),
)
ROLLOUT_WEIGHT_VERSION: Final = ExportedGauge(
    "dirl_rollout_weight_version",
    "rollout",
    "Weight version in use.",
    (*_OF_REPLICA, *_OF_ATTEMPT),
)
ROLLOUT_WEIGHT_LOAD_SECONDS: Final = ExportedHistogram(
    "dirl_rollout_weight_load_seconds",
    "rollout",
    "Seconds from the first chunk of a weight version to its use.",
    buckets=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
)

REWARD_VERIFICATIONS: Final = ExportedCounter(
    "dirl_reward_verifications", "reward", "Responses graded, by outcome.", ("outcome",)
)
REWARD_LATENCY_SECONDS: Final = ExportedHistogram(
    "dirl_reward_latency_seconds",
    "reward",
    "Seconds from the arrival of a comparison to its verdict.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
REWARD_KILLS: Final = ExportedCounter(
    "dirl_reward_kills", "reward", "Worker processes killed, by reason.", ("reason",)
)
REWARD_CACHE_LOOKUPS: Final = ExportedCounter(
    "dirl_reward_cache_lookups",
    "reward",
    "Comparisons looked up in the cache, by result: hit or miss.",
    ("result",),
)
REWARD_DUPLICATES: Final = ExportedCounter(
    "dirl_reward_duplicates",
    "reward",
    "Responses that shared a comparison with another response of their batch.",
)
REWARD_QUEUE_DEPTH: Final = ExportedGauge(
    "dirl_reward_queue_depth", "reward", "Comparisons that wait for a worker."
)
REWARD_WORKERS: Final = ExportedGauge("dirl_reward_workers", "reward", "Live worker processes.")

EXPORTED_METRICS: Final = tuple(
    value
    for value in tuple(globals().values())
    if isinstance(value, ExportedGauge | ExportedCounter | ExportedHistogram)
)
"""All of the above, in the order of definition; found by type so that none can be forgotten."""
