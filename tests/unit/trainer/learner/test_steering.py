"""Requests of the user to a running job: revisions, checkpoints on demand, a fork with the
parent's ledger.
"""

from pathlib import Path
from typing import Any

import pytest

from services.api.adapters.job_files import adopt_checkpoint, archive_checkpoints
from services.common.attempt_result import AttemptResult
from services.common.checkpoint.format import list_checkpoints, read_manifest
from services.common.events import EventType
from services.common.model.tiny import make_tiny_model
from services.common.steering import (
    Revision,
    checkpoint_requests,
    write_checkpoint_request,
    write_revision,
)
from services.trainer.learner.step_log import surviving_records
from tests.support.learners import (
    StopAfterSteps,
    journal_of,
    learner_request,
    moved_digest,
    run_here,
)
from tests.support.trainer import of_kind, write_rows

STEPS = 5
ROWS = [{"prompt": f"{n}+{n}=?", "completion": str(2 * n), "answer": str(2 * n)} for n in range(10)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


def run(
    job_dir: Path, model: Path, rows: Path, *, stop_after: int = 99, attempt: int = 1, **sft: Any
) -> AttemptResult:
    spec = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(rows),
        "sft": {"batch_size": 4, "epochs": 3, "max_steps": STEPS, **sft},
        "checkpoint": {"interval_steps": 99, "keep_last": 9},
    }
    request = learner_request(job_dir, spec, attempt=attempt, model_path=model)
    return run_here(request, StopAfterSteps(stop_after))


def test_revisions_are_applied_in_order_between_two_steps_and_reported(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    write_revision(tmp_path, Revision(1, {"optim.lr": 1e-3}))
    write_revision(tmp_path, Revision(2, {"optim.lr": 2e-3, "checkpoint.interval_steps": 2}))

    assert run(tmp_path, model, rows).state == "succeeded"

    events = journal_of(tmp_path)
    reported = of_kind(events, EventType.REVISION)
    assert [(data["revision"], data["step"]) for data in reported] == [(1, 0), (2, 0)]
    rates = {
        data["values"]["train/lr"]
        for data in of_kind(events, EventType.METRICS)
        if "train/lr" in data["values"]
    }
    assert rates == {2e-3}
    assert [data["step"] for data in of_kind(events, EventType.CHECKPOINT)] == [2, 4, 5]


def test_a_revision_holds_for_the_attempts_that_follow(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    write_revision(tmp_path, Revision(1, {"optim.lr": 1e-3}))
    run(tmp_path, model, rows, stop_after=2)

    run(tmp_path, model, rows, attempt=2)

    assert [data["step"] for data in of_kind(journal_of(tmp_path, 2), EventType.REVISION)] == [2]


def test_a_checkpoint_that_was_asked_for_is_written_once_after_the_next_step(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    write_checkpoint_request(tmp_path, "ckpt_1")
    write_checkpoint_request(tmp_path, "ckpt_2")

    run(tmp_path, model, rows)

    assert [data["step"] for data in of_kind(journal_of(tmp_path), EventType.CHECKPOINT)] == [
        1,
        STEPS,
    ]
    assert checkpoint_requests(tmp_path) == []


def test_a_fork_resumes_with_the_parents_ledger_and_the_certificate_counts_its_steps(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    parent, child, grandchild = (tmp_path / name for name in ("parent", "child", "grandchild"))
    run(parent, model, rows, stop_after=2)
    adopt_checkpoint(list_checkpoints(parent / "checkpoints")[-1], parent, child)
    run(child, model, rows, stop_after=1)
    adopt_checkpoint(list_checkpoints(child / "checkpoints")[-1], child, grandchild)
    run(parent, model, rows, attempt=2)

    assert run(grandchild, model, rows).state == "succeeded"

    resumed, at_end = of_kind(journal_of(grandchild), EventType.CERTIFICATE)
    assert (
        resumed["resumed_from"],
        resumed["trained"],
        resumed["lost"],
        resumed["trained_twice"],
    ) == (3, 12, 0, 0)
    assert (at_end["trained"], at_end["issued"], at_end["lost"]) == (4 * STEPS, 4 * STEPS, 0)
    records, _ = surviving_records(grandchild, before_attempt=2, resumed_from=STEPS)
    assert [record.step for record in records] == list(range(1, STEPS + 1))
    newest = list_checkpoints(grandchild / "checkpoints")[-1]
    assert read_manifest(newest).weight_digest == moved_digest(parent, STEPS)


def test_a_rewound_job_resumes_from_the_checkpoint_that_is_left(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    write_checkpoint_request(tmp_path, "ckpt_1")
    run(tmp_path, model, rows)
    digest = moved_digest(tmp_path, STEPS)

    archive_checkpoints(tmp_path, 1, attempt=1)
    archived = list((tmp_path / "checkpoints").glob("archived-0001-step-*"))
    run(tmp_path, model, rows, attempt=2)

    assert len(archived) == 1
    resumed, at_end = of_kind(journal_of(tmp_path, 2), EventType.CERTIFICATE)
    assert (resumed["resumed_from"], at_end["trained"], at_end["trained_twice"]) == (
        1,
        4 * STEPS,
        0,
    )
    assert moved_digest(tmp_path, STEPS) == digest
    assert {read_manifest(path).global_step for path in archived} == {STEPS}
