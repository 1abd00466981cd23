"""The SDAR model types, registered with transformers: Qwen3 and Qwen3-MoE with a block length and a
mask id.

The architecture is that of Qwen3 with another attention (services.common.model.attention), so no
remote code is needed to load a checkpoint.
"""

from collections.abc import Mapping
from typing import Any, Final

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    Qwen3ForCausalLM,
    Qwen3MoeForCausalLM,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from services.common.model.remote_code.configuration_block_diffusion import (
    SDARConfig,
    SDARMoeConfig,
)


class SDARForCausalLM(Qwen3ForCausalLM):
    """Dense SDAR model."""

    config_class = SDARConfig


class SDARMoeForCausalLM(Qwen3MoeForCausalLM):
    """Mixture-of-experts SDAR model."""

    config_class = SDARMoeConfig


AutoConfig.register("sdar", SDARConfig)
AutoConfig.register("sdar_moe", SDARMoeConfig)
AutoModelForCausalLM.register(SDARConfig, SDARForCausalLM)
AutoModelForCausalLM.register(SDARMoeConfig, SDARMoeForCausalLM)
# Transformers fuses the experts in memory; checkpoints and pushed weights have one tensor per expert.
register_checkpoint_conversion_mapping("sdar_moe", get_checkpoint_conversion_mapping("qwen3_moe"))

FAMILIES: Final = (
    "sdar", "sdar_moe", "qwen3", "qwen3_moe", "qwen2", "llama", "mistral", "phi3", "olmo2", "granite"
)  # fmt: skip
"""Model types for which a forward with block length 1 was verified to equal the causal forward."""

_SDAR_CONFIGS: Final[Mapping[str, type[PreTrainedConfig]]] = {
    "qwen3": SDARConfig,
    "qwen3_moe": SDARMoeConfig,
}
"""Architectures that become SDAR models with a mask token; others keep their model type."""


def block_diffusion_config(written: Mapping[str, Any]) -> PreTrainedConfig | None:
    """Convert the config of a decoder to that of SDAR; None if the family keeps its own type."""
    config_class = _SDAR_CONFIGS.get(str(written.get("model_type")))
    return None if config_class is None else config_class.from_dict(dict(written))
