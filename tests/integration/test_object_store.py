"""Copies of checkpoints in an object store: a real S3 server, the learner's own archiver, a volume
that is lost.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from services.common.attempt_result import AttemptResult
from services.common.checkpoint.archive import Archive, archive_of
from services.common.checkpoint.format import (
    CheckpointHeader,
    checkpoint_name,
    list_checkpoints,
    newest_valid,
)
from services.common.checkpoint.store import write_checkpoint
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.job_spec import CheckpointSpec
from services.common.model.tiny import make_tiny_model
from services.trainer.learner.lifecycle import StopSignal
from tests.support.learners import (
    StopAfterSteps,
    journal_of,
    learner_request,
    moved_digest,
    run_here,
)
from tests.support.trainer import of_kind, write_rows

URL = "s3://runs/team-a"
KEEP_ALL = CheckpointSpec(keep_last=99)
ROWS = [{"prompt": f"{n}+{n}=?", "completion": str(2 * n), "answer": str(2 * n)} for n in range(10)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, and the environment that leads to it."""
    values = {
        "ENDPOINT_URL_S3": endpoint,
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    made = boto3.resource("s3").Bucket("runs")
    made.create()
    yield made
    made.objects.all().delete()
    made.delete()


def keys(bucket: Any) -> list[str]:
    return [entry.key for entry in bucket.objects.all()]


def checkpoint(job_dir: Path, step: int) -> Path:
    header = CheckpointHeader(
        job_id="job_1",
        attempt=1,
        stage="sft",
        global_step=step,
        weight_version=step,
        weight_digest="d",
        parent=None,
        model={},
        diffusion={},
        created_at=1.0,
    )
    fill = lambda path: (path / "model.safetensors").write_text(f"weights of {step}")  # noqa: E731
    return write_checkpoint(job_dir / "checkpoints", header, fill)[0]


def archive(job_dir: Path) -> Archive:
    made = archive_of(URL, "job_1", job_dir)
    assert made is not None
    return made


def test_a_copy_comes_back_whole_with_the_journals_of_its_job(tmp_path: Path, bucket: Any) -> None:
    written = checkpoint(tmp_path / "a", 3)
    (tmp_path / "a/journal").mkdir()
    (tmp_path / "a/journal/steps-0001.jsonl").write_text("{}\n")
    archive(tmp_path / "a").add(written, KEEP_ALL, None)

    restored = archive(tmp_path / "b").restore()

    assert restored == tmp_path / "b/checkpoints/step-000003"
    assert newest_valid(tmp_path / "b/checkpoints") is not None
    assert (tmp_path / "b/journal/steps-0001.jsonl").read_text() == "{}\n"
    assert all(key.startswith("team-a/jobs/job_1/") for key in keys(bucket))


def test_what_was_not_stored_whole_is_not_there(tmp_path: Path, bucket: Any) -> None:
    job = archive(tmp_path)
    for step in (1, 2):
        job.add(checkpoint(tmp_path, step), KEEP_ALL, None)
    bucket.Object("team-a/jobs/job_1/checkpoints/step-000002/manifest.json").delete()

    assert job.steps() == [1]
    restored = archive(tmp_path / "b").restore()
    assert restored is not None
    assert restored.name == "step-000001"


def test_a_copy_that_was_changed_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, bucket: Any
) -> None:
    archive(tmp_path).add(checkpoint(tmp_path, 1), KEEP_ALL, None)
    bucket.Object("team-a/jobs/job_1/checkpoints/step-000001/model.safetensors").put(
        Body=b"weights of 2"
    )

    with pytest.raises(PlatformError) as raised:
        archive(tmp_path / "b").restore()

    assert raised.value.code == "checkpoint_invalid"
    assert list((tmp_path / "b").rglob("*")) == []


def test_the_store_keeps_what_the_volume_keeps(tmp_path: Path) -> None:
    job, rules = archive(tmp_path), CheckpointSpec(keep_last=2, keep_every=4)
    for step in range(1, 9):
        job.add(checkpoint(tmp_path, step), rules, checkpoint_name(3))

    assert job.steps() == [3, 4, 7, 8]


def test_a_job_that_is_deleted_leaves_nothing_and_others_all(tmp_path: Path, bucket: Any) -> None:
    archive(tmp_path).add(checkpoint(tmp_path, 1), KEEP_ALL, None)
    other = archive_of(URL, "job_10", tmp_path)
    assert other is not None
    other.add(checkpoint(tmp_path, 2), KEEP_ALL, None)

    archive(tmp_path).delete()

    assert keys(bucket)
    assert all("/job_10/" in key for key in keys(bucket))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


def run(
    job_dir: Path, model: Path, *, attempt: int = 1, stop_after: int | None = None, url: str = URL
) -> AttemptResult:
    spec = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(write_rows(model.parent / "rows.jsonl", ROWS)),
        "sft": {"batch_size": 4, "epochs": 3, "max_steps": 6},
        "checkpoint": {"interval_steps": 2, "keep_last": 2},
    }
    request = learner_request(
        job_dir, spec, attempt=attempt, model_path=model, object_store_url=url
    )
    return run_here(request, StopSignal() if stop_after is None else StopAfterSteps(stop_after))


def test_a_job_whose_volume_is_lost_goes_on_from_its_copy_and_its_certificate_holds(
    tmp_path: Path, model: Path
) -> None:
    undisturbed, lost = tmp_path / "undisturbed", tmp_path / "lost"
    run(undisturbed, model, url="s3://runs/other")
    assert run(lost, model, stop_after=3).state == "stopped"
    shutil.rmtree(lost)

    assert run(lost, model, attempt=2).state == "succeeded"

    events = journal_of(lost, 2)
    said = [data["code"] for data in of_kind(events, EventType.LOG)]
    certificates = of_kind(events, EventType.CERTIFICATE)
    assert "checkpoint_restored" in said
    assert certificates[0]["resumed_from"] == 3
    assert [(c["lost"], c["trained_twice"]) for c in certificates] == [(0, 0), (0, 0)]
    assert moved_digest(lost, 6) == moved_digest(undisturbed, 6)
    assert archive(lost).steps() == [4, 6]


def test_a_store_that_is_away_costs_a_warning_and_the_next_attempt_catches_up(
    tmp_path: Path, model: Path
) -> None:
    job_dir, away = tmp_path / "job", "s3://no-such-bucket"
    run(job_dir, model, stop_after=2, url=away)

    result = run(job_dir, model, attempt=2, url=away)

    said = [data["code"] for data in of_kind(journal_of(job_dir, 2), EventType.LOG)]
    assert result.state == "succeeded"
    assert "store_unavailable" in said
    run(job_dir, model, attempt=3)
    assert archive(job_dir).steps() == [4, 6]


def test_a_lost_volume_without_a_store_is_not_trained_again_from_nothing(
    tmp_path: Path, model: Path
) -> None:
    result = run(tmp_path, model, attempt=2, url="s3://no-such-bucket")

    assert (result.state, result.error_code, result.retryable) == (
        "failed",
        "store_unavailable",
        True,
    )


def test_what_a_rewind_undid_is_not_taken_for_the_newest(tmp_path: Path, model: Path) -> None:
    run(tmp_path, model)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        if path.name != "step-000004":
            path.rename(path.with_name(f"archived-0001-{path.name}"))

    run(tmp_path, model, attempt=2, stop_after=1)

    assert archive(tmp_path).steps() == [4, 5]
