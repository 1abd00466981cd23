"""Candidates for masked positions: a draw by inverse CDF, or the argmax.

Legend: S responses, B positions, V vocabulary.
"""

import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig


def scaled_logprobs(config: DecodingConfig, logits: Tensor) -> Tensor:
    """Log-softmax [S, B, V] after temperature; greedy decoding (temperature 0) reports at
    temperature 1.
    """
    scaled = logits if config.temperature in (0, 1) else logits / config.temperature
    return torch.log_softmax(scaled, dim=-1)


def sample_candidates(config: DecodingConfig, logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """One token id per position [S, B] from log-probabilities [S, B, V] and uniform numbers [S, B]
    in (0, 1).

    A token of probability zero, a banned one for instance, is never chosen.
    """
    if config.temperature == 0:
        return logprobs.argmax(-1)
    cdf = truncate(config, logprobs).exp().double().cumsum(-1)
    target = uniforms[..., None] * cdf[..., -1:]
    return torch.searchsorted(cdf, target, right=True)[..., 0]


def truncate(config: DecodingConfig, logprobs: Tensor) -> Tensor:
    """Top-k, then nucleus truncation [S, B, V]: what is cut stands at -inf, the rest is not
    renormalised.

    The nucleus keeps a token while the probability before it is at most top_p (of what top-k kept);
    at least one.
    """
    if 0 < config.top_k < logprobs.shape[-1]:
        least = logprobs.topk(config.top_k).values[..., -1:]
        logprobs = logprobs.masked_fill(logprobs < least, -torch.inf)
    if config.top_p < 1:
        ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        cut = probabilities.cumsum(-1) - probabilities > config.top_p
        logprobs = logprobs.scatter(-1, order, ordered.masked_fill(cut, -torch.inf))
    return logprobs
