"""LMDeploy's own model classes and weight loader, on a CPU. Import after
`lmdeploy_package.put_on_path()`.

Its CUDA kernels need Triton; attention is replaced by SDPA under the block-causal mask, without a
cache. Mixtures have their weights, but no forward.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from lmdeploy.pytorch.backends import selector
from lmdeploy.pytorch.backends.attention import PagedAttentionBuildSpec
from lmdeploy.pytorch.backends.default.op_backend import DefaultOpsBackend
from lmdeploy.pytorch.backends.moe import FusedMoEBuildSpec
from lmdeploy.pytorch.config import DistConfig, DLLMConfig, ModelConfig
from lmdeploy.pytorch.models.patch import BuildModelContext, build_patched_model
from lmdeploy.pytorch.weight_loader.model_weight_loader import load_model_weights
from torch import Tensor, nn


def load(path: Path, block_size: int) -> tuple[nn.Module, ModelConfig]:
    """The model of a directory as LMDeploy reads it."""
    with mock.patch(
        "lmdeploy.pytorch.config.is_bf16_supported", return_value=True
    ):  # it would ask a device
        config = ModelConfig.from_pretrained(
            str(path),
            trust_remote_code=False,
            dtype="bfloat16",
            dist_config=DistConfig(),
            device_type="cuda",
        )
    context = BuildModelContext(dllm_config=DLLMConfig(block_length=block_size))
    with mock.patch.object(selector, "_get_backend", return_value=_Backend):
        model = build_patched_model(config, device=torch.device("cpu"), build_model_ctx=context)
        load_model_weights(model, str(path), device=torch.device("cpu"))
    return model, config


@torch.inference_mode()
def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """[T, V] of a sequence without history, in fp32."""
    model.float()
    layers = [(None, None)] * len(model.model.layers)
    positions = torch.arange(len(tokens))[None]
    hidden = model(tokens[None], positions, layers, SimpleNamespace(quant_policy=0))
    return model.get_logits(hidden)[0]


class _Backend(DefaultOpsBackend):
    @classmethod
    def build_op(cls, spec: Any, **settings: Any) -> Any:
        if isinstance(spec, PagedAttentionBuildSpec):
            return _Attention(spec)
        if isinstance(spec, FusedMoEBuildSpec):
            return SimpleNamespace(update_weights=lambda gate_up, down: (gate_up, down))
        return super().build_op(spec, **settings)


class _Attention:
    def __init__(self, spec: PagedAttentionBuildSpec) -> None:
        self._block, self._scale = spec.block_sparse_size, spec.scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """[T, heads, D], each token seeing its own block and those before."""
        block = torch.arange(len(query)) // self._block
        query, key, value = (each.transpose(0, 1)[None] for each in (query, key, value))
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=block[None] <= block[:, None],
            scale=self._scale,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)


def unpacked(model: nn.Module, config: Any) -> dict[str, Tensor]:
    """LMDeploy's parameters, which hold several matrices each, under the names of the checkpoint."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        found |= _parts(name, parameter.detach(), config)
    return found


def _parts(name: str, tensor: Tensor, config: Any) -> dict[str, Tensor]:
    if ".experts." in name:
        return _experts(name, tensor)
    if "qkv_proj" in name:
        heads, kv = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        return _named(
            name, "qkv_proj", ("q_proj", "k_proj", "v_proj"), tensor.split([heads, kv, kv])
        )
    if "gate_up_proj" in name:
        return _named(name, "gate_up_proj", ("gate_proj", "up_proj"), tensor.chunk(2))
    return {name: tensor}


def _experts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """[experts, 2 I, H] gate and up, or [experts, H, I] down."""
    prefix = name.split(".experts.")[0] + ".experts."
    parts: dict[str, Tensor] = {}
    for expert, matrix in enumerate(tensor):
        if "gate_up" in name:
            gate, up = matrix.chunk(2)
            parts |= {
                f"{prefix}{expert}.gate_proj.weight": gate,
                f"{prefix}{expert}.up_proj.weight": up,
            }
        else:
            parts[f"{prefix}{expert}.down_proj.weight"] = matrix
    return parts


def _named(
    name: str, packed: str, parts: tuple[str, ...], tensors: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    return {name.replace(packed, part): tensor for part, tensor in zip(parts, tensors, strict=True)}
