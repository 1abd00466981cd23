"""The four unmasking rules, which select the masked positions that a denoising step commits.

Legend: S blocks, B positions of a block, V vocabulary. Of equal confidences the leftmost one comes
first, so that the rules are deterministic.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy


def confidences(config: DecodingConfig, logprobs: Tensor, candidates: Tensor) -> Tensor:
    """Confidence of each position [S, B], from log-probabilities [S, B, V] and candidates [S, B].

    The log-probabilities are those after temperature and bans, before top-k and top-p.
    """
    if config.selection is Selection.MAX:
        return logprobs.amax(-1).exp()
    return logprobs.gather(-1, candidates[..., None])[..., 0].exp()


def commit_mask(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """Return the positions to commit, bool [S, B]: at least one of `masked` [S, B] per block."""
    return masked & _RULES[config.unmasking_strategy](config, masked, confidence, logprobs)


def _commit_static(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """A fixed number of the most confident positions."""
    return _rank(-confidence, masked) < config.tokens_per_step


def _commit_dynamic(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """All positions at or above the threshold, and always the most confident one.

    The confidence-aware decoding of Fast-dLLM (arXiv 2505.22618).
    """
    return (confidence >= config.confidence_threshold) | (_rank(-confidence, masked) == 0)


def _commit_sequential(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """A fixed number of the leftmost positions."""
    return masked.cumsum(-1) <= config.tokens_per_step


def _commit_entropy_bounded(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """The longest prefix by ascending entropy whose sum is within the bound (after EB-Sampler,
    arXiv 2505.24857), and always the position with the least entropy.
    """
    # entr(0) is 0, where -p log p would be NaN for banned ids.
    entropy = torch.special.entr(logprobs.exp()).sum(-1).masked_fill(~masked, torch.inf)
    ordered, order = entropy.sort(dim=-1, stable=True)
    within = ordered.cumsum(-1) <= config.entropy_bound
    # Otherwise a block with high entropy everywhere would never be finished.
    within[:, 0] = True
    return torch.zeros_like(masked).scatter(-1, order, within)


def _rank(cost: Tensor, masked: Tensor) -> Tensor:
    """Return the rank of each position by ascending cost, int64 [S, B]; unmasked ones come last."""
    order = cost.masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True)
    return order.argsort(dim=-1)


_RULES: Final[
    Mapping[UnmaskingStrategy, Callable[[DecodingConfig, Tensor, Tensor, Tensor], Tensor]]
] = {
    UnmaskingStrategy.LOW_CONFIDENCE_STATIC: _commit_static,
    UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC: _commit_dynamic,
    UnmaskingStrategy.SEQUENTIAL: _commit_sequential,
    UnmaskingStrategy.ENTROPY_BOUNDED: _commit_entropy_bounded,
}
