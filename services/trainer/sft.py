"""Supervised fine-tuning: encoding of examples, the noise, and the loss.

The loss is the masked-diffusion bound on the negative log-likelihood (LLaDA, arXiv 2502.09992): mask each answer token
with probability t, weigh its cross-entropy by 1/t. A draw that masks nothing is kept: drawing again would make light
noise rarer than its weight assumes, and bias the loss.

Legend: P prompt tokens, R answer tokens with padding (P + R is a whole number of blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.errors import PlatformError
from services.common.job_spec import SftSpec
from services.common.model.loading import LoadedModel
from services.common.model.prompts import encode_completion, encode_prompt
from services.common.trajectory import Int32s


@dataclass(frozen=True, kw_only=True)
class SftExample:
    """One encoded row of training data."""

    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R] answer, end of turn, and padding to the end of the block; all of them are learnt."""


@dataclass(frozen=True, kw_only=True)
class NoisyExample:
    """An example with one draw of noise."""

    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R]"""
    masked: NDArray[np.bool_]
    """[R]"""
    weight: NDArray[np.float64]
    """[R] 1/t."""


def encode_example(loaded: LoadedModel, messages: list[dict[str, str]], completion: str) -> SftExample:
    """Encode a conversation and its answer; the block after the end of the turn is filled with the pad token.

    The padding carries labels, as in SDAR's own training (`<|im_end|>` is followed by `<|endoftext|>` to the block's
    end), so that the model learns what a finished block looks like. Raises PlatformError("model_invalid").
    """
    prompt_ids = encode_prompt(loaded.tokenizer, messages)
    answer_ids = encode_completion(loaded.tokenizer, completion)
    padding = -(len(prompt_ids) + len(answer_ids)) % loaded.block_size
    return SftExample(
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        token_ids=np.array(answer_ids + [_pad_token_id(loaded)] * padding, dtype=np.int32),
    )


def _pad_token_id(loaded: LoadedModel) -> int:
    pad = loaded.tokenizer.pad_token_id
    if pad is None or pad == loaded.mask_token_id:
        raise PlatformError(
            "model_invalid",
            f"Cannot fill the last block of an example: the tokenizer's pad token id is {pad}; a block is filled with a"
            " pad token that is not the mask token.",
            hint="Set `pad_token` in the model's tokenizer_config.json, as a rule to its end-of-text token.",
        )
    return int(pad)


def noise_generator(seed: int, step: int) -> np.random.Generator:
    """The randomness of one optimizer step: a function of seed and step alone, so that resuming repeats nothing."""
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def add_noise(
    examples: Sequence[SftExample], config: SftSpec, block_size: int, generator: np.random.Generator
) -> list[NoisyExample]:
    """Draw t ~ U(min_noise, 1) per document or per block, then mask each answer token with probability t."""
    return [_add_noise(example, config, block_size, generator) for example in examples]


def _add_noise(example: SftExample, config: SftSpec, block_size: int, generator: np.random.Generator) -> NoisyExample:
    start, length = len(example.prompt_ids), len(example.token_ids)
    unit = np.arange(start, start + length) // block_size if config.noise == "block" else np.zeros(length, int)
    rate = generator.uniform(config.min_noise, 1.0, size=unit[-1] + 1)[unit]
    return NoisyExample(
        prompt_ids=example.prompt_ids,
        token_ids=example.token_ids,
        masked=generator.random(length) < rate,
        weight=1.0 / rate,
    )


def denoising_loss(logprobs: torch.Tensor, weight: torch.Tensor, num_answer_tokens: int) -> torch.Tensor:
    """−Σ weight · log-prob ÷ num_answer_tokens, over N masked tokens.

    logprobs [N] of the true tokens; weight [N] 1/t; num_answer_tokens those of the whole batch, masked or not, over all
    micro-batches and ranks, so that neither packing nor the luck of the draw changes what a token weighs.
    """
    return -(logprobs * weight.to(logprobs)).sum() / num_answer_tokens
