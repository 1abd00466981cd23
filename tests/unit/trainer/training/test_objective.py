import math

import pytest
import torch

from services.common.job_spec import RlSpec
from services.trainer.training.objective import (
    LOG_RATIO_LIMIT,
    PolicyStatistics,
    TokenTerms,
    kl_k2,
    kl_k3,
    policy_loss,
    token_weights,
)

CLIPPED = RlSpec(clip_low=0.2, clip_high=0.28)


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
    loss, statistics = policy_loss(logprobs, terms, CLIPPED)
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
        behaviour=torch.tensor([-900.0, -900.0]),
        advantage=torch.tensor([0.0, -1.0]),
        weight=torch.ones(2),
    )

    loss, _ = policy_loss(far, terms, CLIPPED)

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


@pytest.mark.parametrize(("recorded", "gap"), [(-0.5, 0.3), (-1.5, 0.2), (-3.0, 0.1)])
def test_the_gap_is_relative_to_log_probs_beyond_one(recorded: float, gap: float) -> None:
    behaviour = torch.tensor([recorded], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    terms = TokenTerms(behaviour=behaviour, advantage=one, weight=one)

    _, statistics = policy_loss(behaviour + 0.3, terms, CLIPPED)

    assert statistics.gap_max == pytest.approx(gap)


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
    p, q = (
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64),
    )

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
def test_each_normaliser_gives_a_token_its_stated_weight(
    normaliser: str, weights: list[float]
) -> None:
    got = token_weights(torch.tensor([2, 8]), normaliser, 20)  # type: ignore[arg-type]

    assert got.tolist() == pytest.approx(weights)


def test_the_golden_response_of_five_tokens_weighs_one_fifth_per_token() -> None:
    # The published code gives y0, y2, y3 1/12 and y4, y1 1/4 each (mean within each state), or
    # 0.2667.
    for normaliser in ("token", "response"):
        assert token_weights(torch.tensor([5]), normaliser, 64).tolist() == pytest.approx([0.2])  # type: ignore[arg-type]


def _terms(
    proximal: float | None = None, reference: float | None = None, advantage: float = 2.0
) -> TokenTerms:
    """One token of weight 0.5, recorded with probability 0.2."""
    given = {"proximal": proximal, "reference": reference}
    logs = {
        name: None if p is None else torch.tensor([p], dtype=torch.float64).log()
        for name, p in given.items()
    }
    return TokenTerms(
        behaviour=torch.tensor([0.2], dtype=torch.float64).log(),
        advantage=torch.tensor([advantage]),
        weight=torch.tensor([0.5]),
        **logs,
    )


def _of(
    probability: float, terms: TokenTerms, **rl: object
) -> tuple[float, float, PolicyStatistics]:
    """Loss, slope and statistics of a token whose probability is now this."""
    logprob = torch.tensor([probability], dtype=torch.float64).log().requires_grad_()
    loss, statistics = policy_loss(
        logprob, terms, RlSpec.model_validate({"clip_low": 0.2, "clip_high": 0.28, **rl})
    )
    (slope,) = torch.autograd.grad(loss, logprob)
    return float(loss.detach()), float(slope), statistics


@pytest.mark.parametrize(
    ("now", "proximal", "cap", "loss", "slope"),
    [
        # Ratio 0.33/0.3 = 1.1; weight 0.3/0.2 = 1.5 -> −0.5·1.5·1.1·2
        (0.33, 0.3, 2.0, -1.65, -1.65),
        # The same with the weight cut at 1.2 -> −0.5·1.2·1.1·2
        (0.33, 0.3, 1.2, -1.32, -1.32),
        # Ratio 0.6/0.3 = 2 is clipped to 1.28 -> −0.5·1.5·1.28·2, and no gradient
        (0.6, 0.3, 2.0, -1.92, 0.0),
    ],
)
def test_the_proximal_ratio_is_clipped_and_weighed_by_a_truncated_importance_weight(
    now: float, proximal: float, cap: float, loss: float, slope: float
) -> None:
    got, got_slope, statistics = _of(
        now, _terms(proximal=proximal), ratio="proximal", importance_cap=cap
    )

    assert (got, got_slope) == pytest.approx((loss, slope))
    assert statistics.capped == (cap == 1.2)
    assert statistics.ratio_max == pytest.approx(now / 0.2)


def test_a_weight_at_the_cap_is_not_counted_as_capped() -> None:
    at_cap = _of(0.2, _terms(proximal=0.2), ratio="proximal", importance_cap=1.0)[2]
    above = _of(0.2, _terms(proximal=0.21), ratio="proximal", importance_cap=1.0)[2]

    assert (at_cap.capped, above.capped) == (0.0, 1.0)


def test_the_cap_has_no_part_in_the_behaviour_ratio() -> None:
    # Ratio 0.22/0.2 = 1.1 -> −0.5·1.1·2
    loss, _, _ = _of(0.22, _terms(), importance_cap=0.5)

    assert loss == pytest.approx(-1.1)


@pytest.mark.parametrize(
    ("estimator", "kl", "slope"),
    [
        # d = ln(0.2/0.1) = ln 2: exp(−d) − 1 + d = 0.5 − 1 + 0.693147; slope 1 − exp(−d) = 0.5
        ("k3", 0.193147, 0.5),
        # d²/2 = 0.240227; slope d
        ("k2", 0.240227, 0.693147),
    ],
)
def test_the_kl_penalty_adds_its_weighted_estimate_to_the_loss(
    estimator: str, kl: float, slope: float
) -> None:
    loss, got_slope, statistics = _of(
        0.2, _terms(reference=0.1), kl_beta=0.4, kl_estimator=estimator
    )

    # Policy part: −0.5·1·2 = −1 with slope −1; KL part: 0.4·0.5·kl.
    assert loss == pytest.approx(-1 + 0.2 * kl, abs=1e-6)
    assert got_slope == pytest.approx(-1 + 0.2 * slope, abs=1e-6)
    assert (statistics.kl, statistics.kl_loss) == pytest.approx((kl, 0.2 * kl), abs=1e-6)


def test_the_expected_gradient_of_k2_is_that_of_the_kl_divergence() -> None:
    logits = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    p = logprobs.exp().detach()

    (expected,) = torch.autograd.grad(
        (logprobs.exp() * (logprobs - q.log())).sum(), logits, retain_graph=True
    )
    (k2,) = torch.autograd.grad((p * kl_k2(logprobs - q.log())).sum(), logits, retain_graph=True)
    (k3,) = torch.autograd.grad((p * kl_k3(logprobs - q.log())).sum(), logits)

    torch.testing.assert_close(k2, expected)
    assert not torch.allclose(k3, expected, rtol=0.1)
