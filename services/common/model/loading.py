"""Load and save model directories in the Hugging Face layout.

Missing weights are an error, never initialised at random.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from services.common.data.special_tokens import SpecialTokens
from services.common.diffusion.config import DecodingConfig
from services.common.errors import PlatformError
from services.common.model.attention import IMPLEMENTATION
from services.common.model.model_code import ModelCode, platform_code, read_published_code
from services.common.model.prompts import end_of_turn_ids
from services.common.model.sdar import FAMILIES
from services.common.model_card import read_config, read_model_card, require_plain_weights

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


_LENGTH_DEPENDENT_ROPE: Final = ("dynamic", "longrope")
_READ_ERRORS: Final = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
"""What reading a directory with broken files raises; the last one for values of wrong types."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A block-diffusion model with the metadata that decoding and training need."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    block_size: int
    mask_token_id: int
    stop_token_ids: tuple[int, ...]
    """End-of-sequence ids of both configs and end-of-turn id of the tokenizer, ascending."""
    sampleable: Tensor
    """bool [V] on the model's device (the CPU for a meta model): False for the mask id and for rows
    of the embedding beyond the tokenizer.
    """
    published_code: ModelCode | None = None
    """Modeling code that the directory came with; None where the platform's own is written."""

    @property
    def special_tokens(self) -> SpecialTokens:
        """Tokens that must not stand in a user's text."""
        texts = (
            token.content
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or number == self.mask_token_id
        )
        return SpecialTokens(frozenset(texts), self.mask_token_id, len(self.sampleable))


def load_model(
    path: Path | str, dtype: torch.dtype | str, device: torch.device | str
) -> LoadedModel:
    """Load a model directory; raises PlatformError("model_invalid")."""
    read_model_card(path)
    model = read_weights(path, to_dtype(dtype))
    return _assemble_from(path, model.to(device))  # type: ignore[arg-type]  # stubs know the device as a class only


def load_skeleton(
    path: Path | str, dtype: torch.dtype | str, device: torch.device | str
) -> LoadedModel:
    """Load config and tokenizer only; all weights are zero until they are pushed."""
    read_model_card(path)
    _check_family(path)
    with translating_errors(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_attention(path, config)
        model = blank_model(config, to_dtype(dtype), device)
        if (Path(path) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    # Uninitialised memory may hold NaN.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return _assemble_from(path, model)


def blank_model(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device | str
) -> PreTrainedModel:
    """Create a model with uninitialised weights."""
    with no_init_weights(), torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=IMPLEMENTATION
        )
    model.tie_weights()
    return model


def save_model(
    loaded: LoadedModel,
    path: Path | str,
    state: Mapping[str, Tensor] | None = None,
    decoding: DecodingConfig | None = None,
) -> None:
    """Write a complete model directory: configs, tokenizer, safetensors and modeling code.

    `state` replaces the weights, e.g. with those gathered from several ranks; its names are those
    of own_state. `decoding` becomes the default of `generate` in other programs.
    """
    model, directory = loaded.model, Path(path)
    # Without these two, the directory would be an ordinary decoder for other programs.
    model.config.block_size = loaded.block_size
    model.config.mask_token_id = loaded.mask_token_id
    model.config.tokenizer_length = len(loaded.tokenizer)
    _describe_generation(loaded, decoding)
    with _no_progress_bar():
        model.save_pretrained(directory, state_dict=None if state is None else dict(state))
    loaded.tokenizer.save_pretrained(directory)
    code = loaded.published_code or platform_code(model.config.model_type)
    for name, content in code.files.items():
        (directory / name).write_bytes(content)
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["auto_map"] = dict(code.auto_map)
    # transformers 5 renamed keys that other SDAR implementations still read.
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {k: value for k, value in rope.items() if k != "rope_theta"}
    if "num_local_experts" in config:
        config["num_experts"] = config["num_local_experts"]
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _describe_generation(loaded: LoadedModel, decoding: DecodingConfig | None) -> None:
    """Set the generation config: the ids that end a response, that of the chat template first, and
    the decoding that was used.
    """
    generation: Any = loaded.model.generation_config
    first = end_of_turn_ids(loaded.tokenizer)[0]
    generation.eos_token_id = [first, *(id_ for id_ in loaded.stop_token_ids if id_ != first)]
    if generation.pad_token_id is None:
        generation.pad_token_id = loaded.tokenizer.pad_token_id
    if decoding is None:
        return
    sampled = decoding.temperature > 0
    generation.update(
        do_sample=sampled,
        temperature=decoding.temperature if sampled else None,
        top_p=decoding.top_p if sampled else None,
        top_k=decoding.top_k if sampled else None,
        max_new_tokens=decoding.max_new_tokens,
    )
    generation.unmasking_strategy = decoding.unmasking_strategy.value
    generation.denoising_steps = decoding.denoising_steps
    generation.confidence_threshold = decoding.confidence_threshold
    generation.entropy_bound = decoding.entropy_bound
    generation.selection = decoding.selection.value


def to_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Convert the name of a dtype; a dtype is returned as it is."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise PlatformError(
            "invalid_request", f"Unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}."
        )
    return DTYPES[dtype]


def read_weights(path: Path | str, dtype: torch.dtype | str, **options: Any) -> PreTrainedModel:
    """Load the model of a directory on the CPU; raises PlatformError("model_invalid").

    Files with missing or unexpected weights are rejected. `options` are passed to from_pretrained;
    the dtype "auto" keeps that of the file.
    """
    _check_family(path)
    require_plain_weights(path, read_config(path))
    with translating_errors(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=IMPLEMENTATION,
            # Models come from users: no code is run and no pickle is read.
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel = loaded[0]
    _check_attention(path, model.config)
    check_report(path, loaded[1])
    _check_tied_head(path, model.config)
    return model


def read_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory; raises PlatformError("model_invalid")."""
    with translating_errors(path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def _assemble_from(path: Path | str, model: PreTrainedModel) -> LoadedModel:
    """Add the model card and the tokenizer."""
    card = read_model_card(path)
    assembled = assemble(model.eval(), read_tokenizer(path), card.block_size, card.mask_token_id)
    return replace(assembled, published_code=read_published_code(path, read_config(path)))


def assemble(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, block_size: int, mask_token_id: int
) -> LoadedModel:
    """Create a LoadedModel from its parts; raises PlatformError("model_invalid")."""
    head = model.get_output_embeddings().weight
    if len(tokenizer) > head.shape[0]:
        raise PlatformError(
            "model_invalid",
            f"The tokenizer has {len(tokenizer)} tokens, the model's embedding {head.shape[0]} rows: text may be "
            "encoded to ids that the model does not have.",
            hint="Use the tokenizer of the model, or resize its embedding (resize_token_embeddings).",
        )
    ids = torch.arange(head.shape[0], device="cpu" if head.is_meta else head.device)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        block_size=block_size,
        mask_token_id=mask_token_id,
        stop_token_ids=_stop_token_ids(model, tokenizer),
        # Published embeddings are padded beyond the vocabulary; such ids have no text.
        sampleable=(ids < len(tokenizer)) & (ids != mask_token_id),
    )


def _stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Collect the ids that end a response."""
    ids = set(end_of_turn_ids(tokenizer))
    for config in (model.config, model.generation_config):
        eos = getattr(config, "eos_token_id", None)
        ids.update([] if eos is None else [eos] if isinstance(eos, int) else eos)
    if not ids:
        raise PlatformError(
            "model_invalid",
            "The model has no end-of-sequence id, so no response would ever end.",
            hint="Set eos_token_id in generation_config.json.",
        )
    return tuple(sorted(ids))


def _check_family(path: Path | str) -> None:
    """Require an architecture whose forward was verified."""
    family = read_config(path).get("model_type")
    if family not in FAMILIES:
        raise PlatformError(
            "model_invalid",
            f"{path} is a model of type {family!r}; supported are the decoders {', '.join(FAMILIES)}.",
            hint="Other architectures are added in services/common/model/sdar.py, after verifying their forward.",
        )


def _check_attention(path: Path | str, config: PreTrainedConfig) -> None:
    """Reject what block-diffusion attention does not reproduce: sliding windows, dropout, and rotary
    frequencies that change with the length of the text.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
        raise PlatformError(
            "model_invalid",
            f"{path} has rotary embeddings of type {rope['rope_type']!r}, whose frequencies change with the length of "
            "the text: cached keys of a rollout would not be those of training.",
            hint="Use a checkpoint with constant frequencies (default, linear, llama3, yarn).",
        )
    window, dropout = (
        getattr(config, "sliding_window", None),
        getattr(config, "attention_dropout", 0.0),
    )
    if window is not None or dropout:
        raise PlatformError(
            "model_invalid",
            f"{path} has sliding window {window} and attention dropout {dropout}; block-diffusion attention sees all "
            "earlier blocks and drops nothing.",
            hint="Where the model was trained without a window (use_sliding_window), set sliding_window to null.",
        )


def _check_tied_head(path: Path | str, config: PreTrainedConfig) -> None:
    """Reject a head of its own where config.json ties it to the embedding: it would be ignored."""
    if not config.tie_word_embeddings:
        return
    places: dict[str, tuple[Path, str]] = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            places |= {name.rpartition("model.")[2]: (file, name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    # Read only where both exist: an embedding may have gigabytes.
    if not {"lm_head.weight", "embed_tokens.weight"} <= places.keys():
        return
    outer: list[Tensor] = []
    for file, name in (places["lm_head.weight"], places["embed_tokens.weight"]):
        with safe_open(file, framework="pt") as tensors:
            outer.append(tensors.get_tensor(name))
    if not torch.equal(*outer):
        raise PlatformError(
            "model_invalid",
            f"{path} has an lm_head.weight that differs from the embedding, but tie_word_embeddings is true.",
            hint="Set tie_word_embeddings to false in config.json, or remove lm_head.weight from the files.",
        )


def check_report(path: Path | str, report: Mapping[str, Any]) -> None:
    """Require that the weights on disk match the model; raises PlatformError("model_invalid")."""
    mismatches = {
        kind: report.get(kind)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    named = [
        f"{kind.replace('_', ' ')}: {sorted(map(str, found))[:5]}"
        for kind, found in mismatches.items()
        if found
    ]
    if named:
        raise PlatformError(
            "model_invalid",
            f"The weights in {path} do not fit its config.json: {'; '.join(named)}.",
            hint="The directory is incomplete or has another architecture; download or export it again.",
        )


@contextlib.contextmanager
def translating_errors(path: Path | str) -> Iterator[None]:
    """Convert errors of reading a directory to PlatformError("model_invalid")."""
    try:
        with _no_progress_bar():
            yield
    except _READ_ERRORS as error:
        raise PlatformError(
            "model_invalid",
            f"Cannot load the model directory {path}: {error}",
        ) from error


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Disable the progress bars of transformers, which would break the log on standard error."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
