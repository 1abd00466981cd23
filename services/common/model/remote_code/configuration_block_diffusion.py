"""Configurations of block-diffusion language models, for transformers with trust_remote_code.

Each is the configuration of a decoder with two more fields: `block_size`, the tokens that are
denoised together, and `mask_token_id`, the token of a position that is not decoded yet.
"""

from transformers import (
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)


class SDARConfig(Qwen3Config):
    """Configuration of a dense SDAR model."""

    model_type = "sdar"
    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class SDARMoeConfig(Qwen3MoeConfig):
    """Configuration of a mixture-of-experts SDAR model."""

    model_type = "sdar_moe"
    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionQwen3Config(Qwen3Config):
    """Configuration of a converted Qwen3 model that keeps its model type."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionQwen3MoeConfig(Qwen3MoeConfig):
    """Configuration of a converted Qwen3-MoE model that keeps its model type."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionQwen2Config(Qwen2Config):
    """Configuration of a converted Qwen2 model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionLlamaConfig(LlamaConfig):
    """Configuration of a converted Llama model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionMistralConfig(MistralConfig):
    """Configuration of a converted Mistral model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionPhi3Config(Phi3Config):
    """Configuration of a converted Phi-3 or Phi-4 model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionOlmo2Config(Olmo2Config):
    """Configuration of a converted OLMo 2 model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None


class BlockDiffusionGraniteConfig(GraniteConfig):
    """Configuration of a converted Granite model."""

    block_size: int | None = None
    mask_token_id: int | None = None
    tokenizer_length: int | None = None
