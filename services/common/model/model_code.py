"""Modeling code beside the weights of a model directory, for transformers with trust_remote_code."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

_CONFIGURATION: Final = "configuration_block_diffusion"
_MODELING: Final = "modeling_block_diffusion"
_CLASSES: Final[Mapping[str, str]] = {
    "sdar": "SDAR",
    "sdar_moe": "SDARMoe",
    "qwen3": "BlockDiffusionQwen3",
    "qwen3_moe": "BlockDiffusionQwen3Moe",
    "qwen2": "BlockDiffusionQwen2",
    "llama": "BlockDiffusionLlama",
    "mistral": "BlockDiffusionMistral",
    "phi3": "BlockDiffusionPhi3",
    "olmo2": "BlockDiffusionOlmo2",
    "granite": "BlockDiffusionGranite",
}
"""First part of the names of the classes in services/common/model/remote_code, by model type."""


@dataclass(frozen=True)
class ModelCode:
    """Python files and the classes in them that transformers loads."""

    auto_map: Mapping[str, str]
    """Class by auto class, as in config.json."""
    files: Mapping[str, bytes]
    """Contents by file name."""


def read_published_code(path: Path | str, config: Mapping[str, Any]) -> ModelCode | None:
    """Read the code that a directory was published with; None without any, or if it is our own.

    The files are copied, never run. A directory whose auto_map names a file that it lacks has none:
    nothing could load it.
    """
    named = config.get("auto_map")
    if not isinstance(named, dict) or not named:
        return None
    modules = {str(target).split(".")[0] for target in named.values()}
    files = {file.name: file.read_bytes() for file in sorted(Path(path).glob("*.py"))}
    if _MODELING in modules or any(f"{module}.py" not in files for module in modules):
        return None
    return ModelCode(named, files)


def platform_code(model_type: str) -> ModelCode:
    """Return the code for a family of services.common.model.sdar.FAMILIES."""
    classes = _CLASSES[model_type]
    package = resources.files("services.common.model.remote_code")
    return ModelCode(
        auto_map={
            "AutoConfig": f"{_CONFIGURATION}.{classes}Config",
            "AutoModelForCausalLM": f"{_MODELING}.{classes}ForCausalLM",
        },
        files={
            f"{module}.py": (package / f"{module}.py").read_bytes()
            for module in (_CONFIGURATION, _MODELING)
        },
    )
