"""Selection drift: how many denoising steps would commit other positions under the current weights.

Off-policy the recorded path may have lost all its probability: where a rule looks at confidences,
new weights commit other positions in the same state, and no ratio of token probabilities tells.
Legend: T tokens of a row, H hidden size, B block length, S denoising states, V vocabulary.
"""

from collections.abc import Callable

import torch

from services.common.diffusion.config import DecodingConfig, Selection
from services.common.diffusion.rules import commit_mask, confidences
from services.common.model.forward import token_logprobs
from services.common.model.loading import LoadedModel
from services.trainer.training.objective import PolicyStatistics
from services.trainer.training.trajectory_rows import PackedRow


def make_drift_observer(
    loaded: LoadedModel,
    row: PackedRow,
    decoding: DecodingConfig,
    statistics: PolicyStatistics,
    logits_per_chunk: int,
) -> Callable[[torch.Tensor], None] | None:
    """Adds the row's steps, and those that drifted, to the statistics once it is shown the hidden
    states [T, H].

    None where drift cannot be computed: rules that look at sampled candidates need the rejected
    ones as well.
    """
    # Copy 0 is the clean one, where a mask token can only be a prompt's own text.
    masked = ((row.token_ids == loaded.mask_token_id) & (row.index.copy > 0)).view(
        -1, loaded.block_size
    )
    if decoding.selection is Selection.SAMPLED and int(masked.sum()) > len(row.loss_at):
        return None
    states = masked.any(1)

    @torch.no_grad()
    def observe(hidden: torch.Tensor) -> None:
        committed, candidates = (
            torch.zeros_like(row.token_ids, dtype=torch.bool),
            torch.zeros_like(row.token_ids),
        )
        committed[row.loss_at], candidates[row.loss_at] = row.committed, row.targets
        in_states = [
            tensor.view(len(states), loaded.block_size, *tensor.shape[1:])[states]
            for tensor in (hidden, masked.flatten(), committed, candidates)
        ]
        # Logits of all states at once would fill a device, as in policy.score_row.
        size = max(1, logits_per_chunk // (loaded.block_size * len(loaded.sampleable)))
        for part in zip(*(torch.split(tensor, size) for tensor in in_states), strict=True):
            statistics.drifted += _count_drifted(loaded, decoding, *part)
        statistics.steps += int(states.sum())

    return observe


def _count_drifted(
    loaded: LoadedModel,
    decoding: DecodingConfig,
    hidden: torch.Tensor,
    masked: torch.Tensor,
    committed: torch.Tensor,
    candidates: torch.Tensor,
) -> int:
    """How many of the given states the rule would now commit other positions of.

    hidden [S, B, H]; masked and committed, bool [S, B]; candidates, ids [S, B].
    """
    logprobs = token_logprobs(loaded, hidden.flatten(0, 1), decoding.temperature).view(
        *masked.shape, -1
    )
    # The engine's own rule on the learner's log-probs; candidates stay those that were recorded,
    # because drift asks about the selection, not about the sampling.
    now = commit_mask(decoding, masked, confidences(decoding, logprobs, candidates), logprobs)
    return int((now != committed).any(1).sum())
