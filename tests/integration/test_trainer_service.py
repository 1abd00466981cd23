"""The trainer service as a process: real learners, killed, stopped, resumed, exported."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.checkpoint.format import newest_valid, verify
from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.model.loading import load_model
from services.common.model.state import export_state
from services.common.model.tiny import make_tiny_model
from services.common.pb.dirl.v1 import trainer_pb2
from services.common.rpc.client import call
from services.common.streams import EventConsumer, connect
from services.common.weights import weight_digest
from tests.support.trainer import (
    Job,
    Trainer,
    is_alive,
    of_kind,
    running_trainer,
    wait_until,
    write_rows,
)

ROWS = [{"prompt": f"{n}+{n}=?", "completion": str(2 * n)} for n in range(8)]
LONG = 1_000_000


@pytest.fixture
def trainer(tmp_path: Path, redis_url: str) -> Iterator[Trainer]:
    with running_trainer(tmp_path, redis_url) as trainer:
        yield trainer


def make_job(directory: Path, job_id: str, *, max_steps: int) -> Job:
    model, rows = directory / "model", directory / "rows.jsonl"
    if not model.exists():
        make_tiny_model(model, seed=0, hidden_size=16, layers=1, heads=2)
        write_rows(rows, ROWS)
    spec = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(rows),
        "sft": {"batch_size": 2, "epochs": LONG, "max_steps": max_steps},
        "checkpoint": {"interval_steps": 2},
    }
    return Job(job_id, directory / job_id, model, spec)


def test_a_job_runs_from_request_to_exported_model(
    trainer: Trainer, tmp_path: Path, redis_url: str
) -> None:
    job = make_job(tmp_path, "job_1", max_steps=3)

    trainer.start(job, 1)
    status = trainer.wait_for_end()

    assert status.state == "succeeded", status.error_message
    events = trainer.events(job, 1)
    assert [event.seq for event in events] == list(range(1, status.last_event_seq + 1))
    assert trainer.events(job, 1, after_seq=2, limit=3) == events[2:5]
    assert sent_events(redis_url) == events
    found = newest_valid(job.job_dir / "checkpoints")
    assert found is not None
    path, manifest = found
    assert of_kind(events, EventType.CHECKPOINT)[-1]["path"] == str(path)
    assert exported_digest(trainer, path, tmp_path / "exported") == manifest.weight_digest


def sent_events(redis_url: str) -> list[Event]:
    with connect(redis_url) as client:
        return [lease.value for lease in EventConsumer(client, "test").take(1000, 0)]


def exported_digest(trainer: Trainer, checkpoint: Path, output: Path) -> str:
    request = trainer_pb2.StartExportRequest(
        export_id="export_1", checkpoint_path=str(checkpoint), output_path=str(output)
    )
    call(trainer.stub.StartExport, request, timeout_s=10, what="StartExport")

    def status() -> trainer_pb2.GetExportResponse:
        asked = trainer_pb2.GetExportRequest(export_id="export_1")
        return call(trainer.stub.GetExport, asked, timeout_s=10, what="GetExport")

    wait_until(lambda: status().state != "running", "the export's end")
    assert status().state == "succeeded", status().error_message
    return weight_digest(export_state(load_model(output, "float32", "cpu").model))


def test_a_job_survives_a_kill_and_a_stop_and_its_attempts_are_fenced(
    trainer: Trainer, tmp_path: Path
) -> None:
    job, other = (
        make_job(tmp_path, "job_1", max_steps=LONG),
        make_job(tmp_path, "job_2", max_steps=1),
    )

    pid = trainer.start(job, 1)
    assert trainer.start(job, 1) == pid
    with pytest.raises(PlatformError) as busy:
        trainer.start(other, 1)
    trainer.wait_for_event(job, 1, EventType.CHECKPOINT, count=2)
    os.killpg(pid, signal.SIGKILL)
    killed = trainer.wait_for_end()

    trainer.start(job, 2)
    trainer.wait_for_event(job, 2, EventType.METRICS)
    assert trainer.stop(job, 2, grace_s=60)
    stopped = trainer.wait_for_end()
    with pytest.raises(PlatformError) as stale:
        trainer.start(job, 1)

    assert busy.value.code == "busy"
    assert (killed.state, killed.error_code, killed.retryable) == ("failed", "worker_lost", True)
    assert (stopped.state, stopped.attempt) == ("stopped", 2)
    assert stale.value.code == "stale_attempt"
    (certificate,) = of_kind(trainer.events(job, 2), EventType.CERTIFICATE)
    assert certificate["resumed_from"] >= 2
    assert (certificate["lost"], certificate["trained_twice"]) == (0, 0)
    assert certificate["digest_before"] == certificate["digest_after"]
    last_step = max(data["step"] for data in of_kind(trainer.events(job, 2), EventType.METRICS))
    assert verify(job.job_dir / "checkpoints" / f"step-{last_step:06d}").attempt == 2


def test_a_learner_does_not_outlive_its_supervisor_however_that_ends(
    tmp_path: Path, redis_url: str
) -> None:
    job = make_job(tmp_path, "job_1", max_steps=LONG)
    with running_trainer(tmp_path, redis_url) as trainer:
        pid = trainer.start(job, 1)
        trainer.wait_for_event(job, 1, EventType.PHASE)
        trainer.process.process.kill()

        wait_until(lambda: not is_alive(pid), "the learner's end", 10)

    with running_trainer(tmp_path, redis_url) as trainer:
        with pytest.raises(PlatformError) as lost:
            trainer.start(job, 1)
        pid = trainer.start(job, 2)

        assert trainer.process.terminate() == 0

        assert not is_alive(pid)
    assert lost.value.code == "worker_lost"


def test_a_request_that_makes_no_sense_is_refused_at_once(trainer: Trainer, tmp_path: Path) -> None:
    request = make_job(tmp_path, "job_1", max_steps=1).request(1)
    request.spec_json = '{"model": "m", "method": "sft", "training_file": "f", "unknown": 1}'

    with pytest.raises(PlatformError) as caught:
        call(trainer.stub.StartJob, request, timeout_s=10, what="StartJob")

    assert caught.value.code == "invalid_request"
    assert trainer.status().state == "idle"


def test_the_demos_model_is_made_once_and_kept(trainer: Trainer, tmp_path: Path) -> None:
    request = trainer_pb2.MakeTinyModelRequest(output_path=str(tmp_path / "tiny"), seed=3)

    call(trainer.stub.MakeTinyModel, request, timeout_s=60, what="MakeTinyModel")
    made = weight_digest(export_state(load_model(tmp_path / "tiny", "float32", "cpu").model))
    request.seed = 4
    call(trainer.stub.MakeTinyModel, request, timeout_s=60, what="MakeTinyModel")

    make_tiny_model(tmp_path / "same", seed=3)
    kept, same = (
        weight_digest(export_state(load_model(tmp_path / name, "float32", "cpu").model))
        for name in ("tiny", "same")
    )
    assert made == kept == same


def test_a_model_that_cannot_be_made_is_refused_with_the_reason(
    trainer: Trainer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    request = trainer_pb2.MakeTinyModelRequest(output_path=str(tmp_path / "file" / "model"))

    with pytest.raises(PlatformError, match=r"Cannot make a model at .*Not a directory"):
        call(trainer.stub.MakeTinyModel, request, timeout_s=60, what="MakeTinyModel")
