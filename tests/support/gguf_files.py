"""Small GGUF files with everything that a real one has: a decoder, its tokenizer, its chat
template.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from services.common.model.tiny import CHATML

HEADS: Final = 4
MERGES: Final = [("1", "2"), ("Ċ", "Ċ"), ("a", "b"), ("Ġ", "a")]
SPECIAL: Final = ("<|im_start|>", "<|im_end|>")
LEAVES: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def vocabulary() -> list[str]:
    """Bytes, merged pairs, special tokens."""
    return [*bytes_to_unicode().values(), *("".join(pair) for pair in MERGES), *SPECIAL]


def reference_tokenizer() -> Tokenizer:
    """The vocabulary with single digits, put together by hand."""
    ids = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def llama() -> LlamaForCausalLM:
    """A decoder of one layer with tied embeddings; widths are multiples of the quantisation's 32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def write_gguf(
    file: Path, model: LlamaForCausalLM, *, quantised: bool = False, **fields: Any
) -> Path:
    """The model as llama.cpp's converter writes it; `fields` replaces or adds metadata (a dot is
    spelt `__`).
    """
    config = model.config
    writer = GGUFWriter(file, fields.pop("architecture", "llama"))
    values: dict[str, Any] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 256,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "tokenizer.ggml.eos_token_id": len(vocabulary()) - 1,
        **{
            name.replace("__", "."): value
            for name, value in fields.items()
            if isinstance(value, int)
        },
    }
    texts = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.chat_template": CHATML,
        **{
            name.replace("__", "."): value
            for name, value in fields.items()
            if isinstance(value, str)
        },
    }
    for name, value in values.items():
        writer.add_uint32(name, value)
    for name, text in texts.items():
        writer.add_string(name, text)
    writer.add_float32("llama.rope.freq_base", 5000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_token_list(vocabulary())
    writer.add_token_types([1] * (len(vocabulary()) - len(SPECIAL)) + [3] * len(SPECIAL))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    for name, tensor in gguf_tensors(model).items():
        _add(writer, name, tensor, quantised and tensor.ndim == 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, NDArray[np.float32]]:
    """Weights under llama.cpp's names; rotary halves are interleaved there."""
    tensors = {
        "token_embd.weight": model.model.embed_tokens.weight,
        "output_norm.weight": model.model.norm.weight,
    }
    for number, layer in enumerate(model.model.layers):
        for name, leaf in LEAVES.items():
            tensors[f"blk.{number}.{leaf}.weight"] = layer.get_submodule(name).get_parameter(
                "weight"
            )
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return {name: _interleaved(name, array) for name, array in arrays.items()}


def dequantised(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of a matrix after eight bits."""
    kind = GGMLQuantizationType.Q8_0
    return quants.dequantize(quants.quantize(array, kind), kind)


def _interleaved(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    heads = {"attn_q": HEADS, "attn_k": HEADS // 2}.get(name.split(".")[-2])
    if heads is None:
        return array
    return np.ascontiguousarray(
        array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    )


def _add(writer: GGUFWriter, name: str, array: NDArray[np.float32], quantised: bool) -> None:
    if not quantised:
        writer.add_tensor(name, array)
        return
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
