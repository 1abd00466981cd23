"""The weights of one version, as they are sent to the replicas."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from services.common.parity import ParityProbe


@dataclass(frozen=True)
class WeightSnapshot:
    """Views of the model's own tensors: valid until the next optimizer step."""

    version: int
    tensors: Mapping[str, Tensor]
    """Weights by checkpoint name."""
    probe: ParityProbe | None = None
    """Log-probabilities that every replica must reproduce before it uses the weights."""
