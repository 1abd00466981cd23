"""Directories like the published checkpoints of the SDAR family: their files and keys, with small
matrices.

Sources: config.json in the repository of DiRL (which adds block_size and mask_token_id to SDAR's),
the SDAR repository, and Qwen3-30B-A3B's configuration for what is a mixture.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from services.common.model.tiny import CHATML

SHARDS = 4
DENSE = {
    "architectures": ["SDARForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "attention_bias": False, "attention_dropout": 0.0, "attn_implementation": "flex_attention",
    "bos_token_id": 151643, "debug": False, "eos_token_id": 151643, "ep_size": 1, "fuse_cross_entropy": True,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
    "max_position_embeddings": 32768, "max_window_layers": 36, "micro_forward": False, "model_type": "sdar",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "skip_checkpoint": False, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.4", "use_cache": False,
    "use_deepep": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MIXTURE = {
    **DENSE,
    "architectures": ["SDARMoeForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sdar_moe.SDARMoeConfig",
        "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM",
    },
    "model_type": "sdar_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 32,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "max_window_layers": 48, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128,
    "num_experts_per_tok": 8, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
CHECKPOINTS: dict[str, tuple[dict[str, Any], str]] = {
    "SDAR-8B-Chat": (DENSE, "<|MASK|>"),
    "TraDo-8B-Instruct": (DENSE, "<|MASK|>"),
    "DiRL-8B-Instruct": ({**DENSE, "block_size": 4, "mask_token_id": 151669}, "<|MASK|>"),
    "SDAR-4B-Chat": ({**DENSE, "hidden_size": 2560, "intermediate_size": 9728}, "<MASK>"),
    "SDAR-30B-A3B-Chat": (MIXTURE, "<|MASK|>"),
}
"""config.json and the spelling of the mask token, by name."""
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 8, "num_experts": 4,
         "num_experts_per_tok": 2}  # fmt: skip
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip
"""Ids 151643 to 151668; the mask follows."""


def write_checkpoint(name: str, path: Path) -> dict[str, Tensor]:
    """A small directory of this name; returns its weights, bf16 and random."""
    path.mkdir(parents=True)
    written, mask = CHECKPOINTS[name]
    config = written | {key: value for key, value in SMALL.items() if key in written}
    (path / "config.json").write_text(json.dumps(config, indent=2))
    (path / "generation_config.json").write_text(json.dumps(GENERATION))
    for module in {value.split(".")[0] for value in config["auto_map"].values()}:
        (path / f"{module}.py").write_text("raise RuntimeError('code of a checkpoint was run')\n")
    _write_tokenizer(path, mask)
    weights = _weights(config)
    _write_shards(path, weights)
    return weights


GENERATION = {
    "bos_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
    "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.52.4",
}  # fmt: skip


def _write_tokenizer(path: Path, mask: str) -> None:
    """Qwen2's files: byte-level vocabulary of 151643, no merge that matters, special tokens behind."""
    bytes_ = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]
    vocabulary = [chr(code) for code in bytes_] + [
        f"filler{number}" for number in range(151643 - len(bytes_))
    ]
    (path / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(vocabulary)})
    )
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {151643 + place: token for place, token in enumerate((*SPECIAL, mask))}
    (path / "added_tokens.json").write_text(
        json.dumps({token: number for number, token in added.items()})
    )
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    common = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": mask}
    (path / "special_tokens_map.json").write_text(json.dumps(common))
    tokenizer = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {"content": token, "special": token.startswith("<|") or token == mask, **plain}
            for number, token in added.items()
        },
        "additional_special_tokens": list(SPECIAL[1:14]),
        "bos_token": None, "chat_template": CHATML, "clean_up_tokenization_spaces": False, "errors": "replace",
        "model_max_length": 131072, "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None, **common,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def _weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Every matrix under its published name."""
    hidden, vocab, heads, kv, width = (
        config[key]
        for key in (
            "hidden_size",
            "vocab_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
        )
    )
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            **_feed_forward(config, f"{prefix}mlp."),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}self_attn.k_norm.weight": (width,),
            f"{prefix}self_attn.k_proj.weight": (kv * width, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, heads * width),
            f"{prefix}self_attn.q_norm.weight": (width,),
            f"{prefix}self_attn.q_proj.weight": (heads * width, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv * width, hidden),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()
    }


def _feed_forward(config: dict[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    hidden = config["hidden_size"]
    if "num_experts" not in config:
        return _expert(prefix, config["intermediate_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}gate.weight": (config["num_experts"], hidden)}
    for expert in range(config["num_experts"]):
        shapes |= _expert(f"{prefix}experts.{expert}.", config["moe_intermediate_size"], hidden)
    return shapes


def _expert(prefix: str, inner: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}down_proj.weight": (hidden, inner),
        f"{prefix}gate_proj.weight": (inner, hidden),
        f"{prefix}up_proj.weight": (inner, hidden),
    }


def _write_shards(path: Path, weights: dict[str, Tensor]) -> None:
    names, map_ = list(weights), {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        held = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        save_file({name: weights[name] for name in held}, path / file, metadata={"format": "pt"})
        map_ |= dict.fromkeys(held, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": map_}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
