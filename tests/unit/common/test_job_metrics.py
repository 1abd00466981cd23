"""The registry of a job's metrics and the charts that draw them."""

import pytest

from services.common.job_metrics import (
    CHART_GROUPS,
    CHARTS,
    LATENCY_PERCENTILES,
    OUTCOME_METRICS,
    PATTERNS,
    JobMetric,
    MetricUnit,
    find_chart,
    find_metric,
)
from services.common.trajectory import Outcome


def test_a_member_is_its_name_and_carries_its_description() -> None:
    metric = JobMetric.TRAIN_CLIP_FRACTION

    assert {metric: 0.5} == {"train/clip_fraction": 0.5}
    assert (metric.unit, metric.stages) == (MetricUnit.FRACTION, {"rl"})
    assert metric.meaning == "Fraction of tokens whose importance ratio was clipped."


def test_every_metric_is_described_by_a_sentence_and_reported_by_a_stage() -> None:
    for metric in (*JobMetric, *PATTERNS):
        assert metric.meaning[0].isupper() or metric.meaning[0].isdigit()
        assert metric.meaning.endswith(".")
        assert metric.stages


@pytest.mark.parametrize(
    ("suffix", "unit"),
    [
        ("_per_s", MetricUnit.TOKENS_PER_SECOND),
        ("_s", MetricUnit.SECONDS),
        ("_gib", MetricUnit.GIB),
        ("_ratio", MetricUnit.FRACTION),
        ("_fraction", MetricUnit.FRACTION),
        ("_rate", MetricUnit.FRACTION),
    ],
)
def test_a_suffix_names_the_unit(suffix: str, unit: MetricUnit) -> None:
    named = [metric for metric in JobMetric if metric.endswith(suffix)]
    if suffix == "_s":
        named = [metric for metric in named if not metric.endswith("_per_s")]

    assert named
    assert {metric.unit for metric in named} == {unit}


def test_a_name_with_a_parameter_is_found_by_its_pattern() -> None:
    patterns = {pattern.template: pattern for pattern in PATTERNS}

    assert find_metric("reward/my_grader/mean") is patterns["reward/{grader}/mean"]
    assert find_metric("eval/validation/avg@8") is patterns["eval/validation/avg@{k}"]
    assert patterns["eval/validation/pass@{k}"].format_name(k=4) == "eval/validation/pass@4"
    with pytest.raises(KeyError):
        patterns["eval/validation/pass@{k}"].format_name(n=4)


def test_a_fixed_name_is_found_itself() -> None:
    assert find_metric("reward/mean") is JobMetric.REWARD_MEAN
    assert all(find_metric(str(metric)) is metric for metric in JobMetric)


@pytest.mark.parametrize(
    "name",
    ["", "loss", "train/los", "train/loss/", "reward/a/b/mean", "reward//mean", "xtrain/loss"],
)
def test_another_name_is_not_found(name: str) -> None:
    assert find_metric(name) is None


def test_every_outcome_of_grading_has_a_metric() -> None:
    assert set(OUTCOME_METRICS) == {outcome.value for outcome in Outcome}
    assert OUTCOME_METRICS["truncated"] is JobMetric.REWARD_OUTCOME_TRUNCATED


def test_a_percentile_of_grading_time_is_named_after_its_number() -> None:
    assert {percent: str(metric) for percent, metric in LATENCY_PERCENTILES.items()} == {
        percent: f"reward/latency_p{percent}_s" for percent in (50, 95, 99)
    }


def test_the_lines_of_a_chart_share_a_unit_and_no_metric_is_drawn_twice() -> None:
    drawn = [metric for chart in CHARTS for metric in chart.lines]

    assert len(set(drawn)) == len(drawn)
    assert len({chart.id for chart in CHARTS}) == len(CHARTS) <= 12
    assert {chart.group for chart in CHARTS} == set(CHART_GROUPS)
    for chart in CHARTS:
        assert {metric.unit for metric in chart.lines} == {chart.unit}, chart.id


def test_a_chart_is_shown_for_the_stages_that_report_one_of_its_metrics() -> None:
    stages = {chart.id: chart.stages for chart in CHARTS}

    assert stages["accuracy"] == {"sft", "rl", "eval"}
    assert stages["loss"] == {"sft", "rl"}
    assert stages["clip-fraction"] == {"rl"}


def test_the_chart_of_a_metric_is_the_one_that_draws_it() -> None:
    chart = find_chart(JobMetric.EVAL_LOSS)

    assert chart is not None
    assert (chart.id, chart.lines[JobMetric.EVAL_LOSS]) == ("loss", "validation")
    assert find_chart(JobMetric.PERF_MFU) is None
