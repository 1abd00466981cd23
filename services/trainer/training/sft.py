"""Supervised fine-tuning: encoding of examples, the noise, and the loss.

The loss is the masked-diffusion bound on the negative log-likelihood (LLaDA, arXiv 2502.09992):
mask each answer token with probability t, weigh its cross-entropy by 1/t. A draw that masks nothing
is kept: drawing again would make light noise rarer than its weight assumes, and bias the loss.

Legend: P prompt tokens, R answer tokens with padding (P + R is a whole number of blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.data.turns import continue_prompt
from services.common.errors import PlatformError
from services.common.job_spec import SftSpec
from services.common.model.loading import LoadedModel
from services.common.model.prompts import (
    encode_completion,
    encode_prompt,
    encode_text,
    render_prompt,
)
from services.common.trajectory import Int32s


@dataclass(frozen=True, kw_only=True)
class SftExample:
    """One encoded row of training data."""

    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R] answer, end of turn, and padding to the end of the block; all of them are learnt."""
    unmask_step: Int32s | None = None
    """[R] recorded step of each token's commitment, from 1; None where none was recorded."""
    weight: float = 1.0
    """Weight of the answer in the loss."""


@dataclass(frozen=True, kw_only=True)
class NoisyExample:
    """An example with one draw of noise."""

    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R]"""
    state: NDArray[np.integer]
    """[R] state of its block from which the token is learnt, by rank; 0 for a token that no state
    masks.
    """
    weight: NDArray[np.float64]
    """[R] 1/t, or 1 for a recorded order, times the weight of the example."""


def encode_example(
    loaded: LoadedModel, messages: list[dict[str, str]], completion: str, weight: float = 1.0
) -> SftExample:
    """Encode a conversation and its answer; the block after the end of the turn is filled with the
    pad token.

    The padding carries labels, as in SDAR's own training (`<|im_end|>` is followed by `<|endoftext|>` to the block's
    end), so that the model learns what a finished block looks like. Raises PlatformError("model_invalid").
    """
    text = render_prompt(loaded.tokenizer, messages)
    prompt_ids = encode_text(loaded.tokenizer, text)
    answer_ids = encode_completion(loaded.tokenizer, continue_prompt(text, completion))
    # The grid starts at the prompt's first token, as in decoding, not at the answer.
    padding = -(len(prompt_ids) + len(answer_ids)) % loaded.block_size
    return SftExample(
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        token_ids=np.array(answer_ids + [_pad_token_id(loaded)] * padding, dtype=np.int32),
        weight=weight,
    )


def encode_trace(
    loaded: LoadedModel,
    messages: list[dict[str, str]],
    token_ids: Sequence[int],
    unmask_step: Sequence[int],
) -> SftExample:
    """A conversation with the response that a rollout decoded and the step at which it committed
    each token.

    Raises PlatformError("dataset_invalid") unless they are a whole trajectory of this model.
    """
    prompt_ids = np.array(encode_prompt(loaded.tokenizer, messages), dtype=np.int32)
    tokens, steps = (np.array(values, dtype=np.int32) for values in (token_ids, unmask_step))
    total = len(prompt_ids) + len(tokens)
    is_whole = len(tokens) == len(steps) > 0 and total % loaded.block_size == 0 and steps.min() >= 1
    is_known = is_whole and tokens.min() >= 0 and tokens.max() < len(loaded.sampleable)
    if not is_known or not all(loaded.sampleable[tokens.tolist()]):
        raise PlatformError(
            "dataset_invalid",
            f"Cannot follow a recorded order: {len(prompt_ids)} prompt tokens, {len(tokens)} token_ids and "
            f"{len(steps)} unmask_steps. Prompt and response fill blocks of {loaded.block_size}, each token has a "
            "step from 1, and every token is one that the model may sample.",
            hint="Record trajectories with the same model, block length, prompt template and chat template.",
        )
    return SftExample(prompt_ids=prompt_ids, token_ids=tokens, unmask_step=steps)


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


def make_noise_generator(seed: int, step: int) -> np.random.Generator:
    """The randomness of one optimizer step: a function of seed and step alone, so that resuming
    repeats nothing.
    """
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def add_noise(
    examples: Sequence[SftExample], config: SftSpec, block_size: int, generator: np.random.Generator
) -> list[NoisyExample]:
    """Draw t ~ U(min_noise, 1) per document or per block, then mask each answer token with
    probability t.

    `trace` draws nothing: the states are those of the recorded order, and each token is learnt from
    the state in which it was committed. The loss is then the negative log-likelihood of the
    recorded trajectory per token.
    """
    if config.noise == "trace":
        return [_follow_recorded_order(example) for example in examples]
    return [_mask_at_random(example, config, block_size, generator) for example in examples]


def _follow_recorded_order(example: SftExample) -> NoisyExample:
    assert example.unmask_step is not None  # encode_trace gave it
    return NoisyExample(
        prompt_ids=example.prompt_ids,
        token_ids=example.token_ids,
        state=example.unmask_step,
        # Every token is learnt exactly once, from one state: nothing to correct for.
        weight=np.full(len(example.token_ids), example.weight),
    )


def _mask_at_random(
    example: SftExample, config: SftSpec, block_size: int, generator: np.random.Generator
) -> NoisyExample:
    start, length = len(example.prompt_ids), len(example.token_ids)
    # One rate per document (as DiRL's own SFT, arXiv 2512.22234) or per block, numbered from the
    # prompt's first token.
    unit = (
        np.arange(start, start + length) // block_size
        if config.noise == "block"
        else np.zeros(length, int)
    )
    rate = generator.uniform(config.min_noise, 1.0, size=unit[-1] + 1)[unit]
    return NoisyExample(
        prompt_ids=example.prompt_ids,
        token_ids=example.token_ids,
        state=(generator.random(length) < rate).astype(np.int32),
        # 1/t makes the expectation over draws the bound on the likelihood; rate >= min_noise bounds it.
        weight=example.weight / rate,
    )


def denoising_loss(
    logprobs: torch.Tensor, weight: torch.Tensor, num_answer_tokens: int
) -> torch.Tensor:
    """−Σ weight · log-prob ÷ num_answer_tokens, over N masked tokens.

    logprobs [N] of the true tokens; weight [N] 1/t; num_answer_tokens those of the whole batch,
    masked or not, over all micro-batches and ranks, so that neither packing nor the luck of the
    draw changes what a token weighs.
    """
    return -(logprobs * weight.to(logprobs)).sum() / num_answer_tokens
