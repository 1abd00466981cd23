"""Asynchronous rollouts: real learner processes, replica, engine and Redis; verdicts
are scripted.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.events import Event, EventType
from services.common.model.tiny import make_tiny_model
from tests.support.replicas import RealReplica, real_replica
from tests.support.trainer import Job, Trainer, of_kind, running_trainer, wait_until, write_rows

STEPS, PROMPTS_PER_STEP = 6, 2
ROWS = [{"prompt": f"{n}+1=?", "answer": str(n + 1)} for n in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


@pytest.fixture
def replica(redis_url: str) -> Iterator[tuple[RealReplica, str]]:
    with real_replica(redis_url) as found:
        yield found


def job(directory: Path, model: Path, address: str) -> Job:
    spec = {
        "model": "tiny",
        "method": "rl",
        "training_file": str(write_rows(directory / "train.jsonl", ROWS)),
        "rl": {
            "steps": STEPS, "prompts_per_step": PROMPTS_PER_STEP, "num_generations": 2, "max_resample_rounds": 3,
            "max_staleness": 1,
        },
        "sampling": {"max_new_tokens": 8},
        "checkpoint": {"interval_steps": 2},
    }  # fmt: skip
    return Job("job_1", directory / "job", model, spec, (address,))


def steps_of(events: list[Event]) -> list[dict[str, Any]]:
    return [
        data["values"]
        for data in of_kind(events, EventType.METRICS)
        if "train/loss" in data["values"]
    ]


def kill_after_checkpoint(trainer: Trainer, wanted: Job, pid: int) -> None:
    trainer.wait_for_event(wanted, 1, EventType.CHECKPOINT)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: trainer.status().state != "running", "the killed learner's end")


def test_a_killed_asynchronous_job_resumes_and_certifies_that_no_prompt_was_lost_or_trained_twice(
    redis_url: str, model: Path, tmp_path: Path, replica: tuple[RealReplica, str]
) -> None:
    worker, address = replica
    wanted = job(tmp_path, model, address)
    with running_trainer(tmp_path, redis_url) as trainer:
        worker.assign("job_1", 1, model)
        kill_after_checkpoint(trainer, wanted, trainer.start(wanted, 1))
        worker.assign("job_1", 2, model)
        trainer.start(wanted, 2)
        ended = trainer.wait_for_end()
        events = trainer.events(wanted, 2)

    assert ended.state == "succeeded", ended.error_message
    resumed, last = of_kind(events, EventType.CERTIFICATE)
    for certificate in (resumed, last):
        parts = certificate["trained"] + sum(certificate["dropped"].values()) + certificate["open"]
        assert (certificate["lost"], certificate["trained_twice"], certificate["issued"]) == (
            0,
            0,
            parts,
        )
    # Prompts in flight for the next step when the checkpoint was written are open, and issued
    # again.
    assert resumed["open"] > 0
    assert last["trained"] == STEPS * PROMPTS_PER_STEP
    trained = [data["group"]["ledger_position"] for data in of_kind(events, EventType.TRAJECTORIES)]
    assert len(trained) == len(set(trained))
    steps = steps_of(events)
    # The first step of an attempt has nothing to catch up on; later ones train what was decoded
    # during the one before.
    assert steps[0]["staleness/max"] == 0
    assert {values["staleness/max"] for values in steps} == {0, 1}
    assert all(values["staleness/dropped_groups"] == 0 for values in steps)
