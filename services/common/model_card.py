"""Read config.json of a model directory, without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.common.errors import PlatformError


@dataclass(frozen=True)
class ModelCard:
    """Properties of a model against which a job is validated."""

    model_type: str
    block_size: int
    mask_token_id: int
    vocab_size: int
    """Rows of the embedding; the tokenizer may have fewer ids."""
    max_positions: int


_KEYS = {
    "model_type": str,
    "block_size": int,
    "mask_token_id": int,
    "vocab_size": int,
    "max_position_embeddings": int,
}


AS_PUBLISHED: Final[Mapping[str, Mapping[str, int]]] = {
    "sdar": {"block_size": 4, "mask_token_id": 151669},
    "sdar_moe": {"block_size": 4, "mask_token_id": 151669},
}
"""Values of published SDAR checkpoints that their config.json lacks (LMDeploy and SGLang have them in
their code). Checkpoints with another block length, named …-b8 to …-b64, need it in config.json.
"""


def read_model_card(path: Path | str) -> ModelCard:
    """Read the card of a model directory; raises PlatformError("model_invalid")."""
    written = read_config(path)
    config = {**AS_PUBLISHED.get(str(written.get("model_type")), {}), **written}
    faults = [
        f"{key} {_describe_problem(config, key)}" for key in _KEYS if _describe_problem(config, key)
    ]
    if faults:
        raise PlatformError(
            "model_invalid",
            f"{Path(path) / 'config.json'} does not describe a block-diffusion model: {'; '.join(faults)}.",
            hint="Convert a decoder: python -m services.common.model convert --source DIR --out DIR --block-size B",
        )
    card = ModelCard(*(config[key] for key in _KEYS))
    _check_values(card, path)
    require_plain_weights(path, written)
    return card


def read_config(path: Path | str) -> dict[str, Any]:
    """Read config.json of a model directory; raises PlatformError("model_invalid")."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlatformError(
            "model_invalid",
            f"Cannot read config.json of the model directory {path}: {error}.",
            hint="Give a directory in the Hugging Face layout (config.json, tokenizer, safetensors).",
        ) from error
    if not isinstance(config, dict):
        raise PlatformError(
            "model_invalid", f"{file} is a {type(config).__name__}; it must be an object."
        )
    return config


def require_plain_weights(path: Path | str, config: Mapping[str, Any]) -> None:
    """Reject directories whose weights cannot be trained or are ambiguous; raises
    PlatformError("model_invalid").
    """
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = config[key].get("quant_method") if isinstance(config[key], dict) else None
            raise PlatformError(
                "model_invalid",
                f"The weights in {path} are quantised ({method or key}); training needs plain ones (fp32, bf16, fp16).",
                hint="Use the checkpoint that it was quantised from, or dequantise it before.",
            )
    single, index = (Path(path) / f"model.safetensors{end}" for end in ("", ".index.json"))
    if single.is_file() and index.is_file():
        raise PlatformError(
            "model_invalid",
            f"{path} has model.safetensors and shards named in {index.name}; which of them are the weights is unknown.",
            hint="Delete those that are older.",
        )
    rows = config.get("vocab_size")
    ids = [(key, config.get(key)) for key in ("eos_token_id", "pad_token_id")]
    beyond = [
        f"{key} {number}"
        for key, value in ids
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int) and isinstance(rows, int) and not 0 <= number < rows
    ]
    if beyond:
        raise PlatformError(
            "model_invalid",
            f"{Path(path) / 'config.json'} names {', '.join(beyond)}, but the embedding has {rows} rows.",
            hint="Correct the ids in config.json.",
        )


def _describe_problem(config: dict[str, Any], key: str) -> str | None:
    """Describe the problem of a key, or return None."""
    if key not in config:
        return "is missing"
    value = config[key]
    if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
        return f"is {value!r}, not {'a string' if _KEYS[key] is str else 'an integer'}"
    return None


def _check_values(card: ModelCard, path: Path | str) -> None:
    """Require a valid block length and mask id."""
    if card.block_size < 1 or not 0 <= card.mask_token_id < card.vocab_size:
        raise PlatformError(
            "model_invalid",
            f"{Path(path) / 'config.json'} has block_size {card.block_size} and mask_token_id {card.mask_token_id}; "
            f"they must be at least 1 and one of the {card.vocab_size} rows of the embedding.",
        )
