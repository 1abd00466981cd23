"""Weights under their checkpoint names: what is stored, sent and loaded is one and the same set.

Transformers fuses the experts of a mixture in memory; checkpoints and the wire name every expert's
matrices. Tied weights appear once.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from services.common.errors import PlatformError

SHOWN_NAMES = 5


def export_state(
    model: PreTrainedModel, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weights by checkpoint name, as views of the model's own tensors.

    `state` replaces the tensors (gathered from several ranks, say); its names are those of
    `own_state(model)`.
    """
    own = own_state(model) if state is None else state
    return {
        part: view for name, tensor in own.items() for part, view in _unfused(name, tensor.detach())
    }


def own_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """`model.state_dict()` with each tied weight once."""
    once = {name for name, _ in model.named_parameters()} | {
        name for name, _ in model.named_buffers()
    }
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def _unfused(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Fused experts one by one (gate and up [experts, 2 I, H], down [experts, H, I]); anything else
    as it is.
    """
    prefix, _, kind = name.rpartition(".")
    if not prefix.endswith(".experts") or kind not in ("gate_up_proj", "down_proj"):
        yield name, tensor
        return
    for expert, matrix in enumerate(tensor):
        if kind == "down_proj":
            yield f"{prefix}.{expert}.down_proj.weight", matrix
            continue
        gate, up = matrix.chunk(2)
        yield f"{prefix}.{expert}.gate_proj.weight", gate
        yield f"{prefix}.{expert}.up_proj.weight", up


def import_state(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights, given by checkpoint name, into the model in place, cast to its dtype.

    Raises PlatformError("model_invalid"), before anything is written, unless names and shapes are
    exactly the model's.
    """
    own = export_state(model)
    check_state(own, tensors)
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(tensors[name])


def drop_weights(model: PreTrainedModel) -> Callable[[], None]:
    """Free the memory of all weights; what is returned takes it again, with undefined values."""
    shapes = [(parameter, parameter.shape) for parameter in model.parameters()]
    for parameter, _ in shapes:
        parameter.data = parameter.data.new_empty(0)

    def restore() -> None:
        for parameter, shape in shapes:
            parameter.data = parameter.data.new_empty(shape)

    return restore


def check_state(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises PlatformError("model_invalid") unless names and shapes are exactly the model's own."""
    _check_names(own, given)
    _check_shapes(own, given)


def _check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Every name once, and no other."""
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unexpected:
        raise PlatformError(
            "model_invalid",
            f"Weights were to be loaded into a model of {len(own)} tensors, but {len(missing)} are missing"
            f"{_names(missing)} and {len(unexpected)} are unexpected{_names(unexpected)}.",
            hint="Send exactly what services.common.model.state.export_state gives.",
        )


def _names(names: list[str]) -> str:
    """The first few names in brackets."""
    return (
        f" ({', '.join(names[:SHOWN_NAMES])}{', …' if len(names) > SHOWN_NAMES else ''})"
        if names
        else ""
    )


def _check_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Shapes must agree."""
    wrong = [
        f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if given[name].shape != own[name].shape
    ]
    if wrong:
        raise PlatformError(
            "model_invalid",
            f"Weights were to be loaded, but shapes differ: {'; '.join(wrong[:SHOWN_NAMES])}.",
        )
