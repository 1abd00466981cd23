"""Turn a Hugging Face decoder into a block-diffusion model: a mask token, a block length, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from services.common.errors import PlatformError
from services.common.model.loading import assemble, read_tokenizer, read_weights, save_model
from services.common.model.sdar import SDARConfig, SDARMoeConfig
from services.common.model.tiny import MASK_TOKEN
from services.common.model_card import read_config

SDAR_CONFIGS: Final[Mapping[str, type[PreTrainedConfig]]] = {"qwen3": SDARConfig, "qwen3_moe": SDARMoeConfig}
"""Architectures that are SDAR's own once they have a mask token; others keep their model type."""


def convert_model(source: Path | str, out: Path | str, block_size: int) -> None:
    """Write `source` to `out` with a mask token and a block length; raises PlatformError("model_invalid").

    Weights are kept bit for bit, in their dtype; where the embedding has no row left for the mask token it grows, and
    the new rows start at the mean of the others.
    """
    _refuse_other_formats(Path(source))
    if block_size < 1:
        raise PlatformError("invalid_request", f"A block length of {block_size} was asked for; it must be at least 1.")
    model, tokenizer = _load(source)
    mask_token_id = _mask_token(model, tokenizer)
    save_model(assemble(model, tokenizer, block_size, mask_token_id), out)


def _refuse_other_formats(source: Path) -> None:
    """GGUF holds quantised weights under other names."""
    if source.suffix == ".gguf" or (source.is_dir() and any(source.glob("*.gguf"))):
        raise PlatformError(
            "model_invalid",
            f"{source} is in the GGUF format; conversion reads safetensors in the Hugging Face layout only.",
            hint="Fetch the original model directory.",
        )


def _load(source: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, under SDAR's config class where there is one, and tokenizer."""
    written = read_config(source)
    config_class = SDAR_CONFIGS.get(str(written.get("model_type")))
    options = {} if config_class is None else {"config": config_class.from_dict(written)}
    return read_weights(source, "auto", **options).eval(), read_tokenizer(source)


def _mask_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the mask token, added where there is none."""
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.mask_token_id >= rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = embedding.get_parameter("weight").data
            weight[rows:] = weight[:rows].mean(0)
    return int(tokenizer.mask_token_id)
