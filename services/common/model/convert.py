"""Convert a decoder to a block-diffusion model by adding a mask token and a block length."""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.common.errors import PlatformError
from services.common.model.gguf import read_gguf
from services.common.model.loading import (
    assemble,
    read_tokenizer,
    read_weights,
    save_model,
    translating_errors,
)
from services.common.model.sdar import block_diffusion_config
from services.common.model.tiny import MASK_TOKEN
from services.common.model_card import read_config

EMBEDDING_ROWS_MULTIPLE: Final = 64
"""Embeddings are resized to a multiple of this, because odd sizes are slow on a GPU and cannot be
sharded.
"""


def convert_model(source: Path | str, out: Path | str, block_size: int) -> None:
    """Write `source` to `out` with a mask token and a block length; raises
    PlatformError("model_invalid").

    `source` is a Hugging Face directory, a GGUF file, or a directory with one GGUF file. Weights are
    kept bit for bit in their dtype (quantised ones as fp32). An existing mask token is used. A new
    one takes the first unused row of the embedding, which is resized if there is none; the row is
    initialised to the mean of all tokens.
    """
    if block_size < 1:
        raise PlatformError(
            "invalid_request",
            f"Cannot convert to a block length of {block_size}; it must be at least 1.",
        )
    directory = Path(source)
    file = _gguf_file(directory)
    if file is not None:
        model, tokenizer = read_gguf(file)
    else:
        with translating_errors(directory):
            config = block_diffusion_config(read_config(directory))
        model = read_weights(directory, "auto", config=config).eval()
        tokenizer = read_tokenizer(directory)
    mask_token_id = _ensure_mask_token(model, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # pads the last block of a response
    save_model(assemble(model, tokenizer, block_size, mask_token_id), out)


def _gguf_file(source: Path) -> Path | None:
    """Return the GGUF file to read, or None for a Hugging Face directory."""
    if source.suffix == ".gguf":
        return source
    if (source / "config.json").is_file():
        return None
    files = sorted(source.glob("*.gguf"))
    if len(files) > 1:
        raise PlatformError(
            "model_invalid",
            f"{source} has {len(files)} GGUF files: {', '.join(file.name for file in files[:5])}.",
            hint="Give the path of one file.",
        )
    return files[0] if files else None


def _ensure_mask_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the mask token; adds one if the tokenizer has none."""
    known = len(tokenizer)
    stated = getattr(model.config, "mask_token_id", None)
    if tokenizer.mask_token_id is None and stated is not None and stated < known:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(stated)
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    mask = int(tokenizer.mask_token_id)
    _require_unambiguous_mask(tokenizer, mask, stated)
    if mask >= known:
        _initialise_at_mean(model, known, mask)
    return mask


def _require_unambiguous_mask(
    tokenizer: PreTrainedTokenizerBase, mask: int, stated: int | None
) -> None:
    """Require that config and tokenizer agree on a mask token that has no other role."""
    others = {"end-of-sequence": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id}
    same = [name for name, number in others.items() if number == mask]
    if stated not in (None, mask) or same:
        said = (
            f"config.json names {stated}"
            if not same
            else f"it is also the {' and '.join(same)} token"
        )
        raise PlatformError(
            "model_invalid",
            f"The tokenizer's mask token is {tokenizer.mask_token!r} (id {mask}), but {said}. A mask token must have "
            "no other role.",
            hint="Correct mask_token in tokenizer_config.json or mask_token_id in config.json.",
        )


def _initialise_at_mean(model: PreTrainedModel, known: int, mask: int) -> None:
    """Set the row of a new token, and all added rows, to the mean of the first `known` rows."""
    rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    if mask >= rows:
        model.resize_token_embeddings(
            mask + 1, pad_to_multiple_of=EMBEDDING_ROWS_MULTIPLE, mean_resizing=False
        )
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight: Tensor = embedding.get_parameter("weight").data
        # In fp32: a bf16 sum over a vocabulary loses most of its bits.
        mean = weight[: min(known, rows)].to(torch.float32).mean(0).to(weight.dtype)
        weight[mask] = mean
        weight[rows:] = mean
