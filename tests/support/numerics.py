"""Small double-precision models and random trajectories for the tests of the trainer's arithmetic."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from services.common.model.attention import IMPLEMENTATION
from services.common.model.forward import attended_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.common.model.remote_code.configuration_block_diffusion import SDARConfig
from services.common.model.sdar import SDARForCausalLM
from services.common.model.tiny import character_tokenizer
from services.common.trajectory import NO_CANDIDATES, Candidates, FinishReason, Response
from services.trainer.training.policy import score_row
from services.trainer.training.trajectory_rows import PackedRow, Sample, rl_rows


def tiny_loaded(
    *, vocab_size: int, block_size: int, seed: int = 0, hidden_size: int = 16, layers: int = 2
) -> LoadedModel:
    """A model in fp64 whose last id is the mask; its weights are large enough for uneven
    probabilities.
    """
    generator = torch.Generator().manual_seed(seed)
    config = SDARConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
        attn_implementation=IMPLEMENTATION,
    )
    model = SDARForCausalLM(config).to(torch.float64)
    for module in model.modules():
        if isinstance(module, Qwen3RMSNorm):
            module.forward = functools.partial(_rms_norm, module)  # type: ignore[method-assign]
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    sampleable = torch.ones(vocab_size, dtype=torch.bool)
    sampleable[-1] = False
    return LoadedModel(
        model=model,
        tokenizer=character_tokenizer(),
        block_size=block_size,
        mask_token_id=vocab_size - 1,
        stop_token_ids=(0,),
        sampleable=sampleable,
    )


def _rms_norm(module: nn.Module, hidden: Tensor) -> Tensor:
    """The layer's own arithmetic, which transformers does in fp32 whatever the model's dtype."""
    return nn.functional.rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)  # type: ignore[arg-type]


def response_of(
    token_ids: NDArray[np.int32],
    unmask_step: NDArray[np.int32],
    logprobs: NDArray[np.floating],
    rejected: Candidates = NO_CANDIDATES,
) -> Response:
    """A response of which only what training reads is given; log-probs may be double."""
    return Response(
        token_ids=token_ids,
        unmask_step=unmask_step,
        logprobs=logprobs,  # type: ignore[arg-type]
        confidences=np.ones(len(token_ids), np.float32),
        visible_len=len(token_ids),
        finish_reason=FinishReason.LENGTH,
        num_forwards=0,
        rejected=rejected,
    )


def with_response(sample: Sample, **changes: Any) -> Sample:
    """The sample with fields of its response replaced."""
    return replace(sample, response=replace(sample.response, **changes))


def random_sample(
    rng: np.random.Generator, *, prompt_len: int, num_blocks: int, loaded: LoadedModel
) -> Sample:
    """A trajectory over `num_blocks` blocks in all, with random tokens, steps, record and
    advantage.
    """
    total = num_blocks * loaded.block_size
    block = np.arange(prompt_len, total) // loaded.block_size
    steps = block * loaded.block_size + rng.integers(
        1, loaded.block_size + 1, size=total - prompt_len
    )
    return Sample(
        trajectory_id=f"traj_{rng.integers(10**6)}",
        prompt_ids=rng.integers(loaded.mask_token_id, size=prompt_len).astype(np.int32),
        response=response_of(
            rng.integers(loaded.mask_token_id, size=total - prompt_len).astype(np.int32),
            steps.astype(np.int32),
            rng.normal(-2, 0.5, size=total - prompt_len),
        ),
        advantage=float(rng.normal()),
    )


def random_samples(loaded: LoadedModel, count: int, seed: int = 0) -> list[Sample]:
    """Trajectories of two to five blocks, prompts aligned and not."""
    rng = np.random.default_rng(seed)
    sizes = [int(rng.integers(2, 6)) for _ in range(count)]
    return [
        random_sample(
            rng,
            prompt_len=int(rng.integers(1, size * loaded.block_size)),
            num_blocks=size,
            loaded=loaded,
        )
        for size in sizes
    ]


def gradient(loaded: LoadedModel, loss: Tensor) -> Tensor:
    """Gradient of a loss with respect to all parameters, as one vector."""
    parameters = list(loaded.model.parameters())
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if part is None else part).flatten()
            for p, part in zip(parameters, parts, strict=True)
        ]
    )


def masked_attention(mask: Tensor) -> Callable[..., Tensor]:
    """Plain softmax attention under a dense bool mask [T, T]: the slow, obvious one."""

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(repeat, dim=1).transpose(-1, -2) * scaling
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value.repeat_interleave(
            repeat, dim=1
        )

    return attend


def state_logprobs(loaded: LoadedModel, visible_ids: list[int]) -> Tensor:
    """Log-probs [B, V] of the last block of a sequence that ends in a partly masked block: decoding
    without a cache.
    """
    total = len(visible_ids)
    block = torch.arange(total) // loaded.block_size
    attend = masked_attention(block[:, None] >= block[None, :])
    hidden = attended_states(
        loaded.model, torch.tensor([visible_ids]), torch.arange(total)[None], attend
    )[0]
    return token_logprobs(loaded, hidden[-loaded.block_size :], 1.0)


def row_of(loaded: LoadedModel) -> PackedRow:
    """One row of three random samples."""
    (row,) = rl_rows(
        random_samples(loaded, 3),
        block_size=4,
        mask_token_id=loaded.mask_token_id,
        max_tokens=10**6,
    )
    return row


def scores(loaded: LoadedModel) -> torch.Tensor:
    """Log-probs of that row's terms."""
    return score_row(loaded, row_of(loaded), 1.0)[0].detach()
