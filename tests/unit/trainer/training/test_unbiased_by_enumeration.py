"""The expectation of the learner's own update, over every possible group of two, against the true
policy gradient.
"""

import pytest
import torch

from services.common.diffusion.config import DecodingConfig
from services.common.job_spec import RlSpec
from services.common.model.loading import LoadedModel
from tests.support.enumeration import (
    ENTROPY_BOUNDED,
    MAX,
    SAMPLED,
    SEQUENTIAL,
    Bias,
    Enumeration,
    ScoredPrompts,
    expected_update,
    toy_model,
    true_gradient,
)

ALIGNED, UNALIGNED = [1, 2], [1, 2, 1]
"""A response to the first fills two blocks of two; one to the second completes a block and fills
one.
"""


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return toy_model(4)


def _bias(enumeration: Enumeration, **rl: str) -> Bias:
    trajectories = enumeration.trajectories()
    assert float(
        torch.stack([t.probability.detach() for t in trajectories]).sum()
    ) == pytest.approx(1, abs=1e-12)
    settings = RlSpec.model_validate(
        {"preset": "exact", "estimator": enumeration.estimator}
    ).model_copy(update=rl)
    truth = true_gradient(enumeration.loaded, trajectories)
    return Bias.of(expected_update(enumeration, trajectories, settings), truth)


@pytest.mark.parametrize(
    ("decoding", "prompt", "estimator"),
    [
        (MAX, ALIGNED, "accepted"),
        (MAX, UNALIGNED, "accepted"),
        (SEQUENTIAL, UNALIGNED, "accepted"),
        (ENTROPY_BOUNDED, ALIGNED, "accepted"),
        (SAMPLED, UNALIGNED, "all_candidates"),
    ],
    ids=["max-aligned", "max", "sequential", "entropy_bounded", "sampled-all_candidates"],
)
def test_the_exact_preset_estimates_the_true_gradient_without_bias(
    loaded: LoadedModel, decoding: DecodingConfig, prompt: list[int], estimator: str
) -> None:
    assert _bias(Enumeration(loaded, prompt, decoding, estimator)).relative_error < 1e-9


@pytest.mark.parametrize("decoding", [MAX, ENTROPY_BOUNDED], ids=["max", "entropy_bounded"])
@pytest.mark.parametrize(
    ("prompt", "lengths"), [(ALIGNED, {2, 4}), (UNALIGNED, {1, 3})], ids=["aligned", "unaligned"]
)
def test_what_is_enumerated_varies_in_length_and_in_steps_per_block(
    loaded: LoadedModel, prompt: list[int], lengths: set[int], decoding: DecodingConfig
) -> None:
    trajectories = Enumeration(loaded, prompt, decoding).trajectories()

    assert {len(t.token_ids) for t in trajectories} == lengths
    assert {
        t.steps[i] == t.steps[i + 1]
        for t in trajectories
        for i in range(len(t.steps) % 2, len(t.steps), 2)
    } == {
        True,
        False,
    }


def test_candidates_are_rejected_in_some_trajectories_of_the_sampled_rule(
    loaded: LoadedModel,
) -> None:
    trajectories = Enumeration(loaded, UNALIGNED, SAMPLED, "all_candidates").trajectories()

    assert {len(t.rejected) for t in trajectories} == {0, 1}


def test_accepted_tokens_of_the_sampled_rule_are_a_biased_estimate(loaded: LoadedModel) -> None:
    """The published combination: which candidate is accepted depends on those that were rejected."""
    assert _bias(Enumeration(loaded, UNALIGNED, SAMPLED)).relative_error > 0.1


def test_the_group_mean_halves_the_gradient_of_a_group_of_two(loaded: LoadedModel) -> None:
    """1 − 1/G: the response's own reward is part of its baseline."""
    bias = _bias(Enumeration(loaded, UNALIGNED, MAX), advantage="mean")

    assert (bias.cosine, bias.length) == pytest.approx((1, 0.5), rel=1e-9)


@pytest.mark.parametrize(
    "changed", [{"advantage": "std"}, {"normaliser": "token"}, {"normaliser": "response"}], ids=str
)
def test_the_practical_settings_change_the_direction(
    loaded: LoadedModel, changed: dict[str, str]
) -> None:
    """And the table of benchmarks/bias.py, which combines single gradients, measures the same."""
    bias = _bias(Enumeration(loaded, UNALIGNED, MAX), **changed)

    assert 0 < bias.cosine < 0.9999
    settings = RlSpec(preset="exact").model_copy(update=changed)
    table = ScoredPrompts([Enumeration(loaded, UNALIGNED, MAX)]).bias(settings)
    assert (table.cosine, table.length) == pytest.approx((bias.cosine, bias.length), rel=1e-9)


def test_replacing_groups_without_a_signal_stretches_the_gradient_and_with_shaped_rewards_turns_it(
    loaded: LoadedModel,
) -> None:
    """Groups of equal rewards have no advantage, so leaving them out only divides by the share that
    is kept.
    """
    enumerations = [Enumeration(loaded, prompt, MAX) for prompt in (UNALIGNED, [2, 2, 2])]
    exact = RlSpec(preset="exact")
    replacing = exact.model_copy(update={"dynamic_sampling": "correctness"})

    binary = ScoredPrompts(enumerations, correct_above=0.5)
    shaped = ScoredPrompts(enumerations)

    assert binary.bias(exact).relative_error < 1e-9
    assert binary.bias(replacing).cosine == pytest.approx(1, abs=1e-12)
    assert binary.bias(replacing).length > 1.5
    assert shaped.bias(exact).relative_error < 1e-9
    assert shaped.bias(replacing).cosine < 0.999
