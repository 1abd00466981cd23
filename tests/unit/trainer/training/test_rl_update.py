"""Mini-batches, iterations, the reference policy and rejected candidates in a reinforcement step."""

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from services.common.diffusion.config import Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.job_spec import OptimSpec, RlSpec, SamplingSpec, TrainerSpec
from services.common.model.loading import LoadedModel
from services.common.trajectory import Candidates
from services.trainer.training.policy import Policy, score_row
from services.trainer.training.ranks import ALONE, Ranks
from services.trainer.training.reference_policy import FrozenReferencePolicy
from services.trainer.training.rl_update import RlRules, split_groups, train_rl_batch
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.builders import decoding
from tests.support.numerics import (
    gradient,
    random_samples,
    response_of,
    tiny_loaded,
    with_response,
)

BLOCK = 4


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny_loaded(vocab_size=7, block_size=BLOCK)


def _with_rejected(sample: Sample, seed: int = 0) -> Sample:
    """A candidate for every position at every step of its block before its own."""
    rng = np.random.default_rng(seed)
    blocks = (len(sample.prompt_ids) + np.arange(len(sample.response.token_ids))) // BLOCK
    found = [
        (position, step)
        for position, own in enumerate(sample.response.unmask_step)
        for step in sorted(set(sample.response.unmask_step[blocks == blocks[position]].tolist()))
        if step < own
    ]
    position, step = np.array(found, np.int32).reshape(-1, 2).T
    ids, logprobs = (
        rng.integers(6, size=len(found)).astype(np.int32),
        rng.normal(-2, 0.5, size=len(found)),
    )
    rejected = Candidates(position=position, step=step, token_ids=ids, logprobs=logprobs)
    return with_response(sample, rejected=rejected)


def _groups(loaded: LoadedModel, count: int = 4) -> list[Sample]:
    """Two samples per group."""
    samples = random_samples(loaded, 2 * count)
    return [dataclasses.replace(sample, group=f"grp_{i // 2}") for i, sample in enumerate(samples)]


def _rules(temperature: float = 1.0, **rl: Any) -> RlRules:
    settings = RlSpec(min_groups_per_step=4, **rl)
    config = decoding(
        block_size=BLOCK, mask_token_id=6, unmasking_strategy=UnmaskingStrategy.SEQUENTIAL
    )
    sampling, optim = (
        SamplingSpec(max_new_tokens=30, temperature=temperature),
        OptimSpec(max_grad_norm=1e9),
    )
    return RlRules(rl=settings, sampling=sampling, optim=optim, decoding=config)


def _train(
    loaded: LoadedModel,
    samples: list[Sample],
    *,
    max_tokens: int = 60,
    reference: LoadedModel | None = None,
    **rl: Any,
) -> dict[str, float]:
    """Plain SGD, so that the change of the weights is the gradient times a tenth."""
    policy = Policy(loaded=loaded, trainer=TrainerSpec(max_tokens_per_microbatch=max_tokens))
    policy.reference = None if reference is None else FrozenReferencePolicy(reference)
    return train_rl_batch(
        policy, torch.optim.SGD(loaded.model.parameters(), lr=0.1), samples, _rules(**rl)
    )


def _weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


def _scores(
    loaded: LoadedModel, samples: list[Sample], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs with gradient, sample and term of every term, from one row."""
    (row,) = rl_rows(samples, block_size=BLOCK, mask_token_id=6, max_tokens=10**6)
    return score_row(loaded, row, temperature)[0], row.sample, row.token


def test_mini_batches_hold_whole_groups_in_order() -> None:
    loaded = tiny_loaded(vocab_size=7, block_size=BLOCK)
    samples = _groups(loaded, 5)

    split = split_groups(samples, 2)

    assert [[sample.group for sample in part] for part in split] == [
        ["grp_0", "grp_0", "grp_1", "grp_1", "grp_2", "grp_2"],
        ["grp_3", "grp_3", "grp_4", "grp_4"],
    ]


def test_every_mini_batch_of_every_iteration_is_exactly_one_optimizer_step(
    loaded: LoadedModel,
) -> None:
    policy = Policy(loaded=loaded, trainer=TrainerSpec(max_tokens_per_microbatch=1))
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.1)
    seen: list[torch.Tensor] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(_weights(loaded)))

    metrics = train_rl_batch(
        policy, optimizer, _groups(loaded), _rules(num_iterations=3, minibatches=2)
    )

    assert len(seen) == 6
    assert len({tuple(weights.tolist()) for weights in seen}) == 6
    assert metrics["train/updates"] == 6.0
    assert metrics["train/lr"] == pytest.approx(0.1)


def test_mini_batches_equal_steps_on_their_groups_one_after_the_other(loaded: LoadedModel) -> None:
    other, samples = copy.deepcopy(loaded), _groups(loaded)

    _train(loaded, samples, minibatches=2)
    _train(other, samples[:4])
    _train(other, samples[4:])

    torch.testing.assert_close(_weights(loaded), _weights(other), rtol=1e-12, atol=1e-14)


def test_the_proximal_ratio_is_one_in_the_first_update_and_moves_in_the_second(
    loaded: LoadedModel,
) -> None:
    samples = [with_response(s, logprobs=s.response.logprobs - 3.0) for s in _groups(loaded)]

    first = _train(copy.deepcopy(loaded), samples, ratio="proximal")
    both = _train(
        copy.deepcopy(loaded),
        samples,
        ratio="proximal",
        num_iterations=2,
        clip_low=0.0,
        clip_high=0.0,
    )

    assert first["train/clip_fraction"] == 0.0
    assert first["train/is_ratio_mean"] > 2.0
    assert 0.5 < first["train/is_capped_fraction"] <= 1.0
    assert both["train/clip_fraction"] > 0.1


def test_the_log_probs_before_the_step_stay_those_while_the_weights_move(
    loaded: LoadedModel,
) -> None:
    """Two iterations by hand: ratio to the scores under the first weights, times the capped
    importance weight.
    """
    samples, other = _groups(loaded, 1), copy.deepcopy(loaded)
    before = _scores(other, samples)[0].detach()
    recorded = torch.from_numpy(np.concatenate([s.response.logprobs for s in samples]))
    first = torch.tensor([0, len(samples[0].response.token_ids)])

    _train(
        loaded,
        samples,
        ratio="proximal",
        num_iterations=2,
        clip_low=1.0,
        clip_high=9.0,
        importance_cap=1.5,
    )

    for _ in range(2):
        logprobs, sample, token = _scores(other, samples)
        weight = (before - recorded[first[sample] + token]).exp().clamp(max=1.5)
        advantage = torch.tensor([s.advantage for s in samples], dtype=torch.float64)[sample]
        loss = -(weight * (logprobs - before).exp() * advantage).mean()
        slopes = torch.autograd.grad(loss, list(other.model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(other.model.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
    torch.testing.assert_close(_weights(loaded), _weights(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k3", "k2"])
def test_the_divergence_from_the_reference_is_zero_at_the_start_and_pulls_back_later(
    loaded: LoadedModel, estimator: str
) -> None:
    start, samples = copy.deepcopy(loaded), _groups(loaded)
    settings: dict[str, Any] = {"kl_beta": 0.2, "kl_estimator": estimator, "reference": start}

    at_start = _train(loaded, samples, **settings)
    later = _train(loaded, samples, **settings)

    assert at_start["train/kl"] == pytest.approx(0.0, abs=1e-14)
    assert later["train/kl"] > 0.0
    penalty = later["train/loss"] - later["train/policy_loss"]
    assert penalty == pytest.approx(0.2 * later["train/kl"], rel=1e-9)
    still = [dataclasses.replace(sample, advantage=0.0) for sample in samples]
    divergences = [_train(loaded, still, **settings)["train/kl"] for _ in range(6)]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] < 0.9 * divergences[0]


def test_the_policy_that_is_trained_is_the_one_at_the_temperature_of_sampling(
    loaded: LoadedModel,
) -> None:
    sample = _groups(loaded)[0]
    logprobs, _, token = _scores(loaded, [sample], temperature=0.5)
    recorded = np.empty(len(token))
    recorded[token.numpy()] = logprobs.detach().numpy()
    samples = [with_response(sample, logprobs=recorded)]

    sampled, other = (
        _train(copy.deepcopy(loaded), samples, temperature=value) for value in (0.5, 1.0)
    )

    assert sampled["train/logprob_gap_max"] < 1e-12
    assert other["train/logprob_gap_max"] > 0.1


def test_a_divergence_without_a_reference_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="no reference policy"):
        _train(loaded, _groups(loaded), kl_beta=0.1)


def test_rejected_candidates_weigh_in_the_loss_like_committed_tokens(loaded: LoadedModel) -> None:
    samples = [_with_rejected(sample, i) for i, sample in enumerate(_groups(loaded, 2))]
    before = _weights(loaded)
    logprobs, sample, token = _scores(loaded, samples)
    recorded = [
        np.concatenate([s.response.logprobs, s.response.rejected.logprobs]) for s in samples
    ]
    behaviour = torch.tensor([recorded[s][t] for s, t in zip(sample, token, strict=True)])
    advantage = torch.tensor([s.advantage for s in samples], dtype=torch.float64)[sample]
    loss = -((logprobs - behaviour).exp() * advantage).sum() / sum(s.num_terms for s in samples)
    expected = gradient(loaded, loss)

    metrics = _train(loaded, samples, clip_low=1.0, clip_high=99.0, estimator="all_candidates")

    assert (
        len(logprobs)
        == sum(s.num_terms for s in samples)
        > sum(len(s.response.token_ids) for s in samples)
    )
    torch.testing.assert_close((before - _weights(loaded)) / 0.1, expected, rtol=1e-9, atol=1e-12)
    assert metrics["diffusion/masked_tokens_trained"] == len(logprobs)


@pytest.mark.parametrize("normaliser", ["token", "response", "constant"])
def test_packing_and_order_change_nothing_whatever_the_loss_consists_of(normaliser: str) -> None:
    outcomes = []
    for max_tokens, turned in ((1, False), (10_000, False), (60, True)):
        loaded, reference = (
            tiny_loaded(vocab_size=7, block_size=BLOCK, seed=seed) for seed in (0, 1)
        )
        samples = [_with_rejected(sample, i) for i, sample in enumerate(_groups(loaded))]
        metrics = _train(
            loaded, samples[::-1] if turned else samples, max_tokens=max_tokens, reference=reference,
            normaliser=normaliser, ratio="proximal", num_iterations=2, kl_beta=0.3, estimator="all_candidates",
        )  # fmt: skip
        outcomes.append((metrics, _weights(loaded)))

    for metrics, weights in outcomes[1:]:
        assert metrics == pytest.approx(outcomes[0][0], rel=1e-9)
        torch.testing.assert_close(weights, outcomes[0][1], rtol=1e-9, atol=1e-12)


def test_activation_checkpointing_changes_no_gradient() -> None:
    plain, sparing = (tiny_loaded(vocab_size=7, block_size=BLOCK) for _ in range(2))
    name = "activation_checkpointing_enable"
    getattr(
        sparing.model, name if hasattr(sparing.model, name) else "gradient_checkpointing_enable"
    )({"use_reentrant": False})
    sparing.model.train()
    samples = _groups(plain)

    _train(plain, samples)
    _train(sparing, samples)

    torch.testing.assert_close(_weights(sparing), _weights(plain), rtol=1e-12, atol=1e-14)


class RepeatingRank(Ranks):
    """A rank that repeats rows which do not count, as ranks with too few rows do."""

    def share_rows(self, rows: Sequence[Any]) -> list[tuple[Any, bool]]:
        return [(rows[0], False), *((row, True) for row in rows), (rows[-1], False)]


def test_a_row_that_does_not_count_changes_neither_metrics_nor_weights(
    loaded: LoadedModel,
) -> None:
    other, samples = copy.deepcopy(loaded), _groups(loaded)
    policies = [
        Policy(loaded=each, trainer=TrainerSpec(max_tokens_per_microbatch=60), ranks=ranks)
        for each, ranks in ((loaded, ALONE), (other, RepeatingRank()))
    ]

    plain, repeated = (
        train_rl_batch(
            policy, torch.optim.SGD(policy.loaded.model.parameters(), lr=0.1), samples, _rules()
        )
        for policy in policies
    )

    assert repeated == plain
    assert torch.equal(_weights(other), _weights(loaded))


def test_what_a_job_does_not_use_is_not_reported(loaded: LoadedModel) -> None:
    samples = _groups(loaded)
    plain = _train(copy.deepcopy(loaded), samples)
    proximal = _train(copy.deepcopy(loaded), samples, ratio="proximal")

    assert plain.keys() & {"train/kl", "train/is_capped_fraction"} == set()
    assert proximal.keys() - plain.keys() == {"train/is_capped_fraction"}


def test_updates_that_do_not_move_the_weights_report_the_same_means_as_one(
    loaded: LoadedModel,
) -> None:
    policy = Policy(loaded=loaded, trainer=TrainerSpec())
    still = torch.optim.SGD(loaded.model.parameters(), lr=0.0)
    samples = _groups(loaded)

    once, thrice = (
        train_rl_batch(policy, still, samples, _rules(num_iterations=count)) for count in (1, 3)
    )

    for name in once.keys() - {"train/updates", "diffusion/masked_tokens_trained"}:
        assert thrice[name] == pytest.approx(once[name]), name
    assert thrice["diffusion/masked_tokens_trained"] == 3 * once["diffusion/masked_tokens_trained"]


def test_selection_drift_is_reported_off_policy_only(loaded: LoadedModel) -> None:
    samples = _groups(loaded)

    assert "train/selection_drift" not in _train(copy.deepcopy(loaded), samples)
    assert 0.0 < _train(loaded, samples, num_iterations=2)["train/selection_drift"] <= 1.0


def test_drift_is_the_share_of_steps_that_would_commit_other_positions(loaded: LoadedModel) -> None:
    """Sequential, one token per step: of the orders 1 2 3 4 and 2 1 3 4 the second drifts in its
    first two steps.
    """
    sample = random_samples(loaded, 1)[0]
    ids = np.array([1, 2, 3, 4], np.int32)
    samples = [
        dataclasses.replace(
            sample,
            prompt_ids=ids,
            response=response_of(ids, np.array(steps, np.int32), np.full(4, -2.0)),
        )
        for steps in ([1, 2, 3, 4], [2, 1, 3, 4])
    ]

    metrics = _train(loaded, samples, num_iterations=2)

    # The second sample's step 1 commits position 1 where position 0 was due; its step 2 commits
    # that one, as is due.
    assert metrics["train/selection_drift"] == 1 / 8


def test_of_all_orders_only_the_one_by_confidence_does_not_drift(loaded: LoadedModel) -> None:
    sample = random_samples(loaded, 1)[0]
    ids = np.array([1, 2, 3, 4], np.int32)

    def recorded(tokens: Any, steps: Any) -> Sample:
        response = response_of(
            np.array(tokens, np.int32), np.array(steps, np.int32), np.full(4, -2.0)
        )
        return dataclasses.replace(sample, prompt_ids=ids, response=response)

    def drift(steps: tuple[int, ...]) -> float:
        config = decoding(
            block_size=BLOCK,
            mask_token_id=6,
            unmasking_strategy=UnmaskingStrategy.LOW_CONFIDENCE_STATIC,
        )
        rules = dataclasses.replace(_rules(num_iterations=2), decoding=config)
        policy = Policy(loaded=loaded, trainer=TrainerSpec())
        still = torch.optim.SGD(loaded.model.parameters(), lr=0.0)
        return train_rl_batch(policy, still, [recorded(ids, steps)], rules)["train/selection_drift"]

    drifts = {steps: drift(steps) for steps in itertools.permutations((1, 2, 3, 4))}

    [by_confidence] = [steps for steps, value in drifts.items() if value == 0.0]
    # With everything masked, the position of the largest probability is committed first.
    tried = [recorded(np.full(4, token), [1, 1, 1, 1]) for token in range(6)]
    logprobs, _, position = _scores(loaded, tried)
    assert by_confidence.index(1) == int(position[logprobs.argmax()])
    assert set(drifts.values()) <= {0.0, 0.25, 0.5, 0.75}


@pytest.mark.parametrize("strategy", list(UnmaskingStrategy))
@pytest.mark.parametrize("has_rejected", [False, True])
def test_drift_of_sampled_candidates_needs_those_that_were_rejected(
    loaded: LoadedModel, has_rejected: bool, strategy: UnmaskingStrategy
) -> None:
    config = decoding(
        block_size=BLOCK,
        mask_token_id=6,
        unmasking_strategy=strategy,
        selection=Selection.SAMPLED,
    )
    rules = dataclasses.replace(_rules(num_iterations=2), decoding=config)
    samples = [_with_rejected(each) if has_rejected else each for each in _groups(loaded)]
    policy = Policy(loaded=loaded, trainer=TrainerSpec())

    metrics = train_rl_batch(
        policy, torch.optim.SGD(loaded.model.parameters(), lr=0.1), samples, rules
    )

    assert ("train/selection_drift" in metrics) == has_rejected


def test_a_record_of_a_candidate_that_is_not_a_number_is_refused_by_its_number(
    loaded: LoadedModel,
) -> None:
    sample = _with_rejected(_groups(loaded)[0])
    for number in (0, len(sample.response.rejected.logprobs) - 1):
        logprobs = sample.response.rejected.logprobs.copy()
        logprobs[number] = np.nan
        broken = dataclasses.replace(sample.response.rejected, logprobs=logprobs)

        with pytest.raises(PlatformError, match=f"{sample.trajectory_id}: its candidate {number} "):
            _train(loaded, [with_response(sample, rejected=broken)])


def test_a_candidate_of_the_step_that_committed_its_position_is_refused(
    loaded: LoadedModel,
) -> None:
    sample = _with_rejected(_groups(loaded)[0])
    rejected = sample.response.rejected
    own = sample.response.unmask_step[rejected.position]

    with pytest.raises(PlatformError, match="before its position was committed"):
        _train(loaded, [with_response(sample, rejected=dataclasses.replace(rejected, step=own))])


def test_a_candidate_of_a_step_that_committed_nothing_is_refused_by_name(
    loaded: LoadedModel,
) -> None:
    sample = _with_rejected(_groups(loaded)[0])
    rejected = sample.response.rejected
    broken = dataclasses.replace(rejected, step=np.full_like(rejected.step, 99))

    with pytest.raises(PlatformError, match=f"{sample.trajectory_id}: a rejected candidate"):
        _train(loaded, [with_response(sample, rejected=broken)])
