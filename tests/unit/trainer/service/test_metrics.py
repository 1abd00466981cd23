"""What a trainer tells Prometheus of a learner that is another process."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from services.common.events import Event, EventType
from services.trainer.learner.journal import Journal, journal_path
from services.trainer.service.metrics import JournalTail, trainer_registry
from services.trainer.service.supervisor import LearnerSupervisor
from tests.support.learners import learner_request
from tests.support.trainer import wait_until

SPEC = {"model": "m", "method": "sft", "training_file": "rows.jsonl"}


class Nowhere:
    """Takes no events."""

    def send(self, event: Event) -> None:
        """Drop it."""


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, "job_1", 1, Nowhere(), clock=lambda: 1_700_000_000.0)
    yield made
    made.close()


def test_the_learners_newest_numbers_are_the_trainers(events: Journal, tmp_path: Path) -> None:
    supervisor = LearnerSupervisor([sys.executable, "-c", "import time; time.sleep(600)"])
    registry = trainer_registry(supervisor)
    idle = generate_latest(registry).decode()
    supervisor.start(learner_request(tmp_path, SPEC))
    for step in (1, 2):
        values = {"train/global_step": float(step), "train/loss": 0.5 / step, "time/step_s": 3.0}
        events.emit(EventType.METRICS, {"step": step, "values": values})

    running = generate_latest(registry).decode()
    supervisor.shutdown(0)
    wait_until(lambda: supervisor.status().state != "running", "the learner's end")
    ended = generate_latest(registry).decode()

    labels = '{attempt="1",job_id="job_1"}'
    assert 'dirl_trainer_state{state="idle"} 1.0' in idle
    assert "job_1" not in idle
    assert 'dirl_trainer_state{state="running"} 1.0' in running
    assert f"dirl_trainer_step{labels} 2.0" in running
    assert f"dirl_trainer_step_seconds{labels} 3.0" in running
    assert f"dirl_trainer_last_step_timestamp_seconds{labels} 1.7e+09" in running
    assert 'dirl_trainer_metric{attempt="1",job_id="job_1",name="train/loss"} 0.25' in running
    assert 'dirl_trainer_state{state="stopped"} 1.0' in ended
    # A job that runs no more has no newest step: an alert on silence would never end.
    assert "job_1" not in ended


def test_a_journal_is_read_once_and_a_line_that_is_being_written_later(
    events: Journal, tmp_path: Path
) -> None:
    events.emit(EventType.METRICS, {"step": 1, "values": {"train/loss": 1.0}})
    events.emit(
        EventType.LOG, {"level": "info", "code": "x", "message": '"type":"metrics" in a text'}
    )
    tail = JournalTail(journal_path(tmp_path, 1))
    tail.read()
    first = dict(tail.values)
    whole = journal_path(tmp_path, 1).read_bytes()
    events.emit(
        EventType.METRICS, {"step": 2, "values": {"train/loss": 0.5, "eval/gsm8k/avg@1": 0.2}}
    )
    line = journal_path(tmp_path, 1).read_bytes().removeprefix(whole)

    journal_path(tmp_path, 1).write_bytes(whole + line[:-5])
    tail.read()
    half = dict(tail.values)
    journal_path(tmp_path, 1).write_bytes(whole + line)
    tail.read()

    assert first == half == {"train/loss": 1.0}
    assert tail.values == {"train/loss": 0.5, "eval/gsm8k/avg@1": 0.2}
