import math

import pytest
import torch

from services.trainer.objective import LOG_RATIO_LIMIT, PolicyStatistics, TokenTerms, kl_k3, policy_loss, token_weights


def _loss(
    ratios: list[float], advantages: list[float], weights: list[float] | None = None
) -> tuple[torch.Tensor, torch.Tensor, PolicyStatistics]:
    """Loss, gradient with respect to the log-probs, statistics; clip range [0.8, 1.28]."""
    behaviour = torch.full((len(ratios),), -2.0, dtype=torch.float64)
    logprobs = (behaviour + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    terms = TokenTerms(
        behaviour=behaviour,
        advantage=torch.tensor(advantages, dtype=torch.float64),
        weight=torch.tensor(weights or [1.0] * len(ratios), dtype=torch.float64),
    )
    loss, statistics = policy_loss(logprobs, terms, clip_low=0.2, clip_high=0.28)
    (slope,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), slope, statistics


def test_on_policy_the_slope_of_each_log_prob_is_minus_weight_times_advantage() -> None:
    loss, slope, _ = _loss([1.0, 1.0], [2.0, -1.0], [0.5, 0.25])

    # −(0.5·2 + 0.25·(−1)) = −0.75
    assert loss.item() == pytest.approx(-0.75)
    assert slope.tolist() == pytest.approx([-1.0, 0.25])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.56, 0.0),  # min(3, 1.28·2): clipped above, nothing more to gain
        (1.5, -2.0, 3.0, 3.0),  # min(−3, −2.56): a bad token grown likelier is still pushed down
        (0.5, 2.0, -1.0, -1.0),  # min(1, 0.8·2): a good token grown rarer is still pushed up
        (0.5, -2.0, 1.6, 0.0),  # min(−1, 0.8·(−2)): clipped below
        (1.25, 2.0, -2.5, -2.5),  # inside [0.8, 1.28]
    ],
)
def test_clipping_stops_only_the_updates_that_have_gone_far_enough(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    got, got_slope, statistics = _loss([ratio], [advantage])

    assert got.item() == pytest.approx(loss)
    assert got_slope.item() == pytest.approx(slope)
    assert statistics.clipped == (slope == 0.0)


def test_a_ratio_beyond_all_bounds_stays_finite_and_harmless() -> None:
    loss, slope, statistics = _loss([1.0, 1.0], [0.0, -1.0])
    far = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
    terms = TokenTerms(
        behaviour=torch.tensor([-900.0, -900.0]), advantage=torch.tensor([0.0, -1.0]), weight=torch.ones(2)
    )

    loss, _ = policy_loss(far, terms, clip_low=0.2, clip_high=0.28)

    assert loss.item() == pytest.approx(math.exp(LOG_RATIO_LIMIT))
    assert torch.autograd.grad(loss, far)[0].tolist() == [0.0, 0.0]
    assert slope.tolist() == [0.0, 1.0]
    assert statistics.ratio_max == 1.0


def test_statistics_compare_the_recorded_with_the_current_log_probs() -> None:
    # Recorded −2, −2; differences ln 1.5 = 0.4055 and ln 0.9 = −0.1054.
    _, _, statistics = _loss([1.5, 0.9], [1.0, 1.0])
    statistics.entropy = 3.0

    assert statistics.metrics() == pytest.approx({
        "train/clip_fraction": 0.5,
        "train/is_ratio_mean": 1.2,
        "train/is_ratio_max": 1.5,
        "train/mismatch_kl": ((1.5 - 1 - 0.405465) + (0.9 - 1 + 0.105361)) / 2,
        "train/logprob_abs_diff_mean": (0.405465 + 0.105361) / 2,
        "train/logprob_abs_diff_max": 0.405465,
        "train/logprob_gap_max": 0.405465 / 2,
        "train/entropy": 1.5,
        "diffusion/masked_tokens_trained": 2,
    }, abs=1e-6)  # fmt: skip


def test_statistics_of_micro_batches_add_up_to_those_of_the_whole() -> None:
    *_, whole = _loss([1.5, 0.9, 0.3], [1.0, -1.0, -1.0])
    *_, first = _loss([1.5], [1.0])
    *_, second = _loss([0.9, 0.3], [-1.0, -1.0])

    first.add(second)

    assert first.metrics() == pytest.approx(whole.metrics())


def test_k3_is_the_published_estimate() -> None:
    values = kl_k3(torch.tensor([0.1, -0.1, 0.0], dtype=torch.float64))

    assert values.tolist() == pytest.approx([0.0048374, 0.0051709, 0.0], abs=1e-7)


def test_the_expectation_of_k3_is_the_kl_divergence() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)

    expected = (p * kl_k3((p / q).log())).sum()

    assert expected.item() == pytest.approx((p * (p / q).log()).sum().item())


@pytest.mark.parametrize(
    ("normaliser", "weights"),
    [
        ("token", [1 / 10, 1 / 10]),  # 2 + 8 tokens
        ("response", [1 / 4, 1 / 16]),  # 1 / (2 responses · own length)
        ("constant", [1 / 40, 1 / 40]),  # 1 / (2 responses · 20)
    ],
)
def test_each_normaliser_gives_a_token_its_stated_weight(normaliser: str, weights: list[float]) -> None:
    got = token_weights(torch.tensor([2, 8]), normaliser, 20)  # type: ignore[arg-type]

    assert got.tolist() == pytest.approx(weights)


def test_the_golden_response_of_five_tokens_weighs_one_fifth_per_token() -> None:
    # The published code gives y0, y2, y3 1/12 and y4, y1 1/4 each (mean within each state), or 0.2667.
    for normaliser in ("token", "response"):
        assert token_weights(torch.tensor([5]), normaliser, 64).tolist() == pytest.approx([0.2])  # type: ignore[arg-type]
