"""A tiny configuration of each family, with the ids of the character tokenizer."""

import math
from typing import Any

from transformers import (
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from services.common.model.remote_code.configuration_block_diffusion import (
    SDARConfig,
    SDARMoeConfig,
)
from services.common.model.tiny import character_tokenizer

TOKENIZER = character_tokenizer()
ROWS = math.ceil(len(TOKENIZER) / 8) * 8
SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.3,
    "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": None,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
FAMILY_CONFIGS: dict[str, PreTrainedConfig] = {
    "sdar": SDARConfig(**SHAPE),
    "sdar_moe": SDARMoeConfig(**SHAPE, **EXPERTS),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "qwen3_moe": Qwen3MoeConfig(**SHAPE, **EXPERTS),
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**{**SHAPE, "sliding_window": None}),
    "phi3": Phi3Config(**{**SHAPE, "sliding_window": None}),
    "olmo2": Olmo2Config(**SHAPE),
    "granite": GraniteConfig(
        **SHAPE,
        embedding_multiplier=3.0,
        attention_multiplier=0.4,
        residual_multiplier=0.5,
        logits_scaling=4.0,
    ),
}
