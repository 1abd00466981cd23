"""The DiPO policy loss: a clipped importance-weighted policy gradient over the tokens that were
sampled.

    loss = −Σ_i w_i c_i · min(ρ_i A_i, clip(ρ_i, 1 − clip_low, 1 + clip_high) A_i) + kl_beta Σ_i w_i KL_i

with ρ_i = π(token_i | its state) / π_b(…) and c_i = 1, or (rl.ratio = proximal) ρ_i = π / π_prox and c_i = min(π_prox /
π_b, importance_cap). π_b is the behaviour policy, the log-probs that the rollout engine recorded; π_prox that of the
weights before the step. PPO's clip (arXiv 1707.06347, equation 7), per token, with a bound of its own above (DAPO's
Clip-Higher, arXiv 2503.14476); decoupled as in arXiv 2110.00641, truncated as in IMPALA (arXiv 1802.01561). The weights
w_i are computed from the whole mini-batch beforehand, so its loss is the sum over its micro-batches.

Legend: S responses of the mini-batch, N terms of one micro-batch.
"""

from dataclasses import dataclass, fields
from typing import Final, Literal

import torch

from services.common.job_metrics import JobMetric
from services.common.job_spec import RlSpec

LOG_RATIO_LIMIT: Final = 20.0
"""|log ρ| is cut here before exp. A log-prob may differ from its record by hundreds when a policy collapses, and exp of
89 is infinite in fp32: infinity times an advantage of 0 is NaN. exp(20) = 5e8 is far outside every clip range.
"""


@dataclass(frozen=True, kw_only=True)
class TokenTerms:
    """The constants of the loss, per token."""

    behaviour: torch.Tensor
    """[N] recorded log-probs."""
    advantage: torch.Tensor
    """[N] of the token's response."""
    weight: torch.Tensor
    """[N] from token_weights."""
    proximal: torch.Tensor | None = None
    """[N] log-probs under the weights before the step; None makes the ratio relative to
    `behaviour`.
    """
    reference: torch.Tensor | None = None
    """[N] log-probs under the reference policy; None leaves the KL divergence out."""


@dataclass(kw_only=True)
class PolicyStatistics:
    """Sums and maxima over tokens, added up over micro-batches; `*_max` are maxima."""

    tokens: float = 0.0
    nll: float = 0.0
    """-log π, in nats."""
    clipped: float = 0.0
    capped: float = 0.0
    """Importance weights that the cap cut."""
    ratio: float = 0.0
    """π / π_b, whatever the clipped ratio is relative to."""
    ratio_max: float = 0.0
    kl: float = 0.0
    kl_loss: float = 0.0
    mismatch_kl: float = 0.0
    abs_diff: float = 0.0
    abs_diff_max: float = 0.0
    gap_max: float = 0.0
    """|difference| relative to max(1, |log-prob|)."""
    entropy: float = 0.0
    steps: float = 0.0
    """Denoising steps whose selection was looked at again."""
    drifted: float = 0.0
    """Those that would now commit other positions."""

    def add(self, other: "PolicyStatistics") -> None:
        """Include another micro-batch."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(
                self,
                field.name,
                max(mine, theirs) if field.name.endswith("_max") else mine + theirs,
            )

    def metrics(self) -> dict[str, float]:
        """Metrics by their public names; means are over tokens."""
        return {
            JobMetric.TRAIN_CLIP_FRACTION: self.clipped / self.tokens,
            JobMetric.TRAIN_IS_RATIO_MEAN: self.ratio / self.tokens,
            JobMetric.TRAIN_IS_RATIO_MAX: self.ratio_max,
            JobMetric.TRAIN_MISMATCH_KL: self.mismatch_kl / self.tokens,
            JobMetric.TRAIN_LOGPROB_ABS_DIFF_MEAN: self.abs_diff / self.tokens,
            JobMetric.TRAIN_LOGPROB_ABS_DIFF_MAX: self.abs_diff_max,
            JobMetric.TRAIN_LOGPROB_GAP_MAX: self.gap_max,
            JobMetric.TRAIN_ENTROPY: self.entropy / self.tokens,
            JobMetric.DIFFUSION_MASKED_TOKENS_TRAINED: self.tokens,
        }


def token_weights(
    lengths: torch.Tensor,
    normaliser: Literal["token", "response", "constant"],
    max_response_tokens: int,
) -> torch.Tensor:
    """Weight of one token of each response: [S] response lengths of the whole mini-batch to [S]
    float64.

    token: 1 / all tokens. response: 1 / (S · own length), the mean of per-response means (GRPO).
    constant: 1 / (S · max_response_tokens), the same for every token whatever was sampled (Dr.
    GRPO, arXiv 2503.20783).
    """
    # float64: the sum over a hundred thousand terms of such weights must be 1.
    lengths = lengths.to(torch.float64)
    if normaliser == "token":
        return (1.0 / lengths.sum()).expand(len(lengths))
    if normaliser == "response":
        return 1.0 / (len(lengths) * lengths)
    return torch.full_like(lengths, 1.0 / (len(lengths) * max_response_tokens))


def policy_loss(
    logprobs: torch.Tensor, terms: TokenTerms, rl: RlSpec
) -> tuple[torch.Tensor, PolicyStatistics]:
    """Loss of one micro-batch of N terms and its statistics (without entropy and drift).

    logprobs [N] carries the gradient; everything in `terms` is constant. Log-probs must be finite:
    the caller checks, because only it can name the trajectory.
    """
    advantage, weight = terms.advantage.to(logprobs), terms.weight.to(logprobs)
    behaviour = terms.behaviour.to(logprobs)
    proximal = behaviour if terms.proximal is None else terms.proximal.to(logprobs)
    # Between two records, so a constant: it corrects for the engine's numerics and for staleness
    # without ever being clipped against. The cap trades its variance for a bias.
    importance = ratio_of(proximal - behaviour)
    correction = 1.0 if terms.proximal is None else importance.clamp(max=rl.importance_cap)
    ratio = ratio_of(logprobs - proximal)
    clipped = ratio.clamp(1 - rl.clip_low, 1 + rl.clip_high)
    # PPO's pessimistic bound: where the clipped term is the smaller one, the gradient is zero.
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    loss = -(weight * correction * surrogate).sum()
    with torch.no_grad():
        statistics = _statistics(logprobs, behaviour)
        # Counts where the clip took the gradient away, not where the ratio merely left the range: with
        # the other sign of the advantage min keeps the unclipped term.
        statistics.clipped = float((clipped * advantage < ratio * advantage).sum())
        statistics.capped = float((importance > rl.importance_cap).sum())
    # In the loss, not in the reward: the reward stays comparable between runs with other kl_beta.
    if terms.reference is not None:
        kl = KL_ESTIMATORS[rl.kl_estimator](logprobs - terms.reference.to(logprobs))
        kl_loss = rl.kl_beta * (weight * kl).sum()
        statistics.kl, statistics.kl_loss = float(kl.detach().sum()), float(kl_loss.detach())
        loss = loss + kl_loss
    return loss, statistics


def ratio_of(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp, finite and with gradient zero beyond LOG_RATIO_LIMIT."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def _statistics(logprobs: torch.Tensor, behaviour: torch.Tensor) -> PolicyStatistics:
    diff, ratio = (logprobs - behaviour).abs(), ratio_of(logprobs - behaviour)
    return PolicyStatistics(
        tokens=len(logprobs),
        nll=-float(logprobs.sum()),
        ratio=float(ratio.sum()),
        ratio_max=float(ratio.max()),
        mismatch_kl=float(kl_k3(behaviour - logprobs).sum()),
        abs_diff=float(diff.sum()),
        abs_diff_max=float(diff.max()),
        gap_max=float((diff / behaviour.abs().clamp(min=1)).max()),
    )


def kl_k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(p ‖ q) per token sampled from p, log_ratio = log p − log q: exp(−d) − 1 + d ≥
    0, unbiased.

    Estimator k3 of Schulman, "Approximating KL divergence" (2020). Its value is unbiased; its
    gradient is not the KL's.
    """
    # ratio_of and not exp: beyond its limit the linear term still grows, the estimate stays finite.
    return ratio_of(-log_ratio) - 1 + log_ratio


def kl_k2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(p ‖ q) per token sampled from p: d² / 2, biased, but with the KL's own
    gradient on-policy.
    """
    return log_ratio.square() / 2


KL_ESTIMATORS: Final = {"k3": kl_k3, "k2": kl_k2}
