"""Tiny models with random weights: a complete SDAR directory that can be trained on a CPU."""

import math
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from services.common.model.attention import IMPLEMENTATION
from services.common.model.loading import assemble, save_model
from services.common.model.remote_code.configuration_block_diffusion import (
    SDARConfig,
    SDARMoeConfig,
)

MAX_POSITIONS: Final = 2048
MASK_TOKEN: Final = "<|MASK|>"
UNKNOWN_TOKEN: Final = "\N{REPLACEMENT CHARACTER}"
SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", MASK_TOKEN)
WORDS: Final = ("user", "assistant", "system", "\\boxed{")
"""Strings of every conversation; encoding each as one token keeps rows short."""
CHARACTERS: Final = ("\n", *(chr(code) for code in range(32, 127)))
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(
    path: Path | str,
    *,
    seed: int,
    hidden_size: int = 96,
    layers: int = 4,
    heads: int = 4,
    block_size: int = 4,
    moe: bool = False,
) -> None:
    """Write a model directory with a character-level tokenizer and a ChatML template.

    The defaults give about 0.36 million parameters. Equal arguments give equal bytes of weights.
    `moe` replaces the feed-forward layers by mixtures of four experts.
    """
    tokenizer = character_tokenizer()
    config = _make_config(tokenizer, hidden_size, layers, heads, block_size, moe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION)
        _initialise(model)
    end_of_turn, end_of_text = (
        tokenizer.get_vocab()[token] for token in ("<|im_end|>", "<|endoftext|>")
    )
    model.generation_config = GenerationConfig(
        eos_token_id=[end_of_turn, end_of_text], pad_token_id=end_of_text
    )
    save_model(assemble(model, tokenizer, block_size, config.mask_token_id), path)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Create a tokenizer with a token per printable ASCII character, newline and word of WORDS."""
    symbols = [*CHARACTERS, UNKNOWN_TOKEN, *WORDS, *SPECIAL_TOKENS]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN_TOKEN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens(list(WORDS))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN_TOKEN,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token=MASK_TOKEN,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _make_config(
    tokenizer: PreTrainedTokenizerFast,
    hidden_size: int,
    layers: int,
    heads: int,
    block_size: int,
    moe: bool,
) -> PreTrainedConfig:
    """Create a config with the proportions of Qwen3; pairs of query heads share a key-value head."""
    common: dict[str, Any] = {
        # Padded like the embeddings of published models, with ids that no token has.
        "vocab_size": math.ceil(len(tokenizer) / 8) * 8,
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 13 // 6,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else heads,
        "head_dim": hidden_size // heads,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": True,
        "use_cache": False,
        "block_size": block_size,
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if not moe:
        return SDARConfig(**common)
    experts: dict[str, Any] = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": hidden_size,
    }
    return SDARMoeConfig(**common, **experts, norm_topk_prob=True)


def _initialise(model: PreTrainedModel) -> None:
    """Initialise with variance 1 / fan-in; residual outputs are scaled by 1 / sqrt(2 layers), as in
    GPT-2.
    """
    residual_scale = 1 / math.sqrt(2 * model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            scale = residual_scale if "o_proj" in name or "down_proj" in name else 1.0
            nn.init.normal_(parameter, std=scale / math.sqrt(parameter.shape[-1]))
