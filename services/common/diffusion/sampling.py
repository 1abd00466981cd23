"""Sample candidates for masked positions by inverse transform sampling, or greedily.

Legend: S responses, B positions, V vocabulary.
"""

import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig


def scaled_logprobs(config: DecodingConfig, logits: Tensor) -> Tensor:
    """Log-softmax [S, B, V] after temperature; greedy decoding reports those at temperature 1."""
    scaled = logits if config.temperature in (0, 1) else logits / config.temperature
    return torch.log_softmax(scaled, dim=-1)


def sample_candidates(config: DecodingConfig, logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Sample a token id per position [S, B] from log-probabilities [S, B, V] and uniforms [S, B].

    Tokens of probability 0, such as banned ones, are never sampled.
    """
    if config.temperature == 0:
        return logprobs.argmax(-1)
    # In fp32 the rounding errors of a cumulative sum over 10^5 tokens exceed the probabilities of rare
    # ones.
    cdf = truncate(config, logprobs).exp().double().cumsum(-1)
    # Scaled by the total: after truncation, or by rounding, it is not exactly 1.
    target = uniforms[..., None] * cdf[..., -1:]
    # right=True skips entries equal to the target, i.e. tokens that add no probability.
    return torch.searchsorted(cdf, target, right=True)[..., 0]


def truncate(config: DecodingConfig, logprobs: Tensor) -> Tensor:
    """Apply top-k, then top-p [S, B, V]: removed tokens get -inf, the others are not renormalised.

    Top-p keeps a token if the probability of all more likely ones is at most top_p, so it keeps at
    least one. Probabilities are relative to the tokens that top-k kept.
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
