"""Whole supervised attempts of a tiny model, in the test's process: repeatable, resumable,
accounted for.
"""

import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from services.common.attempt_result import AttemptResult
from services.common.checkpoint.format import list_checkpoints, newest_valid, verify
from services.common.events import EventType
from services.common.model.loading import load_model
from services.common.model.prompts import encode_prompt
from services.common.model.state import export_state
from services.common.model.tiny import make_tiny_model
from services.common.weights import weight_digest
from services.trainer.learner.journal import Journal, last_seq
from services.trainer.learner.lifecycle import StopSignal
from services.trainer.training.policy_model import PolicyModel, Snapshot
from tests.support.learners import (
    StopAfterSteps,
    journal_of,
    learner_request,
    moved_digest,
    run_here,
)
from tests.support.trainer import of_kind, write_rows

NUM_ROWS = 10
STEPS = 6
ROWS = [
    {"prompt": f"{n}+{n}=?", "completion": str(2 * n), "answer": str(2 * n)}
    for n in range(NUM_ROWS)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> str:
    """Digest after all steps of one attempt."""
    job_dir = tmp_path_factory.mktemp("uninterrupted")
    assert run(job_dir, model, rows).state == "succeeded"
    return moved_digest(job_dir, STEPS)


def run(
    job_dir: Path,
    model: Path,
    rows: Path,
    *,
    attempt: int = 1,
    stop_after: int | None = None,
    **changes: Any,
) -> AttemptResult:
    stop = StopSignal() if stop_after is None else StopAfterSteps(stop_after)
    return run_here(
        learner_request(job_dir, spec(rows, **changes), attempt=attempt, model_path=model), stop
    )


def spec(rows: Path, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(rows),
        "seed": 5,
        "sft": {"batch_size": 4, "epochs": 3, "max_steps": STEPS, "noise": "block"},
        "optim": {"lr": 1e-2, "scheduler": "cosine", "warmup_steps": 2},
        "checkpoint": {"interval_steps": 2, "keep_last": 9},
    }
    return {**fields, **changes}


def checkpoint_steps(job_dir: Path) -> list[int]:
    return [verify(path).global_step for path in list_checkpoints(job_dir / "checkpoints")]


def test_two_runs_of_one_spec_give_the_same_weights(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows)

    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_another_seed_gives_other_weights(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows, seed=6)

    assert moved_digest(tmp_path, STEPS) != uninterrupted


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_stopped_and_resumed_job_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str, stop_after: int
) -> None:
    first = run(tmp_path, model, rows, stop_after=stop_after)
    steps_after_stop = checkpoint_steps(tmp_path)
    second = run(tmp_path, model, rows, attempt=2)

    assert (first.state, second.state) == ("stopped", "succeeded")
    assert steps_after_stop[-1] == stop_after
    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_after_a_resume_the_certificate_holds_and_the_weights_are_the_stored_ones(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows, stop_after=3)
    run(tmp_path, model, rows, attempt=2)

    certificate, at_end = of_kind(journal_of(tmp_path, 2), EventType.CERTIFICATE)
    assert (at_end["moment"], at_end["trained"]) == ("end", 4 * STEPS)
    assert at_end["digest_before"] == at_end["digest_after"]
    assert certificate["digest_before"] == certificate["digest_after"]
    counts = {
        name: certificate[name]
        for name in ("resumed_from", "issued", "trained", "open", "lost", "trained_twice")
    }
    assert counts == {
        "resumed_from": 3,
        "issued": 12,
        "trained": 12,
        "open": 0,
        "lost": 0,
        "trained_twice": 0,
    }
    assert of_kind(journal_of(tmp_path, 1), EventType.CERTIFICATE) == []


def test_a_truncated_checkpoint_is_passed_over_and_its_steps_are_repeated(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows, stop_after=5)
    broken = tmp_path / "checkpoints" / "step-000005" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-10])

    run(tmp_path, model, rows, attempt=2)

    events = journal_of(tmp_path, 2)
    certificate, _ = of_kind(events, EventType.CERTIFICATE)
    (undone,) = [data for data in of_kind(events, EventType.LOG) if data["code"] == "steps_undone"]
    assert (certificate["resumed_from"], certificate["trained"], certificate["lost"]) == (4, 16, 0)
    assert undone["steps"] == [5]
    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_a_planted_duplicate_breaks_the_certificate_of_the_resumed_job(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows, stop_after=3)
    log = tmp_path / "journal" / "steps-0001.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[2]["trained"][0] = lines[1]["trained"][0]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))

    run(tmp_path, model, rows, attempt=2)

    events = journal_of(tmp_path, 2)
    certificate, _ = of_kind(events, EventType.CERTIFICATE)
    assert (certificate["lost"], certificate["trained_twice"]) == (1, 1)
    assert "certificate_broken" in [data["code"] for data in of_kind(events, EventType.LOG)]


def test_every_step_reports_metrics_progress_and_times(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows)

    events = journal_of(tmp_path)
    steps = [data for data in of_kind(events, EventType.METRICS) if "train/loss" in data["values"]]
    assert [data["step"] for data in steps] == list(range(1, STEPS + 1))
    wanted = {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "time/step_s",
        "time/train_s",
        "weights/version",
    }
    assert all(wanted <= data["values"].keys() for data in steps)
    progress = of_kind(events, EventType.PROGRESS)
    assert [data["step"] for data in progress] == list(range(STEPS + 1))
    assert {data["total_steps"] for data in progress} == {STEPS}
    phases = [data["phase"] for data in of_kind(events, EventType.PHASE)]
    assert phases[:4] == ["loading", "train", "checkpoint", "train"]


def test_checkpoints_are_written_at_intervals_and_at_the_end_and_old_ones_go(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    rules = {"interval_steps": 1, "keep_last": 2, "keep_every": 3}
    run(tmp_path, model, rows, checkpoint=rules)

    events = of_kind(journal_of(tmp_path), EventType.CHECKPOINT)
    deleted = [Path(path).name for data in events for path in data["deleted"]]
    assert checkpoint_steps(tmp_path) == [3, 5, 6]
    assert [data["step"] for data in events] == [1, 2, 3, 4, 5, 6]
    assert deleted == ["step-000001", "step-000002", "step-000004"]


def test_a_checkpoint_is_a_model_directory_with_the_weights_it_states(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows)

    found = newest_valid(tmp_path / "checkpoints")
    assert found is not None
    path, manifest = found
    loaded = load_model(path, "float32", "cpu")
    assert weight_digest(export_state(loaded.model)) == manifest.weight_digest
    assert (manifest.parent, manifest.weight_version, manifest.stage) == (
        "step-000004",
        STEPS,
        "sft",
    )


def test_a_finished_job_that_is_started_again_trains_nothing_more(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows)
    again = run(tmp_path, model, rows, attempt=2)

    assert again.state == "succeeded"
    trained = [
        [
            data["step"]
            for data in of_kind(journal_of(tmp_path, attempt), EventType.METRICS)
            if "train/loss" in data["values"]
        ]
        for attempt in (1, 2)
    ]
    assert trained == [list(range(1, STEPS + 1)), []]
    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_rows_that_are_too_long_are_dropped_and_counted(tmp_path: Path, model: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x" * 400, "completion": "y"}])

    run(tmp_path / "job", model, rows, prompt={"max_prompt_tokens": 200})

    (said,) = [
        data
        for data in of_kind(journal_of(tmp_path / "job"), EventType.LOG)
        if data["code"] == "rows_too_long"
    ]
    assert (said["dropped"], said["kept"]) == (1, NUM_ROWS)


def test_a_resume_with_other_rows_is_refused(tmp_path: Path, model: Path, rows: Path) -> None:
    own = tmp_path / "own.jsonl"
    shutil.copy(rows, own)
    run(tmp_path / "job", model, own, stop_after=2)
    write_rows(own, ROWS[:-1])

    result = run(tmp_path / "job", model, own, attempt=2)

    assert (result.state, result.error_code, result.retryable) == (
        "failed",
        "dataset_invalid",
        False,
    )


def break_checkpoints(job_dir: Path, *steps: int) -> None:
    for step in steps:
        weights = job_dir / "checkpoints" / f"step-{step:06d}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])


def test_a_job_whose_checkpoints_are_all_broken_stops_before_it_undoes_more_than_is_allowed(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows)
    break_checkpoints(tmp_path, 2, 4, STEPS)
    limited = {"interval_steps": 2, "keep_last": 9, "max_undone_steps": STEPS - 1}

    result = run(tmp_path, model, rows, attempt=2, checkpoint=limited)

    assert result.error_code == "checkpoint_lost"
    assert f"undo {STEPS} steps, 1 to {STEPS}" in result.error_message
    assert "model.safetensors has sha256" in result.error_message


def test_steps_before_the_first_checkpoint_are_repeated_however_many(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    never = {"interval_steps": 99, "max_undone_steps": 0}
    run(tmp_path, model, rows, stop_after=3, checkpoint=never)
    shutil.rmtree(tmp_path / "checkpoints")  # a killed learner writes none
    journal = tmp_path / "journal" / "attempt-0001.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"type":"checkpoint"' not in line))

    result = run(tmp_path, model, rows, attempt=2, stop_after=0, checkpoint=never)

    assert result.state == "stopped", result.error_message
    (restarted,) = of_kind(journal_of(tmp_path, 2), EventType.CERTIFICATE)
    assert restarted["steps_undone"] == 3


def test_checkpoints_that_are_gone_are_as_lost_as_damaged_ones(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows)
    shutil.rmtree(tmp_path / "checkpoints")

    result = run(tmp_path, model, rows, attempt=2)

    assert (result.error_code, result.retryable) == ("checkpoint_lost", False)


def test_a_job_directory_that_is_lost_is_not_taken_for_a_job_that_never_ran(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    def attempt(number: int, **checkpoint: int) -> AttemptResult:
        changed = spec(rows, checkpoint={"interval_steps": 2, **checkpoint})
        known = {"attempt": number, "model_path": model, "steps_recorded": STEPS}
        return run_here(learner_request(tmp_path / "empty", changed, **known), StopSignal())

    lost = attempt(2, max_undone_steps=STEPS - 1)

    assert (lost.error_code, lost.retryable) == ("checkpoint_lost", False)
    assert f"undo {STEPS} steps, 1 to {STEPS}" in lost.error_message

    begun = attempt(3, max_undone_steps=STEPS)

    assert begun.state == "succeeded", begun.error_message
    restarted = of_kind(journal_of(tmp_path / "empty", 3), EventType.CERTIFICATE)[0]
    assert (restarted["moment"], restarted["steps_undone"]) == ("restart", STEPS)


def test_a_restart_from_zero_is_stated_with_its_reason_and_the_steps_undone(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows)
    break_checkpoints(tmp_path, 2, 4, STEPS)
    allowed = {"interval_steps": 2, "keep_last": 9, "max_undone_steps": STEPS}

    assert run(tmp_path, model, rows, attempt=2, checkpoint=allowed).state == "succeeded"

    events = journal_of(tmp_path, 2)
    restarted, at_end = of_kind(events, EventType.CERTIFICATE)
    assert (restarted["moment"], restarted["steps_undone"]) == ("restart", STEPS)
    assert len(restarted["skipped_checkpoints"]) == 3
    assert restarted["digest_before"] is None
    (said,) = [
        data for data in of_kind(events, EventType.LOG) if data["code"] == "restarted_from_zero"
    ]
    assert said["steps"] == list(range(1, STEPS + 1))
    assert "no checkpoint verifies" in said["message"]
    assert (at_end["lost"], at_end["trained_twice"]) == (0, 0)
    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_one_broken_checkpoint_costs_its_interval_and_is_named(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows)
    break_checkpoints(tmp_path, STEPS)

    assert run(tmp_path, model, rows, attempt=2).state == "succeeded"

    resumed, _ = of_kind(journal_of(tmp_path, 2), EventType.CERTIFICATE)
    assert (resumed["moment"], resumed["resumed_from"]) == ("resume", 4)
    assert resumed["steps_undone"] == STEPS - 4
    assert "step-00000" in resumed["skipped_checkpoints"][0]
    assert moved_digest(tmp_path, STEPS) == uninterrupted


def forget_events_after_the_last_checkpoint(job_dir: Path) -> None:
    """Leave the journal of a learner that was killed between the rename of its last checkpoint and the
    event that says so.
    """
    path = job_dir / "journal" / "attempt-0001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"type":"checkpoint"' in line)
    path.write_text("".join(lines[:last]))


def test_a_checkpoint_whose_writer_was_killed_before_it_said_so_is_reported_by_the_next_attempt(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows)
    forget_events_after_the_last_checkpoint(tmp_path)

    run(tmp_path, model, rows, attempt=2)
    run(tmp_path, model, rows, attempt=3)

    reported = [
        [(data["attempt"], data["step"]) for data in of_kind(events, EventType.CHECKPOINT)]
        for events in (journal_of(tmp_path, attempt) for attempt in (2, 3))
    ]
    assert reported == [[(1, STEPS)], []]


def test_the_mark_of_the_best_checkpoint_is_made_again_when_its_writer_was_killed_before(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    validated = {
        "sft": {
            "batch_size": 4, "epochs": 3, "max_steps": STEPS, "validation_file": str(rows),
            "validation_interval_steps": 2,
        }
    }  # fmt: skip
    run(tmp_path, model, rows, stop_after=2, **validated)
    mark = tmp_path / "checkpoints" / "best.json"
    named = mark.read_text()
    mark.unlink()

    run(tmp_path, model, rows, attempt=2, stop_after=0, **validated)

    assert mark.read_text() == named


def test_a_partial_checkpoint_of_a_killed_learner_is_removed_at_the_next_start(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    partial = tmp_path / "checkpoints" / ".partial-step-000002"
    partial.mkdir(parents=True)

    run(tmp_path, model, rows, stop_after=0)

    assert not partial.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "storage_unavailable")]
)
def test_a_volume_that_takes_no_more_events_ends_the_attempt_with_its_own_code(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    emit = Journal.emit

    def fail_from_the_first_step(self: Journal, kind: EventType, data: dict[str, Any]) -> None:
        if kind is EventType.METRICS or self.last_seq > 10:
            raise OSError(number, os.strerror(number))
        emit(self, kind, data)

    monkeypatch.setattr(Journal, "emit", fail_from_the_first_step)

    result = run(tmp_path, model, rows)

    assert (result.state, result.error_code) == ("failed", code)
    assert os.strerror(number) in result.error_message


def test_a_mixture_is_trained_in_its_proportions_and_resumes_exactly(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    other = write_rows(
        tmp_path / "other.jsonl",
        [{"prompt": f"{n}-1=?", "completion": str(n - 1)} for n in range(3)],
    )
    parts = [{"file": str(rows), "weight": 1}, {"file": str(other), "weight": 3}]
    mixture: dict[str, Any] = {"training_file": None, "training_mixture": parts}

    run(tmp_path / "whole", model, rows, **mixture)
    run(tmp_path / "halves", model, rows, stop_after=3, **mixture)
    run(tmp_path / "halves", model, rows, attempt=2, **mixture)
    reweighted = [{**parts[0], "weight": 2}, parts[1]]
    refused = run(
        tmp_path / "halves", model, rows, attempt=3, **{**mixture, "training_mixture": reweighted}
    )

    stages = json.loads(
        (tmp_path / "whole" / "checkpoints" / "step-000006" / "state.json").read_text()
    )["stages"]
    assert stages["sft"]["rows"]["mixture"] == [[NUM_ROWS, 1.0], [3, 3.0]]
    assert moved_digest(tmp_path / "halves", STEPS) == moved_digest(tmp_path / "whole", STEPS)
    assert (refused.state, refused.error_code) == ("failed", "dataset_invalid")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"diffusion": {"block_size": 8}}, "spec_invalid"),
        ({"prompt": {"template": "no placeholder"}}, "spec_invalid"),
        ({"prompt": {"max_prompt_tokens": 1}}, "dataset_invalid"),
        ({"validation_file": "rows.jsonl"}, "preflight_failed"),
        ({"optim": {"lr": 1e30}}, "nan_loss"),
        ({"trainer": {"precision": "bf16"}}, "preflight_failed"),
        ({"sft": {"noise": "trace"}}, "dataset_invalid"),
        ({"lora": {"target_modules": ["nothing_proj"]}}, "spec_invalid"),
    ],
)
def test_an_impossible_job_fails_with_a_code_and_an_event(
    tmp_path: Path, model: Path, rows: Path, changes: dict[str, Any], code: str
) -> None:
    result = run(tmp_path, model, rows, **changes)

    assert (result.state, result.error_code) == ("failed", code)
    last = journal_of(tmp_path)[-1]
    assert (last.type, last.data["level"], last.data["code"]) == (EventType.LOG, "error", code)
    assert last.seq == last_seq(tmp_path, 1)


@pytest.mark.parametrize("lr", [1e3, 1e30], ids=["explodes", "not finite"])
def test_a_loss_that_blows_up_ends_the_job_with_sound_checkpoints_in_place(
    tmp_path: Path, model: Path, rows: Path, lr: float
) -> None:
    run(tmp_path, model, rows, stop_after=2)
    result = run(tmp_path, model, rows, attempt=2, optim={"lr": lr, "max_grad_norm": 1e9})

    assert (result.state, result.error_code, result.retryable) == ("failed", "nan_loss", False)
    assert checkpoint_steps(tmp_path) == [2]


def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruined(policy_model: PolicyModel) -> Snapshot:
        snapshot = intact(policy_model)
        name = next(iter(snapshot.weights))
        return replace(
            snapshot, weights={**snapshot.weights, name: snapshot.weights[name] * float("inf")}
        )

    run(tmp_path, model, rows, stop_after=2)
    intact = PolicyModel.take_snapshot
    monkeypatch.setattr(PolicyModel, "take_snapshot", ruined)
    result = run(tmp_path, model, rows, attempt=2)

    assert (result.state, result.error_code) == ("failed", "nan_loss")
    assert checkpoint_steps(tmp_path) == [2]


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path, model: Path, rows: Path) -> None:
    run(tmp_path, model, rows, stop_after=2)

    request = learner_request(tmp_path, spec(rows), job_id="job_2", attempt=2, model_path=model)
    result = run_here(request, StopSignal())

    assert (result.state, result.error_code) == ("failed", "checkpoint_invalid")


def test_gradient_checkpointing_changes_no_weight(
    tmp_path: Path, model: Path, rows: Path, uninterrupted: str
) -> None:
    run(tmp_path, model, rows, trainer={"gradient_checkpointing": True})

    assert moved_digest(tmp_path, STEPS) == uninterrupted


def test_a_checkpoint_that_cannot_be_written_ends_the_attempt_and_leaves_the_earlier_one(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows, stop_after=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(
        resource.RLIMIT_FSIZE, (24_000, hard)
    )  # the model fits, the optimizer's state does not
    try:
        result = run(tmp_path, model, rows, attempt=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (result.error_code, result.retryable) == ("checkpoint_failed", True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert run(tmp_path, model, rows, attempt=3).state == "succeeded"


def test_a_checkpoint_that_the_disk_cannot_hold_is_not_begun(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A full file system cannot be had in a test without the right to mount one.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    result = run(tmp_path, model, rows)

    assert (result.error_code, result.retryable) == ("disk_full", False)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_every_step_draws_its_own_noise(tmp_path: Path, model: Path) -> None:
    equal = write_rows(tmp_path / "rows.jsonl", [ROWS[0]] * 8)

    run(tmp_path / "job", model, equal, sft={"batch_size": 8, "epochs": STEPS})

    masked = [
        data["values"]["diffusion/masked_tokens_trained"]
        for data in of_kind(journal_of(tmp_path / "job"), EventType.METRICS)
        if "train/loss" in data["values"]
    ]
    assert len(set(masked)) > 2


def test_a_stopped_and_resumed_lora_job_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    lora = {"rank": 2, "alpha": 8}
    run(tmp_path / "whole", model, rows, lora=lora)

    first = run(tmp_path / "parts", model, rows, lora=lora, stop_after=3)
    second = run(tmp_path / "parts", model, rows, lora=lora, attempt=2)

    assert (first.state, second.state) == ("stopped", "succeeded")
    assert moved_digest(tmp_path / "parts", STEPS) == moved_digest(tmp_path / "whole", STEPS)
    certificate = of_kind(journal_of(tmp_path / "parts", 2), EventType.CERTIFICATE)[0]
    assert certificate["digest_before"] == certificate["digest_after"]


def test_a_lora_checkpoint_is_a_merged_model_with_the_adapter_and_its_optimizer(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    run(tmp_path, model, rows, lora={"rank": 2})

    found = newest_valid(tmp_path / "checkpoints")
    assert found is not None
    path, manifest = found
    assert (
        weight_digest(export_state(load_model(path, "float32", "cpu").model))
        == manifest.weight_digest
    )
    assert load_file(path / "adapter.safetensors").keys() == {
        name.removesuffix("/exp_avg")
        for name in load_file(path / "optimizer.safetensors")
        if name.endswith("/exp_avg")
    }


def test_the_checkpoint_with_the_lowest_validation_loss_is_named_and_kept(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    # What is learnt makes these answers ever less likely.
    held_out = write_rows(
        tmp_path / "held_out.jsonl", [{**row, "completion": "zzzzzzz"} for row in ROWS]
    )
    validation = {"validation_file": str(held_out), "validation_interval_steps": 2}
    sft = {"batch_size": 4, "epochs": 3, "max_steps": STEPS, **validation}
    run(
        tmp_path,
        model,
        rows,
        sft=sft,
        optim={"lr": 0.03},
        checkpoint={"interval_steps": 9, "keep_last": 1},
    )

    metrics = of_kind(journal_of(tmp_path), EventType.METRICS)
    losses = {
        m["step"]: m["values"]["eval/validation/loss"]
        for m in metrics
        if "eval/validation/loss" in m["values"]
    }
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert losses.keys() == {2, 4, 6}
    lowest = min(losses, key=lambda step: losses[step])
    assert best == {
        "checkpoint": f"step-{lowest:06d}",
        "step": lowest,
        "metric": "eval/validation/loss",
        "value": losses[lowest],
    }
    assert lowest < STEPS
    assert checkpoint_steps(tmp_path) == [lowest, STEPS]


def test_the_best_checkpoint_is_remembered_over_a_resume_and_gives_way_to_a_better_one(
    tmp_path: Path, model: Path, rows: Path
) -> None:
    sft = {
        "batch_size": 4,
        "epochs": 3,
        "max_steps": STEPS,
        "validation_file": str(rows),
        "validation_interval_steps": 2,
    }
    settings = {"sft": sft, "checkpoint": {"interval_steps": 9, "keep_last": 1}}
    run(tmp_path, model, rows, stop_after=3, **settings)
    kept = checkpoint_steps(tmp_path)
    run(tmp_path, model, rows, attempt=2, **settings)

    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    said = [
        e["step"]
        for n in (1, 2)
        for e in of_kind(journal_of(tmp_path, n), EventType.LOG)
        if "metric" in e
    ]
    assert kept == [2, 3]
    assert said == [2, 4, 6]
    assert (best["step"], checkpoint_steps(tmp_path)) == (6, [6])


def test_recorded_orders_are_learnt_from_rows_that_carry_them(tmp_path: Path, model: Path) -> None:
    loaded = load_model(model, "float32", "cpu")
    prompt = len(encode_prompt(loaded.tokenizer, [{"role": "user", "content": "1+1=?"}]))
    length = 8 - prompt % 4
    trace = {"token_ids": [20] * length, "unmask_step": list(range(length, 0, -1))}
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": "1+1=?", "completion": "2", **trace}] * 2
    )

    run(tmp_path / "job", model, rows, sft={"batch_size": 2, "epochs": STEPS, "noise": "trace"})

    steps = [
        m["values"]
        for m in of_kind(journal_of(tmp_path / "job"), EventType.METRICS)
        if "train/loss" in m["values"]
    ]
    assert {values["diffusion/masked_tokens_trained"] for values in steps} == {2.0 * length}
    assert steps[-1]["train/loss"] < steps[0]["train/loss"]
