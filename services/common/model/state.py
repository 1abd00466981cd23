"""Weights by checkpoint name: stored, pushed and loaded weights have the same set of names.

Transformers fuses the experts of a mixture in memory; checkpoints and pushed weights have one tensor
per expert. Tied weights appear once.
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
    """Return the weights by checkpoint name, as views of the tensors of the model.

    `state` replaces the tensors, e.g. with those gathered from several ranks; its names are those
    of `own_state(model)`.
    """
    own = own_state(model) if state is None else state
    return {
        part: view
        for name, tensor in own.items()
        for part, view in _split_experts(name, tensor.detach())
    }


def own_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return `model.state_dict()` with each tied weight once."""
    # named_parameters() lists a tied weight under its first name only.
    once = {name for name, _ in model.named_parameters()} | {
        name for name, _ in model.named_buffers()
    }
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def _split_experts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield fused experts one by one (gate and up [experts, 2 I, H], down [experts, H, I]); other
    tensors are not changed.
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

    Raises PlatformError("model_invalid"), before anything is written, unless names and shapes equal
    those of the model.
    """
    # Checked as a whole first: a model with some new and some old weights would decode silently.
    own = export_state(model)
    check_state(own, tensors)
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(tensors[name])


def drop_weights(model: PreTrainedModel) -> Callable[[], None]:
    """Free the memory of all weights; the returned function allocates it again, uninitialised."""
    shapes = [(parameter, parameter.shape) for parameter in model.parameters()]
    for parameter, _ in shapes:
        parameter.data = parameter.data.new_empty(0)

    def restore() -> None:
        for parameter, shape in shapes:
            parameter.data = parameter.data.new_empty(shape)

    return restore


def check_state(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise PlatformError("model_invalid") unless names and shapes equal those of the model."""
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unexpected:
        raise PlatformError(
            "model_invalid",
            f"Cannot load weights into a model of {len(own)} tensors: {len(missing)} are missing"
            f"{_names(missing)} and {len(unexpected)} are unexpected{_names(unexpected)}.",
            hint="Send the tensors of services.common.model.state.export_state.",
        )
    wrong = [
        f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if given[name].shape != own[name].shape
    ]
    if wrong:
        raise PlatformError(
            "model_invalid",
            f"Cannot load weights of other shapes: {'; '.join(wrong[:SHOWN_NAMES])}.",
        )


def _names(names: list[str]) -> str:
    """Format the first few names in brackets."""
    return (
        f" ({', '.join(names[:SHOWN_NAMES])}{', …' if len(names) > SHOWN_NAMES else ''})"
        if names
        else ""
    )
