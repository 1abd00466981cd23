"""Which masked positions a denoising step commits: the four unmasking rules, for many blocks at
once.

Legend: S blocks, B positions of a block, V vocabulary. Ties go to the left.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy


def confidences(config: DecodingConfig, logprobs: Tensor, candidates: Tensor) -> Tensor:
    """Confidence of each position [S, B], from log-probabilities [S, B, V] and candidate ids [S,
    B].

    Top-k and top-p play no part in it: the log-probabilities are those after temperature and bans.
    """
    if config.selection is Selection.MAX:
        return logprobs.amax(-1).exp()
    return logprobs.gather(-1, candidates[..., None])[..., 0].exp()


def commit_mask(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """Positions to commit, bool [S, B]: some of `masked` [S, B], at least one wherever a block has
    any.
    """
    return masked & _RULES[config.unmasking_strategy](config, masked, confidence, logprobs)


def _static(config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor) -> Tensor:
    """The most confident positions, a fixed number of them."""
    return _rank(-confidence, masked) < config.tokens_per_step


def _dynamic(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """Every position at or above the threshold, and the most confident one."""
    return (confidence >= config.confidence_threshold) | (_rank(-confidence, masked) == 0)


def _sequential(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """The leftmost positions, a fixed number of them."""
    return masked.cumsum(-1) <= config.tokens_per_step


def _entropy_bounded(
    config: DecodingConfig, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    """The longest prefix by ascending entropy whose sum stays within the bound, and the least
    entropic position.
    """
    entropy = torch.special.entr(logprobs.exp()).sum(-1).masked_fill(~masked, torch.inf)
    ordered, order = entropy.sort(dim=-1, stable=True)
    within = ordered.cumsum(-1) <= config.entropy_bound
    within[:, 0] = True
    return torch.zeros_like(masked).scatter(-1, order, within)


def _rank(cost: Tensor, masked: Tensor) -> Tensor:
    """Place of each position by ascending cost, masked ones first; int64 [S, B]."""
    order = cost.masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True)
    return order.argsort(dim=-1)


_RULES: Final[
    Mapping[UnmaskingStrategy, Callable[[DecodingConfig, Tensor, Tensor, Tensor], Tensor]]
] = {
    UnmaskingStrategy.LOW_CONFIDENCE_STATIC: _static,
    UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC: _dynamic,
    UnmaskingStrategy.SEQUENTIAL: _sequential,
    UnmaskingStrategy.ENTROPY_BOUNDED: _entropy_bounded,
}
