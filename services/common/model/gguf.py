"""Read GGUF files (llama.cpp), which hold a decoder and its tokenizer.

Transformers dequantises the weights and rebuilds config and tokenizer. This module rejects
everything that transformers would drop silently, and sets pre-tokenizers that it does not know.
"""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from services.common.errors import PlatformError
from services.common.model.loading import blank_model, check_report, translating_errors
from services.common.model.sdar import block_diffusion_config

PACKAGES: Final = ("gguf", "accelerate")
"""Packages that transformers needs to read the format."""

_ATTENTION: Final = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
_DENSE: Final = (*_ATTENTION, "ffn_gate", "ffn_up", "ffn_down")
_MIXTURE: Final = (*_ATTENTION, "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_NORMS: Final = ("attn_q_norm", "attn_k_norm")
_BIASES: Final = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
LAYER_TENSORS: Final[Mapping[str, frozenset[str]]] = {
    "llama": frozenset(f"{name}.weight" for name in _DENSE),
    "qwen2": frozenset(f"{name}.weight" for name in _DENSE) | frozenset(_BIASES),
    "qwen3": frozenset(f"{name}.weight" for name in (*_DENSE, *_NORMS)),
    "qwen3moe": frozenset(f"{name}.weight" for name in (*_MIXTURE, *_NORMS)),
}
"""Tensors of a layer by architecture (Mistral files use llama). Transformers ignores any other one."""
_OUTER_TENSORS: Final = frozenset({"token_embd.weight", "output.weight", "output_norm.weight"})
_LAYER: Final = re.compile(r"blk\.\d+\.")

_NUM_TOKENS: Final = "tokenizer.ggml.num_tokens"
_PRE_TOKENIZERS: Final = frozenset(
    {"gpt-2", "llama-bpe", "llama3", "llama-v3", "qwen2", "tekken", "deepseek-r1-qwen"}
)
"""`tokenizer.ggml.pre` of byte-level vocabularies that transformers reproduces."""
_SINGLE_DIGITS: Final = frozenset({"smollm"})
"""Pre-tokenizers that split digits, which transformers does not know."""


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in fp32 and tokenizer of a file; raises PlatformError("model_invalid"),
    `preflight_failed` without gguf.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise PlatformError(
            "preflight_failed",
            f"Cannot read {file}: the GGUF format needs the packages {' and '.join(missing)}.",
            hint="pip install 'dirl-platform[gguf]'",
        )
    with translating_errors(file):
        fields, tensors = _read_metadata(file)
        _require_lossless(file, fields, tensors)
        return _load_model(file), _load_tokenizer(file, fields)


def _read_metadata(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return scalar fields by key, with the number of tokens, and the names of the tensors."""
    from gguf import GGUFReader, GGUFValueType  # noqa: PLC0415 - an extra; its absence is reported above

    reader = GGUFReader(file)
    plain = {
        key: field
        for key, field in reader.fields.items()
        if field.types[:1] != [GGUFValueType.ARRAY]
    }
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    fields = {key: field.contents() for key, field in plain.items()}
    return {**fields, _NUM_TOKENS: len(tokens.data) if tokens else 0}, [
        tensor.name for tensor in reader.tensors
    ]


def _require_lossless(file: Path, fields: Mapping[str, Any], tensors: list[str]) -> None:
    """Reject a file with content that would be missing from the model or its tokenizer."""
    if fields.get("split.count", 1) > 1:
        count = fields["split.count"]
        raise _invalid_file(
            file, f"is one of {count} parts", "join them with llama-gguf-split --merge"
        )
    architecture = str(fields.get("general.architecture"))
    if architecture not in LAYER_TENSORS:
        raise _invalid_file(
            file,
            f"is of architecture {architecture!r}",
            f"supported are {', '.join(LAYER_TENSORS)}",
        )
    known = LAYER_TENSORS[architecture]
    lost = [
        name for name in tensors if name not in _OUTER_TENSORS and _LAYER.sub("", name) not in known
    ]
    if lost:
        raise _invalid_file(
            file, f"has tensors {', '.join(lost[:3])}", f"which {architecture} does not have"
        )
    window = fields.get(f"{architecture}.attention.sliding_window")
    if window:
        raise _invalid_file(
            file,
            f"has a sliding window of {window}",
            "block-diffusion attention sees all earlier blocks",
        )
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise _invalid_file(
            file, f"scales its rotary positions ({scaling})", "which transformers does not import"
        )
    _require_known_tokenizer(file, fields)


def _require_known_tokenizer(file: Path, fields: Mapping[str, Any]) -> None:
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS | _SINGLE_DIGITS:
        known = ", ".join(sorted(_PRE_TOKENIZERS | _SINGLE_DIGITS))
        raise _invalid_file(
            file,
            f"has a tokenizer of kind {kind!r} with pre-tokenizer {pre!r}",
            f"supported are byte-level tokenizers ('gpt2') with one of {known}",
        )


def _invalid_file(file: Path, fault: str, rule: str) -> PlatformError:
    return PlatformError(
        "model_invalid",
        f"Cannot convert {file}: it {fault}; {rule}.",
        hint="Convert the original Hugging Face directory instead.",
    )


def _load_model(file: Path) -> PreTrainedModel:
    """Load the model without its quantisation config, so that it can be saved."""
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    config: PreTrainedConfig = AutoConfig.from_pretrained(file.parent, **place)
    plain = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, config=config, dtype=torch.float32, output_loading_info=True, **place
    )
    check_report(file, loaded[1])
    model = blank_model(
        block_diffusion_config(plain) or type(config).from_dict(plain), torch.float32, "cpu"
    )
    # assign: the loaded tensors are used as they are, without a second copy of the weights.
    model.load_state_dict(loaded[0].state_dict(), assign=True)
    model.tie_weights()
    return model


def _load_tokenizer(file: Path, fields: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load the tokenizer without the special tokens of GPT-2, which transformers adds by default."""
    built: Any = PreTrainedTokenizerFast.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    state = json.loads(built.backend_tokenizer.to_str())
    own = [token for token in state["added_tokens"] if token["id"] < fields[_NUM_TOKENS]]
    backend = Tokenizer.from_str(json.dumps({**state, "added_tokens": own}))
    if fields["tokenizer.ggml.pre"] in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    known = {token["content"] for token in own}
    special = {name: token for name, token in built.special_tokens_map.items() if token in known}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=built.chat_template,
        clean_up_tokenization_spaces=False,
        **special,
    )
