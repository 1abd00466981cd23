"""The reference policy: the weights that a reinforcement stage began with; rl.kl_beta weighs the
divergence from them.
"""

from typing import Protocol

import torch

from services.common.model.forward import hidden_states, token_logprobs
from services.common.model.loading import LoadedModel
from services.trainer.training.trajectory_rows import PackedRow


class ReferencePolicy(Protocol):
    """Anything that scores rows under weights that do not change."""

    def logprobs(self, row: PackedRow, temperature: float) -> torch.Tensor:
        """Log-probs [N] of the row's targets, without gradient; the row comes from the host."""


class FrozenReferencePolicy:
    """A second copy of the model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @torch.no_grad()
    def logprobs(self, row: PackedRow, temperature: float) -> torch.Tensor:
        """See ReferencePolicy."""
        row = row.to(self._loaded.model.device)
        hidden = hidden_states(self._loaded.model, row.token_ids, row.index)[row.loss_at]
        return (
            token_logprobs(self._loaded, hidden, temperature)
            .gather(1, row.targets[:, None])
            .squeeze(1)
        )
