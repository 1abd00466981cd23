"""Weights sharded over ranks (FSDP2): each rank holds a slice of every tensor, and a pass gathers a
layer at a time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from services.trainer.training.ranks import Ranks


def shard(root: nn.Module, model: PreTrainedModel, ranks: Ranks) -> None:
    """Shard the model's layers, and with the root what lies outside them; `root` is what is called.

    Gradients are summed over ranks, not averaged: losses are already divided by what all ranks
    train on.
    """
    mesh = init_device_mesh(model.device.type, (ranks.size,))
    layers: Any = model.base_model.layers  # nn.Module types every attribute as Tensor | Module
    # Layers before the root: FSDP2 gives a module the parameters that none inside it has taken.
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def gather_full(tensor: Tensor) -> Tensor:
    """The whole of a tensor; collective when it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def place_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, and sharded like it; collective when it is."""
    if isinstance(parameter, DTensor):
        local = tensor.to(parameter.device)
        return distribute_tensor(local, parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)


def local_device(ranks: Ranks) -> torch.device:
    """The rank's own GPU where there are any, else the CPU."""
    return torch.device("cuda", ranks.rank) if torch.cuda.is_available() else torch.device("cpu")
