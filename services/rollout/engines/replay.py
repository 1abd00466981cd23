"""Score given responses with the decoding code: decisions are looked up instead of sampled.

The parity check compares these log-probabilities with those of the learner, so they must come from
the same forward, cache and masks as in decoding.

Legend: S slots, L positions, B block length, n slots that denoise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.common.parity import DenoisingPath
from services.common.trajectory import Float32s, Int32s, Response
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.lane import Lane


class ReplayLane(Lane):
    """One slot per path; each step commits the tokens of the path."""

    def __init__(self, loaded: LoadedModel, paths: Sequence[DenoisingPath]) -> None:
        longest = max(len(path.prompt_ids) + len(path.token_ids) for path in paths)
        super().__init__(loaded, len(paths), longest, None)
        self._tokens, self._steps = (torch.zeros_like(self._slots.token_ids) for _ in range(2))
        for slot, path in enumerate(paths):
            response = slice(len(path.prompt_ids), len(path.prompt_ids) + len(path.token_ids))
            self._tokens[slot, response] = _to_table(self._tokens, path.token_ids)
            self._steps[slot, response] = _to_table(self._steps, path.unmask_step)

    def run(self) -> list[Float32s]:
        """Return the log-probabilities [R] of each path; raises `invalid_request` for invalid steps."""
        done: dict[str, Response] = {}
        # At most a denoising step and a forward of a complete block per position.
        for _ in range(2 * self._tokens.shape[1]):
            if not self.has_work:
                return [done[str(slot)].logprobs for slot in range(len(done))]
            done |= self.step()[0]
        raise PlatformError(
            "invalid_request",
            "Cannot replay responses: a block has denoising steps of an earlier one.",
        )

    def _candidates(self, config: DecodingConfig, rows: Tensor, logprobs: Tensor) -> Tensor:
        return self._tokens[rows[:, None], self._slots.positions[rows]]

    def _commit(
        self, config: DecodingConfig, rows: Tensor, confidence: Tensor, logprobs: Tensor
    ) -> Tensor:
        # A step commits the tokens that the path committed in the same step, and nothing else.
        due = (
            self._steps[rows[:, None], self._slots.positions[rows]]
            == self._slots.steps[rows, None] + 1
        )
        return due & self._slots.masked[rows]


def replay_request(loaded: LoadedModel, path: DenoisingPath, slot: int) -> GenerationRequest:
    """Convert a path to a request; its unmasking rule and its seed are not used."""
    decoding = DecodingConfig(
        block_size=loaded.block_size,
        denoising_steps=loaded.block_size,
        unmasking_strategy=UnmaskingStrategy.SEQUENTIAL,
        confidence_threshold=0.0,
        entropy_bound=0.0,
        selection=Selection.MAX,
        mask_token_id=loaded.mask_token_id,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=len(path.token_ids),
        stop_token_ids=(),
    )
    return GenerationRequest(
        request_id=str(slot),
        prompt_ids=path.prompt_ids,
        decoding=decoding,
        seed=0,
        ledger_position=0,
        response_index=slot,
    )


def _to_table(table: Tensor, values: Int32s) -> Tensor:
    return torch.from_numpy(values).to(table)
