"""A whole attempt on two ranks: real learner processes under a real supervisor."""

from pathlib import Path
from typing import Any

import pytest

from services.common.checkpoint.format import newest_valid
from services.common.model.tiny import make_tiny_model
from services.trainer.service.supervisor import LearnerSupervisor
from tests.support.learners import learner_request
from tests.support.trainer import wait_until, write_rows

STEPS = 2
ROWS = [{"prompt": f"{n}+{n}=?", "completion": str(2 * n)} for n in range(6)]


def _request(directory: Path, **changes: Any) -> Any:
    make_tiny_model(directory / "tiny", seed=0, hidden_size=16, layers=1, heads=2)
    spec = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(write_rows(directory / "rows.jsonl", ROWS)),
        "sft": {"batch_size": 3, "max_steps": STEPS},
        "trainer": {"max_tokens_per_microbatch": 1},
        "resources": {"trainer_ranks": 2},
    }
    return learner_request(
        directory / "job", {**spec, **changes}, model_path=directory / "tiny", torch_threads=1
    )


@pytest.mark.timeout(
    900
)  # two processes that load torch first: minutes where the machine has other work
def test_two_ranks_train_a_job_to_its_end_and_leave_one_checkpoint(tmp_path: Path) -> None:
    supervisor = LearnerSupervisor()
    try:
        supervisor.start(_request(tmp_path))
        wait_until(lambda: supervisor.status().state != "running", "the learner's end", 850)
        assert supervisor.status().result.error_message == ""
        assert supervisor.status().state == "succeeded"
    finally:
        supervisor.shutdown(0)

    found = newest_valid(tmp_path / "job" / "checkpoints")
    assert found is not None
    assert found[1].global_step == STEPS
