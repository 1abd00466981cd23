import pytest
import torch

from services.common.job_spec import OptimSpec
from services.trainer.training.schedule import learning_rate, make_optimizer, set_learning_rate


def _rates(num_steps: int, **fields: object) -> list[float]:
    config = OptimSpec(lr=1.0, **fields)  # type: ignore[arg-type]
    return [learning_rate(config, step, num_steps) for step in range(1, num_steps + 1)]


def test_warm_up_moves_from_the_first_step_and_ends_at_the_full_rate() -> None:
    assert _rates(6, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_linear_decay_reaches_zero_one_step_after_the_last() -> None:
    assert _rates(4, scheduler="linear") == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])
    assert _rates(4, scheduler="linear", warmup_steps=2) == pytest.approx([1 / 2, 1, 2 / 3, 1 / 3])


def test_cosine_decay_passes_one_half_in_the_middle() -> None:
    # (1 + cos(π·progress)) / 2 at progress 0, 1/4, 1/2, 3/4
    assert _rates(4, scheduler="cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_stage_shorter_than_its_warm_up_still_rises() -> None:
    assert _rates(2, warmup_steps=10, scheduler="cosine") == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_outside_the_stage_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} is outside"):
        learning_rate(OptimSpec(), step, 4)


def test_the_optimizer_takes_the_specs_settings_and_the_rate_of_each_step() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    linear, norm = model
    linear.bias.requires_grad_(False)

    optimizer = make_optimizer(model, OptimSpec(lr=0.5, betas=(0.8, 0.9), weight_decay=0.1))
    set_learning_rate(optimizer, 0.25)

    matrices, vectors = optimizer.param_groups
    for group, decay in ((matrices, 0.1), (vectors, 0.0)):
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.25, (0.8, 0.9), decay)
    assert [id(one) for one in matrices["params"]] == [id(linear.weight)]
    assert [id(one) for one in vectors["params"]] == [id(norm.weight), id(norm.bias)]


def test_norms_and_biases_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = make_optimizer(model, OptimSpec(lr=0.5, weight_decay=0.1))
    before = {name: value.clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    optimizer.step()

    moved = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert moved == {"0.weight"}
