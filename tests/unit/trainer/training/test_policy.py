import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import PlatformError
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, SftSpec, TrainerSpec
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.trainer.training.policy import Policy, evaluate_sft_loss, score_row, train_sft_batch
from services.trainer.training.ranks import ALONE, Ranks
from services.trainer.training.rl_update import RlRules, train_rl_batch
from services.trainer.training.schedule import make_optimizer
from services.trainer.training.sft import SftExample, add_noise, make_noise_generator
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.numerics import gradient, random_samples, tiny_loaded, with_response

ROW_BUDGETS = [1, 40, 10_000]
"""One document per row, a few, all in one."""


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny_loaded(vocab_size=7, block_size=4)


def _policy(loaded: LoadedModel) -> Policy:
    return Policy(loaded=loaded, trainer=TrainerSpec())


def _rules(max_grad_norm: float = 1.0, **rl: Any) -> RlRules:
    return RlRules(
        rl=RlSpec(**rl),
        sampling=SamplingSpec(max_new_tokens=30),
        optim=OptimSpec(max_grad_norm=max_grad_norm),
    )


def _train_rl(
    loaded: LoadedModel, samples: list[Sample], *, max_tokens: int = 40, **rl: Any
) -> dict[str, float]:
    """A step with plain SGD at rate 1, so that the change of the weights is the clipped gradient."""
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=1.0)
    policy = Policy(loaded=loaded, trainer=TrainerSpec(max_tokens_per_microbatch=max_tokens))
    return train_rl_batch(policy, optimizer, samples, _rules(1e9, **rl))


def _train_sft(
    loaded: LoadedModel, examples: list[SftExample], *, max_tokens: int = 40, **spec: Any
) -> dict[str, float]:
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=1.0)
    policy = Policy(loaded=loaded, trainer=TrainerSpec(max_tokens_per_microbatch=max_tokens))
    return train_sft_batch(
        policy,
        optimizer,
        examples,
        make_noise_generator(0, 1),
        SftSpec(**spec),
        OptimSpec(max_grad_norm=1e9),
    )


def _examples(loaded: LoadedModel) -> list[SftExample]:
    return [
        SftExample(prompt_ids=s.prompt_ids, token_ids=s.response.token_ids)
        for s in random_samples(loaded, 6, seed=3)
    ]


def _weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


def _on_policy(loaded: LoadedModel, samples: list[Sample]) -> list[Sample]:
    """The same samples as if the current weights had sampled them."""
    (row,) = rl_rows(samples, block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6)
    logprobs = score_row(loaded, row, 1.0)[0].detach()
    return [
        with_response(
            s, logprobs=logprobs[row.sample == i][torch.argsort(row.token[row.sample == i])].numpy()
        )
        for i, s in enumerate(samples)
    ]


@pytest.mark.parametrize("normaliser", ["token", "response", "constant"])
def test_packing_changes_neither_metrics_nor_gradient_of_a_policy_step(normaliser: str) -> None:
    outcomes = []
    for max_tokens in ROW_BUDGETS:
        loaded = tiny_loaded(vocab_size=7, block_size=4)
        metrics = _train_rl(
            loaded, random_samples(loaded, 7), max_tokens=max_tokens, normaliser=normaliser
        )
        outcomes.append((metrics, _weights(loaded)))

    for metrics, weights in outcomes[1:]:
        assert metrics == pytest.approx(outcomes[0][0], rel=1e-10)
        torch.testing.assert_close(weights, outcomes[0][1], rtol=1e-10, atol=1e-12)


def test_the_order_of_samples_changes_neither_metrics_nor_gradient_of_a_policy_step() -> None:
    first, second = (tiny_loaded(vocab_size=7, block_size=4) for _ in range(2))
    samples = random_samples(first, 7)

    forwards, backwards = _train_rl(first, samples), _train_rl(second, samples[::-1])

    assert forwards == pytest.approx(backwards, rel=1e-10)
    torch.testing.assert_close(_weights(first), _weights(second), rtol=1e-10, atol=1e-12)


def test_packing_changes_neither_metrics_nor_gradient_of_a_supervised_step() -> None:
    outcomes = []
    for max_tokens in ROW_BUDGETS:
        loaded = tiny_loaded(vocab_size=7, block_size=4)
        metrics = _train_sft(loaded, _examples(loaded), max_tokens=max_tokens)
        outcomes.append((metrics, _weights(loaded)))

    for metrics, weights in outcomes[1:]:
        assert metrics == pytest.approx(outcomes[0][0], rel=1e-10)
        torch.testing.assert_close(weights, outcomes[0][1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("logits_per_chunk", [1, 7 * 3, 7 * 10])
def test_logits_in_chunks_give_the_same_log_probs_entropy_and_gradient(
    loaded: LoadedModel, logits_per_chunk: int
) -> None:
    (row,) = rl_rows(
        random_samples(loaded, 4),
        block_size=4,
        mask_token_id=loaded.mask_token_id,
        max_tokens=10**6,
    )

    whole, entropy = score_row(loaded, row, 0.7)
    chunked, chunked_entropy = score_row(loaded, row, 0.7, logits_per_chunk=logits_per_chunk)

    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    assert chunked_entropy == pytest.approx(entropy, rel=1e-12)
    weights = torch.linspace(-1, 1, len(whole), dtype=torch.float64)
    expected, got = (
        gradient(loaded, (whole * weights).sum()),
        gradient(loaded, (chunked * weights).sum()),
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_the_entropy_is_that_of_the_sampleable_distribution(loaded: LoadedModel) -> None:
    """Equal logits over the six ids that may be sampled: ln 6, the mask id left out."""
    samples = random_samples(loaded, 3)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.zero_()

    metrics = _train_rl(loaded, samples)

    assert metrics["train/entropy"] == pytest.approx(np.log(6))


def test_an_on_policy_step_has_ratio_one_and_follows_the_plain_policy_gradient(
    loaded: LoadedModel,
) -> None:
    samples = _on_policy(loaded, random_samples(loaded, 5))
    (row,) = rl_rows(samples, block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6)
    advantage = torch.tensor([sample.advantage for sample in samples], dtype=torch.float64)[
        row.sample
    ]
    expected = gradient(
        loaded, -(advantage * score_row(loaded, row, 1.0)[0]).sum() / len(row.targets)
    )
    before = _weights(loaded)

    metrics = _train_rl(loaded, samples)

    torch.testing.assert_close(before - _weights(loaded), expected, rtol=1e-9, atol=1e-12)
    assert metrics["train/grad_norm"] == pytest.approx(expected.norm().item())
    assert metrics["train/is_ratio_mean"] == pytest.approx(1.0)
    assert metrics["train/logprob_gap_max"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["train/loss"] == metrics["train/policy_loss"]
    lengths = [len(sample.response.token_ids) for sample in samples]
    gained = sum(n * sample.advantage for n, sample in zip(lengths, samples, strict=True))
    assert metrics["train/loss"] == pytest.approx(-gained / sum(lengths))
    assert metrics["diffusion/masked_tokens_trained"] == sum(
        len(sample.response.token_ids) for sample in samples
    )


def test_a_mini_batch_of_many_rows_changes_the_weights_exactly_once(loaded: LoadedModel) -> None:
    """The published training stepped on every micro-batch while it claimed to accumulate."""
    optimizer = make_optimizer(loaded.model, OptimSpec(lr=1e-3))
    changes: list[torch.Tensor] = []
    optimizer.register_step_post_hook(lambda *_: changes.append(_weights(loaded)))
    before = _weights(loaded)
    versions = [parameter._version for parameter in loaded.model.parameters()]

    policy = Policy(loaded=loaded, trainer=TrainerSpec(max_tokens_per_microbatch=1))
    train_rl_batch(policy, optimizer, random_samples(loaded, 9), _rules())

    assert len(changes) == 1
    assert torch.equal(changes[0], _weights(loaded))
    assert not torch.equal(before, changes[0])
    rises = {p._version - v for p, v in zip(loaded.model.parameters(), versions, strict=True)}
    assert len(rises) == 1, "every parameter is written equally often"
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


def test_the_gradient_is_clipped_but_its_real_norm_is_reported() -> None:
    free, held = (tiny_loaded(vocab_size=7, block_size=4) for _ in range(2))
    samples, start = random_samples(free, 5), _weights(free)
    norm = _train_rl(free, samples)["train/grad_norm"]

    optimizer = torch.optim.SGD(held.model.parameters(), lr=1.0)
    metrics = train_rl_batch(_policy(held), optimizer, samples, _rules(norm / 4))

    assert metrics["train/grad_norm"] == pytest.approx(norm)
    assert metrics["train/lr"] == 1.0
    torch.testing.assert_close(
        start - _weights(held), (start - _weights(free)) / 4, rtol=1e-4, atol=1e-9
    )


def test_gradients_left_over_from_a_failed_step_do_not_leak_into_the_next() -> None:
    clean, dirty = (tiny_loaded(vocab_size=7, block_size=4) for _ in range(2))
    for parameter in dirty.model.parameters():
        parameter.grad = torch.ones_like(parameter)

    for model in (clean, dirty):
        _train_rl(model, random_samples(clean, 3))

    assert torch.equal(_weights(clean), _weights(dirty))


def test_a_policy_step_with_an_impossible_token_names_its_trajectory_and_leaves_the_weights(
    loaded: LoadedModel,
) -> None:
    samples = random_samples(loaded, 3)
    samples[1].response.token_ids[0] = loaded.mask_token_id
    before = _weights(loaded)

    with pytest.raises(
        PlatformError,
        match=rf"{samples[1].trajectory_id}: its token 0 \(id 6\) has log-prob -inf .*current weights",
    ) as e:
        _train_rl(loaded, samples)
    assert e.value.code == "nan_loss"
    assert torch.equal(before, _weights(loaded))


def test_a_record_that_is_not_a_number_is_refused_by_name(loaded: LoadedModel) -> None:
    samples = random_samples(loaded, 3)
    samples[2].response.logprobs[-1] = np.nan

    with pytest.raises(
        PlatformError, match=f"{samples[2].trajectory_id}: .*nan as recorded by the rollout engine"
    ):
        _train_rl(loaded, samples)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(loaded: LoadedModel) -> None:
    samples = [dataclasses.replace(sample, advantage=1e308) for sample in random_samples(loaded, 3)]
    before = _weights(loaded)

    with pytest.raises(PlatformError, match="both must be finite") as caught:
        _train_rl(loaded, samples, normaliser="constant")
    assert caught.value.code == "nan_loss"
    assert torch.equal(before, _weights(loaded))


def test_an_empty_mini_batch_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        _train_rl(loaded, [])


def test_supervised_steps_lower_the_loss_on_held_out_noise(loaded: LoadedModel) -> None:
    examples, optimizer = _examples(loaded), make_optimizer(loaded.model, OptimSpec(lr=1e-2))
    before = evaluate_sft_loss(_policy(loaded), examples, make_noise_generator(9, 0), SftSpec())

    for step in range(1, 31):
        metrics = train_sft_batch(
            _policy(loaded),
            optimizer,
            examples,
            make_noise_generator(0, step),
            SftSpec(),
            OptimSpec(),
        )

    after = evaluate_sft_loss(_policy(loaded), examples, make_noise_generator(9, 0), SftSpec())
    assert after < 0.7 * before
    assert metrics["train/lr"] == 1e-2


def test_the_supervised_loss_of_a_uniform_model_is_the_weighted_share_of_masked_tokens(
    loaded: LoadedModel,
) -> None:
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.zero_()
    (example,) = [
        SftExample(
            prompt_ids=np.array([1, 2], np.int32), token_ids=np.array([3, 4, 5, 1, 2, 0], np.int32)
        )
    ]

    loss = evaluate_sft_loss(_policy(loaded), [example], make_noise_generator(4, 4), SftSpec())

    generator = make_noise_generator(4, 4)
    rate = generator.uniform(1e-3, 1.0)
    masked = (generator.random(6) < rate).sum()
    assert loss == pytest.approx(masked * np.log(6) / rate / 6)


def test_a_supervised_batch_in_which_nothing_is_masked_is_a_step_with_loss_zero(
    loaded: LoadedModel,
) -> None:
    example = SftExample(
        prompt_ids=np.array([1, 2, 3], np.int32), token_ids=np.array([4], np.int32)
    )
    quiet = next(s for s in range(100) if _nothing_masked(s))
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=1.0)
    before = _weights(loaded)

    metrics = train_sft_batch(
        _policy(loaded),
        optimizer,
        [example],
        make_noise_generator(quiet, 0),
        SftSpec(),
        OptimSpec(),
    )

    assert (
        metrics["train/loss"],
        metrics["train/grad_norm"],
        metrics["diffusion/masked_tokens_trained"],
    ) == (0, 0, 0)
    assert torch.equal(before, _weights(loaded))


def _nothing_masked(seed: int) -> bool:
    generator = make_noise_generator(seed, 0)
    rate = generator.uniform(1e-3, 1.0, size=1)
    return not bool((generator.random(1) < rate).any())


def test_bf16_passes_leave_weights_gradients_and_log_probs_in_fp32(tmp_path: Path) -> None:
    """Jobs may ask for it on a GPU only; what stays fp32 can be seen on a CPU too."""
    make_tiny_model(tmp_path / "tiny", seed=0, hidden_size=16, layers=1, heads=2)
    loaded = load_model(tmp_path / "tiny", "float32", "cpu")
    samples = random_samples(loaded, 4)
    (row,) = rl_rows(samples, block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6)
    full, half = (
        Policy(loaded=loaded, trainer=TrainerSpec(precision=name)) for name in ("fp32", "bf16")
    )

    logprobs, _ = half.score(row, 1.0)
    logprobs.sum().backward()

    assert logprobs.dtype == torch.float32
    assert {p.grad.dtype for p in loaded.model.parameters() if p.grad is not None} == {
        torch.float32
    }
    difference = (logprobs - full.score(row, 1.0)[0]).abs().max()
    assert 1e-5 < difference < 0.2


def test_the_loss_along_a_recorded_order_is_the_negative_log_likelihood_of_the_trajectory(
    loaded: LoadedModel,
) -> None:
    samples = random_samples(loaded, 5)
    (row,) = rl_rows(samples, block_size=4, mask_token_id=loaded.mask_token_id, max_tokens=10**6)
    expected = -score_row(loaded, row, 1.0)[0].detach().mean()
    examples = [
        SftExample(
            prompt_ids=s.prompt_ids,
            token_ids=s.response.token_ids,
            unmask_step=s.response.unmask_step,
        )
        for s in samples
    ]

    loss = evaluate_sft_loss(
        _policy(loaded), examples, make_noise_generator(0, 0), SftSpec(noise="trace")
    )

    assert loss == pytest.approx(float(expected), rel=1e-12)


def test_every_masked_token_counts_with_the_weight_of_its_own_block(loaded: LoadedModel) -> None:
    """A uniform model: each log-prob is -ln 6, so the loss is what the weights add up to."""
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.zero_()
    examples, spec = _examples(loaded), SftSpec(noise="block")
    noisy = add_noise(examples, spec, loaded.block_size, make_noise_generator(0, 1))
    weights = [float(each.weight[each.state > 0].sum()) for each in noisy]
    tokens = sum(len(each.token_ids) for each in noisy)

    loss = evaluate_sft_loss(_policy(loaded), examples, make_noise_generator(0, 1), spec)

    assert len({weight for each in noisy for weight in each.weight.tolist()}) > len(examples)
    assert loss == pytest.approx(np.log(6) * sum(weights) / tokens)


class RepeatingRank(Ranks):
    """A rank that repeats rows which do not count, as ranks with too few rows do."""

    def share_rows(self, rows: Sequence[Any]) -> list[tuple[Any, bool]]:
        return [(rows[0], False), *((row, True) for row in rows), (rows[-1], False)]


def test_a_row_that_does_not_count_changes_no_supervised_step(loaded: LoadedModel) -> None:
    other, examples = copy.deepcopy(loaded), _examples(loaded)
    policies = [
        Policy(loaded=each, trainer=TrainerSpec(max_tokens_per_microbatch=40), ranks=ranks)
        for each, ranks in ((loaded, ALONE), (other, RepeatingRank()))
    ]

    plain, repeated = (
        train_sft_batch(
            policy,
            torch.optim.SGD(policy.loaded.model.parameters(), lr=1.0),
            examples,
            make_noise_generator(0, 1),
            SftSpec(),
            OptimSpec(),
        )
        for policy in policies
    )

    assert repeated == plain
    assert torch.equal(_weights(other), _weights(loaded))


@pytest.mark.parametrize("max_tokens", ROW_BUDGETS)
def test_a_model_that_guesses_far_worse_than_chance_stops_before_the_weights_move(
    loaded: LoadedModel, max_tokens: int
) -> None:
    samples = random_samples(loaded, 5)
    examples = [
        SftExample(
            prompt_ids=s.prompt_ids,
            token_ids=s.response.token_ids,
            unmask_step=s.response.unmask_step,
        )
        for s in samples
    ]

    def scale(factor: float) -> tuple[LoadedModel, float]:
        """A model with its logits scaled, and the mean NLL of the recorded trajectories."""
        scaled = copy.deepcopy(loaded)
        with torch.no_grad():
            scaled.model.get_output_embeddings().weight.mul_(factor)
        trace = SftSpec(noise="trace")
        return scaled, evaluate_sft_loss(
            _policy(scaled), examples, make_noise_generator(0, 0), trace
        )

    # Four times the nats of a uniform guess among the seven ids.
    limit = 4 * np.log(7)
    sound, broken = scale(2.8), scale(3.0)
    assert 0.9 * limit < sound[1] < limit < broken[1] < 1.1 * limit

    _train_sft(sound[0], examples, max_tokens=max_tokens, noise="trace")
    before = _weights(broken[0])
    for train in (
        lambda: _train_sft(broken[0], examples, max_tokens=max_tokens, noise="trace"),
        lambda: _train_rl(broken[0], samples, max_tokens=max_tokens),
    ):
        with pytest.raises(PlatformError, match=f"is {broken[1]:.1f} nats, .* guess 1.9") as caught:
            train()
        assert caught.value.code == "nan_loss"
    assert torch.equal(before, _weights(broken[0]))
