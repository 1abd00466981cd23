"""Which checkpoint is the best one."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.common.job_spec import parse_spec
from services.trainer.learner.best_checkpoint import update_best
from services.trainer.learner.state import Best, RunState


def bests(metric: str | None, values: list[float | None], **spec: Any) -> list[int]:
    """Steps that were the best so far, when step n reports `values[n - 1]`."""
    files = {"training_file": "f", "validation_file": "v"}
    parsed = parse_spec(
        {"model": "m", "method": "rl", **files, "checkpoint": {"keep_best": metric}, **spec}
    )
    state = RunState()
    named = metric or "eval/validation/loss"

    def read_value(step: int, name: str) -> float | None:
        return values[step - 1] if name == named else None

    context: Any = SimpleNamespace(
        state=state, spec=parsed, report=SimpleNamespace(read_value=read_value)
    )
    found = []
    for step in range(1, len(values) + 1):
        state.global_step = step
        if update_best(context):
            found.append(step)
            assert state.best == Best(step=step, metric=named, value=values[step - 1] or 0.0)
    return found


def test_the_highest_value_of_a_metric_is_the_best_and_the_earlier_of_two_equal_ones() -> None:
    assert bests("eval/validation/reward", [0.2, None, 0.5, 0.5, 0.1, 0.6]) == [1, 3, 6]


def test_the_lowest_loss_is_the_best() -> None:
    assert bests("eval/validation/loss", [2.0, 3.0, 1.0]) == [1, 3]


def test_without_a_metric_the_validation_loss_decides_where_it_is_measured() -> None:
    assert bests(None, [2.0, 1.0]) == []
    assert bests(None, [2.0, 1.0], sft={"validation_interval_steps": 1}) == [1, 2]


def test_the_best_of_another_metric_says_nothing() -> None:
    state = Best.model_validate({"step": 3, "loss": 0.5})
    assert (state.metric, state.value) == ("eval/validation/loss", 0.5)
    parsed = parse_spec(
        {
            "model": "m",
            "method": "rl",
            "training_file": "f",
            "checkpoint": {"keep_best": "reward/mean"},
        }
    )
    context: Any = SimpleNamespace(
        state=RunState(global_step=4, best=state),
        spec=parsed,
        report=SimpleNamespace(read_value=lambda _step, _name: 0.1),
    )
    assert update_best(context)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("reward/maen", "is not a metric of a job"),
        ("eval/validation/reward", "needs validation_file"),
    ],
)
def test_the_metric_exists_and_is_measured(metric: str, said: str) -> None:
    spec = {"model": "m", "method": "rl", "training_file": "f", "checkpoint": {"keep_best": metric}}
    with pytest.raises(Exception, match=said):
        parse_spec(spec)
