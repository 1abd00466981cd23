"""Optimizer state by name, and errors on their way to the user."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from services.common.errors import PlatformError
from services.common.job_spec import JobSpec, parse_spec
from services.trainer.learner.checkpointing import _safetensors_errors
from services.trainer.learner.ledger import StepRecord
from services.trainer.learner.run import as_platform_error
from services.trainer.learner.state import RunState, StoredRows, parse_state
from services.trainer.training.optimizer_state import export_optimizer, import_optimizer

SPEC = parse_spec(
    {"model": "m", "method": "pipeline", "training_file": "f", "validation_file": "v", "seed": 4}
)
ROWS = StoredRows(file_sha256="abc", num_rows=10)


def trained(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), float(step + 1))).sum().backward()
        optimizer.step()


def fresh() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def test_an_optimizer_resumes_exactly_where_it_was() -> None:
    whole, whole_optimizer = fresh()
    trained(5, whole, whole_optimizer)
    model, optimizer = fresh()
    trained(3, model, optimizer)

    resumed, resumed_optimizer = fresh()
    resumed.load_state_dict(model.state_dict())
    import_optimizer(resumed, resumed_optimizer, export_optimizer(model, optimizer))
    for step in (3, 4):
        resumed_optimizer.zero_grad()
        resumed(torch.full((1, 3), float(step + 1))).sum().backward()
        resumed_optimizer.step()

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_optimizer_state_of_another_model_is_refused() -> None:
    model, optimizer = fresh()

    with pytest.raises(PlatformError, match=r"'9\.weight'") as caught:
        import_optimizer(model, optimizer, {"9.weight/exp_avg": torch.zeros(1)})
    assert caught.value.code == "checkpoint_invalid"


def stored(state: RunState, spec: JobSpec = SPEC) -> str:
    return state.to_stored(spec).model_dump_json()


def test_counters_and_ledgers_survive_the_checkpoint() -> None:
    state = RunState(stage_index=1, stage_step=2, global_step=12)
    stage = state.enter_stage("rl", SPEC, ROWS)
    stage.ledger.issue(3)
    stage.ledger.close(StepRecord(stage="rl", step=12, trained=(0, 1), dropped={}))

    again = parse_state(stored(state), SPEC)

    assert (again.stage_index, again.stage_step, again.global_step) == (1, 2, 12)
    assert again.enter_stage("rl", SPEC, ROWS).ledger.to_json() == stage.ledger.to_json()
    assert [again.stages["rl"].order.row(p) for p in range(20)] == [
        stage.order.row(p) for p in range(20)
    ]


@pytest.mark.parametrize("change", [{"method": "rl"}, {"seed": 5}])
def test_a_state_of_another_spec_is_refused(change: dict[str, Any]) -> None:
    state = RunState(stage_index=1)
    other = parse_spec({**json.loads(SPEC.canonical_json()), **change})

    with pytest.raises(PlatformError) as caught:
        parse_state(stored(state), other)
    assert caught.value.code == "spec_invalid"


def test_a_state_that_cannot_be_read_is_an_invalid_checkpoint() -> None:
    with pytest.raises(PlatformError) as caught:
        parse_state('{"stage_index": "one"}', SPEC)
    assert caught.value.code == "checkpoint_invalid"


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("something else", errno.EIO),
    ],
)
def test_a_full_disk_is_recognised_in_the_errors_of_safetensors(message: str, number: int) -> None:
    with pytest.raises(OSError, match=message.partition("(")[0]) as caught, _safetensors_errors():
        raise SafetensorError(message)
    assert caught.value.errno == number


def spec_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({})
    return caught.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlatformError("nan_loss", "x"), "nan_loss"),
        (spec_error(), "spec_invalid"),
        (MemoryError(), "oom_train"),
        (torch.OutOfMemoryError("CUDA out of memory."), "oom_train"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            "oom_train",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EROFS, "Read-only file system"), "storage_unavailable"),
        (OSError(errno.EIO, "Input/output error"), "storage_unavailable"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "internal"),
        (RuntimeError("shape mismatch"), "internal"),
        (KeyError("x"), "internal"),
    ],
)
def test_every_failure_of_an_attempt_has_a_code(error: Exception, code: str) -> None:
    assert as_platform_error(error).code == code


def test_the_cpu_allocators_refusal_is_recognised_as_it_really_is() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert as_platform_error(caught.value).code == "oom_train"


def test_a_state_file_is_plain_json(tmp_path: Path) -> None:
    assert json.loads(stored(RunState()))["stage"] == "sft"
