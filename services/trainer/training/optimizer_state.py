"""Optimizer state by parameter name, as plain tensors: readable without unpickling, independent of
parameter order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from services.common.errors import PlatformError
from services.trainer.training.sharding import gather_full, place_like

_SEPARATOR = "/"


def export_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors named `<parameter>/<quantity>`, e.g. `lm_head.weight/exp_avg`. Empty before the first
    step.

    Collective where the model is sharded: every rank gets the whole.
    """
    return {
        f"{name}{_SEPARATOR}{quantity}": gather_full(value.detach()).contiguous().cpu()
        for name, parameter in model.named_parameters()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def import_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of export_optimizer; raises PlatformError `checkpoint_invalid` for names that the
    model does not have.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter_name, _, quantity = name.rpartition(_SEPARATOR)
        if parameter_name not in parameters:
            raise PlatformError(
                "checkpoint_invalid",
                f"Cannot load the optimizer: it has state for {parameter_name!r}, which the model does not have.",
            )
        parameter = parameters[parameter_name]
        # AdamW counts steps on the CPU; the moments are on the parameter's device, sharded as it is.
        optimizer.state[parameter][quantity] = (
            tensor if quantity == "step" else place_like(tensor, parameter)
        )
