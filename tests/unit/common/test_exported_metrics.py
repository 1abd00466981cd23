"""The list of metrics that processes export, and what prometheus_client makes of its entries."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.exported_metrics import EXPORTED_METRICS


def test_the_list_has_every_entry_once_in_the_order_of_definition() -> None:
    names = [metric.name for metric in EXPORTED_METRICS]

    assert len(set(names)) == len(names)
    assert (names[0], names[-1]) == ("dirl_api_requests", "dirl_reward_workers")
    assert all(metric.meaning.endswith(".") for metric in EXPORTED_METRICS)


@pytest.mark.parametrize("metric", EXPORTED_METRICS, ids=lambda metric: metric.name)
def test_a_registered_metric_exports_the_series_that_its_entry_names(
    metric: exported.ExportedGauge | exported.ExportedCounter | exported.ExportedHistogram,
) -> None:
    registry = CollectorRegistry()
    made = metric.register(registry)
    if metric.labels:
        made.labels(*("x" for _ in metric.labels))

    text = generate_latest(registry).decode()

    assert f"# TYPE {metric.series[0].removesuffix('_bucket')} {metric.kind}" in text
    assert f"{metric.meaning}\n" in text
    for series in metric.series:
        assert f"\n{series}{{" in text if metric.labels else f"\n{series}" in text


def test_a_histogram_counts_in_its_own_buckets() -> None:
    registry = CollectorRegistry()
    exported.REWARD_LATENCY_SECONDS.register(registry).observe(0.02)

    text = generate_latest(registry).decode()

    assert 'dirl_reward_latency_seconds_bucket{le="0.01"} 0.0' in text
    assert 'dirl_reward_latency_seconds_bucket{le="0.03"} 1.0' in text


def test_a_family_for_a_collector_has_the_name_the_labels_and_the_meaning() -> None:
    gauge, counter = (
        exported.TRAINER_METRIC.new_family(),
        exported.ROLLOUT_BUSY_SECONDS.new_family(),
    )
    gauge.add_metric(["job_1", "2", "train/loss"], 0.5)
    counter.add_metric(["r0"], 3.0)

    assert gauge.documentation == exported.TRAINER_METRIC.meaning
    assert gauge.samples[0].labels == {"job_id": "job_1", "attempt": "2", "name": "train/loss"}
    assert (counter.samples[0].name, counter.samples[0].labels) == (
        "dirl_rollout_busy_seconds_total",
        {"replica": "r0"},
    )
