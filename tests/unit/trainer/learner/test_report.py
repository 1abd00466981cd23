"""What an attempt reports: registered metrics only, with the times measured since the last report."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.events import Event
from services.common.job_metrics import JobMetric
from services.trainer.learner.journal import (
    Journal,
    Reporter,
    UnregisteredMetricWarning,
    journal_path,
)


class Discard:
    """Takes no events."""

    def send(self, event: Event) -> None:
        """Drop it."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, "job_1", 1, Discard())
    yield made
    made.close()


def events(directory: Path) -> list[dict[str, Any]]:
    lines = journal_path(directory, 1).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_times_sum_is_reported_once(journal: Journal, tmp_path: Path) -> None:
    report = Reporter(journal)
    for _ in range(2):
        with report.record_time(JobMetric.TIME_TRAIN_S):
            pass
    measured = report.seconds(JobMetric.TIME_TRAIN_S)

    report.metrics(3, {JobMetric.TRAIN_LOSS: 0.5})
    report.metrics(4, {"reward/boxed/mean": 1.0})

    first, second = (event["data"] for event in events(tmp_path))
    assert first == {"step": 3, "values": {"train/loss": 0.5, "time/train_s": measured}}
    assert second == {"step": 4, "values": {"reward/boxed/mean": 1.0}}
    assert measured > 0
    assert report.seconds(JobMetric.TIME_TRAIN_S) == 0.0


def test_an_unregistered_name_is_an_error_in_tests(journal: Journal) -> None:
    with pytest.raises(UnregisteredMetricWarning, match="'train/los'"):
        Reporter(journal).metrics(1, {"train/los": 0.5})


def test_an_unregistered_name_is_left_out_and_named_once_while_the_job_runs_on(
    journal: Journal, tmp_path: Path
) -> None:
    report = Reporter(journal)

    values = {"train/los": 0.5, JobMetric.TRAIN_LOSS: 0.5}

    with pytest.warns(UnregisteredMetricWarning):
        report.metrics(1, values)
    report.metrics(2, values)

    found = events(tmp_path)
    assert [event["data"]["values"] for event in found if event["type"] == "metrics"] == [
        {"train/loss": 0.5},
        {"train/loss": 0.5},
    ]
    [logged] = [event["data"] for event in found if event["type"] == "log"]
    assert (logged["level"], logged["code"], logged["metric"]) == (
        "error",
        "unregistered_metric",
        "train/los",
    )
