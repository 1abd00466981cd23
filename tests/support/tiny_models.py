"""Small real models, and one whose logits a test writes down."""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from services.common.diffusion.config import DecodingConfig
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.common.trajectory import Response
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine

LAYER_GAIN = 10
"""Untrained layers add next to nothing; here what they attend to shall matter."""


@functools.cache
def tiny_model(*, block_size: int = 4, moe: bool = False, seed: int = 0) -> LoadedModel:
    """Two layers, grouped key-value heads, the character tokenizer; shared, so never to be altered."""
    with tempfile.TemporaryDirectory() as directory:
        make_tiny_model(
            directory, seed=seed, hidden_size=48, layers=2, heads=4, block_size=block_size, moe=moe
        )
        loaded = load_model(Path(directory), torch.float32, "cpu")
    for name, parameter in loaded.model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.data *= LAYER_GAIN
    return loaded


def decoding(**changes: Any) -> DecodingConfig:
    """Training rollouts of the tiny model, ending at the budget only, with changes."""
    settings: dict[str, Any] = {
        "block_size": 4,
        "denoising_steps": 4,
        "unmasking_strategy": "low_confidence_dynamic",
        "confidence_threshold": 0.1,
        "entropy_bound": 5.0,
        "selection": "max",
        "mask_token_id": tiny_model().mask_token_id,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_new_tokens": 16,
        "stop_token_ids": (),
        **changes,
    }
    return DecodingConfig(**settings)


def request(
    prompt: list[int] | np.ndarray,
    config: DecodingConfig,
    *,
    ledger: int = 0,
    index: int = 0,
    seed: int = 7,
) -> GenerationRequest:
    """A request named by its place."""
    return GenerationRequest(
        request_id=f"{ledger}-{index}",
        prompt_ids=np.asarray(prompt, dtype=np.int32),
        decoding=config,
        seed=seed,
        ledger_position=ledger,
        response_index=index,
    )


def decode(engine: TorchEngine, requests: list[GenerationRequest]) -> dict[str, Response]:
    """Everything decoded, by request id."""
    engine.submit(requests)
    finished: dict[str, Response] = {}
    while engine.has_work:
        finished |= engine.step()
    return finished


class ScriptedModel(nn.Module):
    """Gives each position one candidate with one probability, whatever stands around it."""

    def __init__(self, script: Mapping[int, tuple[int, float]], vocab_size: int) -> None:
        super().__init__()
        self.dtype_source = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(
            num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=1
        )
        self.table = torch.zeros(max(script) + 1, vocab_size)
        for position, (token, probability) in script.items():
            self.table[position] = (1 - probability) / (vocab_size - 2)
            self.table[position, token] = probability

    @property
    def base_model(self) -> "ScriptedModel":
        return self

    def get_output_embeddings(self) -> nn.Module:
        return nn.Identity()

    def forward(self, *, position_ids: Tensor, **_: Any) -> SimpleNamespace:
        known = position_ids.clamp(max=len(self.table) - 1)
        return SimpleNamespace(last_hidden_state=self.table[known].log())


def scripted_model(
    script: Mapping[int, tuple[int, float]], *, block_size: int, vocab_size: int = 64
) -> LoadedModel:
    """The last id is the mask."""
    sampleable = torch.ones(vocab_size, dtype=torch.bool)
    sampleable[-1] = False
    model: Any = ScriptedModel(script, vocab_size)
    tokenizer: Any = None
    return LoadedModel(model, tokenizer, block_size, vocab_size - 1, (), sampleable)
