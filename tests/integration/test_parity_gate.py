"""A replica whose weights are not the learner's is found before it answers a prompt."""

from pathlib import Path

import pytest

from services.common.attempt_result import AttemptResult
from services.common.events import EventType
from services.common.model.tiny import make_tiny_model
from services.common.streams import stream_names
from services.trainer.learner.lifecycle import StopSignal
from tests.support.learners import journal_of, learner_request, run_here
from tests.support.replicas import CorruptEngine, real_replica
from tests.support.trainer import of_kind, write_rows

ROWS = [{"prompt": f"{n}+1=?", "answer": str(n + 1)} for n in range(8)]
STEPS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


def run(directory: Path, model: Path, redis_url: str, *addresses: str) -> AttemptResult:
    spec = {
        "model": "tiny",
        "method": "rl",
        "training_file": str(write_rows(directory / "train.jsonl", ROWS)),
        "rl": {
            "steps": STEPS,
            "prompts_per_step": 4,
            "num_generations": 2,
            "dynamic_sampling": False,
        },
        "sampling": {"max_new_tokens": 8},
    }
    names = stream_names("job_1", 1)
    request = learner_request(
        directory / "job",
        spec,
        model_path=model,
        redis_url=redis_url,
        rollout_addresses=addresses,
        prompts_stream=names.prompts,
        groups_stream=names.groups,
    )
    return run_here(request, StopSignal())


def test_a_corrupt_replica_responds_to_nothing_the_job_reports_it_and_continues_with_the_other(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    with (
        real_replica(redis_url, name="good") as (good, good_address),
        real_replica(redis_url, name="corrupt", engine=CorruptEngine) as (corrupt, corrupt_address),
    ):
        for replica in (good, corrupt):
            replica.assign("job_1", 1, model)
        result = run(tmp_path, model, redis_url, good_address, corrupt_address)
        state, held = corrupt.worker.replica.state, corrupt.worker.replica.weights

    assert result.state == "succeeded", result.error_message
    events = journal_of(tmp_path / "job")
    said = [
        (data["level"], data["code"], data["replica"]) for data in of_kind(events, EventType.LOG)
    ]
    assert said == [("error", "parity_violation", corrupt_address)] * STEPS
    assert {data["group"]["replica"] for data in of_kind(events, EventType.TRAJECTORIES)} == {
        "good"
    }
    assert (state, held) == ("unhealthy", None)
    gaps = [data["values"].get("weights/parity_gap") for data in of_kind(events, EventType.METRICS)]
    assert len(gaps) == STEPS
    assert all(0 <= gap <= 1e-5 for gap in gaps)


def test_a_job_without_any_replica_that_computes_like_the_learner_ends(
    redis_url: str, model: Path, tmp_path: Path
) -> None:
    with real_replica(redis_url, engine=CorruptEngine) as (replica, address):
        replica.assign("job_1", 1, model)
        result = run(tmp_path, model, redis_url, address)

    assert (result.state, result.error_code, result.retryable) == (
        "failed",
        "parity_violation",
        False,
    )
    assert "at most 0.0001 is allowed" in result.error_message
