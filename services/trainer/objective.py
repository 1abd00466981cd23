"""The DiPO policy loss: a clipped importance-weighted policy gradient over committed tokens.

    loss = −Σ_i w_i · min(ρ_i A_i, clip(ρ_i, 1 − clip_low, 1 + clip_high) A_i),   ρ_i = π(token_i | its state) / π_b(…)

π_b is the behaviour policy: the log-probs that the rollout engine recorded when it sampled the tokens. PPO's clip
(arXiv 1707.06347, equation 7), per token, with a bound of its own above (DAPO's Clip-Higher, arXiv 2503.14476). The
weights w_i are computed from the whole mini-batch beforehand, so its loss is the sum over its micro-batches.

Legend: S responses of the mini-batch, N tokens of one micro-batch.
"""

from dataclasses import dataclass, fields
from typing import Final, Literal

import torch

LOG_RATIO_LIMIT: Final = 20.0
"""|log ρ| is cut here before exp. A log-prob may differ from its record by hundreds when a policy collapses, and exp of
89 is infinite in fp32: infinity times an advantage of 0 is NaN. exp(20) = 5e8 is far outside every clip range."""


@dataclass(frozen=True, kw_only=True)
class TokenTerms:
    """The constants of the loss, per token."""

    behaviour: torch.Tensor
    """[N] recorded log-probs."""
    advantage: torch.Tensor
    """[N] of the token's response."""
    weight: torch.Tensor
    """[N] from token_weights."""


@dataclass(kw_only=True)
class PolicyStatistics:
    """Sums and maxima over tokens, added up over micro-batches; `*_max` are maxima."""

    tokens: float = 0.0
    clipped: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    mismatch_kl: float = 0.0
    abs_diff: float = 0.0
    abs_diff_max: float = 0.0
    gap_max: float = 0.0
    """|difference| relative to max(1, |log-prob|)."""
    entropy: float = 0.0

    def add(self, other: "PolicyStatistics") -> None:
        """Include another micro-batch."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name.endswith("_max") else mine + theirs)

    def metrics(self) -> dict[str, float]:
        """Metrics by their public names; means are over tokens."""
        return {
            "train/clip_fraction": self.clipped / self.tokens,
            "train/is_ratio_mean": self.ratio / self.tokens,
            "train/is_ratio_max": self.ratio_max,
            "train/mismatch_kl": self.mismatch_kl / self.tokens,
            "train/logprob_abs_diff_mean": self.abs_diff / self.tokens,
            "train/logprob_abs_diff_max": self.abs_diff_max,
            "train/logprob_gap_max": self.gap_max,
            "train/entropy": self.entropy / self.tokens,
            "diffusion/masked_tokens_trained": self.tokens,
        }


def token_weights(
    lengths: torch.Tensor, normaliser: Literal["token", "response", "constant"], max_response_tokens: int
) -> torch.Tensor:
    """What one token of each response weighs: [S] response lengths of the whole mini-batch to [S] float64.

    token: 1 / all tokens. response: 1 / (S · own length), the mean of per-response means (GRPO). constant: 1 / (S ·
    max_response_tokens), the same for every token whatever was sampled (Dr. GRPO, arXiv 2503.20783).
    """
    lengths = lengths.to(torch.float64)
    if normaliser == "token":
        return (1.0 / lengths.sum()).expand(len(lengths))
    if normaliser == "response":
        return 1.0 / (len(lengths) * lengths)
    return torch.full_like(lengths, 1.0 / (len(lengths) * max_response_tokens))


def policy_loss(
    logprobs: torch.Tensor, terms: TokenTerms, *, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, PolicyStatistics]:
    """Loss of one micro-batch of N tokens and its statistics (without the entropy).

    logprobs [N] carries the gradient; everything in `terms` is constant. Log-probs must be finite: the caller checks,
    because only it can name the trajectory.
    """
    behaviour, advantage = terms.behaviour.to(logprobs), terms.advantage.to(logprobs)
    ratio = (logprobs - behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    loss = -(terms.weight.to(logprobs) * surrogate).sum()
    with torch.no_grad():
        is_clipped = clipped * advantage < ratio * advantage
        return loss, _statistics(logprobs, behaviour, ratio, is_clipped)


def _statistics(
    logprobs: torch.Tensor, behaviour: torch.Tensor, ratio: torch.Tensor, is_clipped: torch.Tensor
) -> PolicyStatistics:
    diff = (logprobs - behaviour).abs()
    return PolicyStatistics(
        tokens=len(logprobs),
        clipped=float(is_clipped.sum()),
        ratio=float(ratio.sum()),
        ratio_max=float(ratio.max()),
        mismatch_kl=float(kl_k3(behaviour - logprobs).sum()),
        abs_diff=float(diff.sum()),
        abs_diff_max=float(diff.max()),
        gap_max=float((diff / behaviour.abs().clamp(min=1)).max()),
    )


def kl_k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(p ‖ q) per token sampled from p, log_ratio = log p − log q: exp(−d) − 1 + d ≥ 0, unbiased.

    Estimator k3 of Schulman, "Approximating KL divergence" (2020).
    """
    return (-log_ratio).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() - 1 + log_ratio
