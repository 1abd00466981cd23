"""LoRA (arXiv 2106.09685) through peft: small trainable matrices beside frozen linear layers, W +
(alpha / rank) B A.

Serving, checkpoints and exports see merged weights under the model's own names. With
the adapter off the model is its base, which is the reference policy of reinforcement learning.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from services.common.errors import PlatformError
from services.common.job_spec import LoraSpec
from services.common.model.loading import LoadedModel

_NAME: Final = "default"
_BASE: Final = ".base_layer"
_ADAPTER: Final = ".lora_"


def attach_adapter(loaded: LoadedModel, lora: LoraSpec, seed: int) -> None:
    """Freeze the model and put an adapter beside its linear layers; B starts at 0, so nothing
    changes yet.

    Raises PlatformError("spec_invalid") for target modules that the model does not have.
    """
    known = linear_layers(loaded.model)
    targets = lora.target_modules or known
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise PlatformError(
            "spec_invalid",
            f"Cannot attach the LoRA adapter: {', '.join(unknown)} in lora.target_modules is not a linear layer of the "
            f"decoder's blocks; they have {', '.join(known)}.",
            hint="Name some of these, or leave it out for all of them.",
            param="lora.target_modules",
        )
    config = LoraConfig(target_modules=list(targets), **_peft_options(lora))
    # A is random: the same on every rank and in every attempt, and without moving the generator that
    # others draw from.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, loaded.model)


def _peft_options(lora: LoraSpec) -> dict[str, Any]:
    """Options of peft's configuration apart from the layers."""
    return {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none"}


def describe_adapter(model: nn.Module, lora: LoraSpec, base: str) -> str:
    """JSON of peft's adapter_config.json; `base` is the model that the adapter was trained on."""
    config = LoraConfig(
        target_modules=list(lora.target_modules or linear_layers(model)),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
        **_peft_options(lora),
    )
    described = config.to_dict()  # type: ignore[no-untyped-call]
    return json.dumps(described, indent=2, sort_keys=True, default=sorted) + "\n"


def linear_layers(model: nn.Module) -> tuple[str, ...]:
    """Last names of the linear layers inside the decoder's blocks, e.g. q_proj, down_proj; not the
    output layer's.
    """
    layers = model.base_model.layers  # type: ignore[union-attr]  # nn.Module types every attribute as Tensor | Module
    # An adapted layer is a module of peft around its linear layer, named base_layer.
    found = {
        name.removesuffix(_BASE).rpartition(".")[2]
        for name, part in layers.named_modules()  # type: ignore[union-attr]
        if isinstance(part, nn.Linear) and _ADAPTER not in name
    }
    return tuple(sorted(found))


def merge_adapter(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the model's own names, the adapter added in; `state` is by the names of the
    model with adapter.

    The product is summed rank by rank, elementwise: a matrix product would round differently on
    other machines, and a resumed job could not show that its weights are those of the checkpoint.
    """
    whole = {
        name.replace(_BASE, ""): tensor for name, tensor in state.items() if _ADAPTER not in name
    }
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            down, up = (state[f"{name}.lora_{part}.{_NAME}.weight"] for part in "AB")
            # W + (alpha / rank) B A, equation 3 of the paper.
            delta = torch.zeros_like(whole[f"{name}.weight"])
            for row, column in zip(down, up.T, strict=True):
                delta += column[:, None] * row[None, :]
            whole[f"{name}.weight"] = whole[f"{name}.weight"] + delta * layer.scaling[_NAME]
    return whole


def adapter_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's own part of a state."""
    return {name: tensor for name, tensor in state.items() if _ADAPTER in name}


def restore_adapter(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored adapter tensors into the model; raises PlatformError("checkpoint_invalid") unless
    names agree.
    """
    own = adapter_tensors(dict(model.named_parameters()))
    if own.keys() != tensors.keys() or any(own[name].shape != tensors[name].shape for name in own):
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot load the adapter: the checkpoint has {len(tensors)} tensors of it, the job's `lora` makes "
            f"{len(own)}, and their names or shapes differ.",
            hint="Resume with the `lora` that the job was started with.",
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


@contextmanager
def disable_adapter(model: nn.Module) -> Iterator[None]:
    """The base model's weights for the time of the block, without gradient: the reference policy."""
    layers = [part for part in model.modules() if isinstance(part, LoraLinear)]
    with torch.no_grad():
        # peft freezes a disabled adapter; enabling it again below restores its gradient.
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
