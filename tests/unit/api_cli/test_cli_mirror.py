"""Metrics in an experiment tracker: real event files of TensorBoard, read by TensorBoard itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.api.cli import mirroring
from services.api.cli.failure import CommandError
from services.api.cli.mirroring import mirror_job
from services.api.cli.trackers import open_tracker
from services.api.schemas.jobs import JobView
from services.api.schemas.records import EventView
from tests.support.views import make_event_view, make_job_view

JOB = make_job_view()


class RunningJob:
    """The API, as far as mirroring asks it: a job that ends between two looks, with metrics that
    come late.
    """

    def __init__(self) -> None:
        self.states = iter(["running", "succeeded"])
        self.ready = [_event(1, {"train/loss": 0.5})]

    def job(self, job_id: str) -> JobView:
        return make_job_view(next(self.states))

    def metrics_after(self, job_id: str, after: str | None) -> Iterator[EventView]:
        yield from (event for event in self.ready if after is None or event.id > after)
        self.ready = [*self.ready, _event(2, {"train/loss": 0.25, "eval/gsm8k/avg@8": None})][:2]


def _event(step: int, values: dict[str, Any]) -> EventView:
    data = {"step": step, "values": values}
    return make_event_view("metrics", data, 1_700_000_000.0 + step, step)


def test_every_step_of_a_job_is_in_the_event_files_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "_POLL_S", 0)
    tracker = open_tracker(f"tensorboard:{tmp_path}", JOB)

    logged = mirror_job(RunningJob(), "job_1", tracker)  # type: ignore[arg-type]
    tracker.close()

    read = EventAccumulator(str(tmp_path / "job_1")).Reload()
    assert logged == 2
    assert read.Tags()["scalars"] == ["train/loss"]
    assert [(s.step, s.value, s.wall_time) for s in read.Scalars("train/loss")] == [
        (1, 0.5, 1_700_000_001.0),
        (2, 0.25, 1_700_000_002.0),
    ]


@pytest.mark.parametrize("target", ["sheets:x", "tensorboard", "tensorboard:"])
def test_an_unknown_tracker_is_refused_with_those_that_there_are(target: str) -> None:
    with pytest.raises(CommandError, match="tensorboard:…, wandb:…, mlflow:…, trackio:…"):
        open_tracker(target, JOB)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)

    with pytest.raises(CommandError, match="pip install wandb"):
        open_tracker("wandb:project", JOB)
