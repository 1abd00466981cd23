"""State of the responses in flight, as tensors with a row per slot, so that a step has no loop over
slots.

Legend: S slots, L positions, B block length, P prompt tokens, R response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.diffusion.config import DecodingConfig
from services.common.diffusion.randomness import response_keys
from services.common.trajectory import NO_CANDIDATES, Candidates, FinishReason, Response
from services.rollout.engines.base import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class Commitments:
    """Decisions of a denoising step for the current blocks of n slots."""

    slots: Tensor
    """[n]"""
    commit: Tensor
    """bool [n, B]"""
    candidates: Tensor
    """[n, B]"""
    logprobs: Tensor
    """[n, B]"""
    confidences: Tensor
    """[n, B]"""


class SlotTable:
    """Requests in flight. A free slot is a row whose results are ignored."""

    def __init__(
        self,
        num_slots: int,
        max_tokens: int,
        block_size: int,
        mask_token_id: int,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self._mask_token_id = mask_token_id
        self._offsets = torch.arange(block_size, device=device)
        self.requests: list[GenerationRequest | None] = [None] * num_slots
        self._by_config: list[tuple[DecodingConfig, Tensor]] | None = None

        def per_slot(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros((num_slots, *shape), dtype=dtype, device=device)

        self.active = per_slot(dtype=torch.bool)
        self.starts = per_slot()
        """First position of the current block; all earlier ones are in the cache."""
        self.masked = per_slot(block_size, dtype=torch.bool)
        """Positions of the current block that are not committed yet."""
        self.prompt_lengths = per_slot()
        self.ends = per_slot()
        """Position after the last block of the budget."""
        self.keys = per_slot()
        """Keys of the random numbers."""
        self.steps = per_slot()
        """Denoising steps so far."""
        self.forwards = per_slot()
        self.token_ids = per_slot(max_tokens)
        self.unmask_steps = per_slot(max_tokens)
        self.logprobs = per_slot(max_tokens, dtype=torch.float32)
        self.confidences = per_slot(max_tokens, dtype=torch.float32)
        self._rejected: _RejectedTable | None = None

    @property
    def positions(self) -> Tensor:
        """Absolute positions of the current blocks [S, B]."""
        return self.starts[:, None] + self._offsets

    def block_tokens(self) -> Tensor:
        """Token ids of the current blocks [S, B], the mask id at masked positions."""
        return self.token_ids.gather(1, self.positions)

    def open(self, slots: list[int], requests: Sequence[GenerationRequest]) -> None:
        """Assign requests to slots. Whole blocks of the prompt are cached; its remainder is the start of
        the first block.
        """
        rows = torch.tensor(slots, device=self.starts.device)
        lengths = torch.tensor(
            [len(request.prompt_ids) for request in requests], device=rows.device
        )
        for slot, request in zip(slots, requests, strict=True):
            self.requests[slot] = request
        # The grid of blocks starts with the prompt, as in training, where a document is prompt and
        # response together.
        self.active[rows] = True
        self.starts[rows] = lengths // self.block_size * self.block_size
        self.masked[rows] = self.positions[rows] >= lengths[:, None]
        self.prompt_lengths[rows] = lengths
        self.ends[rows] = torch.tensor(
            [last_position(request, self.block_size) for request in requests]
        ).to(rows)
        self.keys[rows] = response_keys(
            [request.seed for request in requests],
            [request.ledger_position for request in requests],
            [request.response_index for request in requests],
        ).to(rows)
        self.steps[rows] = 0
        self.forwards[rows] = 0
        self.token_ids[rows] = torch.from_numpy(self._make_buffers(requests)).to(rows)
        self._by_config = None
        # Allocated on demand: a table per step of a block is the largest one of the slots.
        if self._rejected is None and any(
            request.decoding.record_candidates for request in requests
        ):
            num_slots, max_tokens = self.token_ids.shape
            self._rejected = _RejectedTable(num_slots, max_tokens, self.block_size, rows.device)
        if self._rejected is not None:
            self._rejected.clear(rows)

    def _make_buffers(self, requests: Sequence[GenerationRequest]) -> NDArray[np.int64]:
        """Create rows of the prompt followed by mask ids [n, L]."""
        buffers = np.full(
            (len(requests), self.token_ids.shape[1]), self._mask_token_id, dtype=np.int64
        )
        for buffer, request in zip(buffers, requests, strict=True):
            buffer[: len(request.prompt_ids)] = request.prompt_ids
        return buffers

    def close(self, slots: list[int]) -> None:
        """Free slots."""
        for slot in slots:
            self.requests[slot] = None
        rows = torch.tensor(slots, device=self.starts.device)
        self.active[rows] = False
        # A free slot takes part in the forwards; position 0 keeps the attention window short.
        self.starts[rows] = 0
        self._by_config = None

    def by_config(self) -> list[tuple[DecodingConfig, Tensor]]:
        """Group slots in use [n] by decoding configuration."""
        if self._by_config is None:
            groups: dict[DecodingConfig, list[int]] = {}
            for slot, request in enumerate(self.requests):
                if request is not None:
                    groups.setdefault(request.decoding, []).append(slot)
            self._by_config = [
                (config, torch.tensor(slots, device=self.starts.device))
                for config, slots in groups.items()
            ]
        return self._by_config

    def record(self, decided: Commitments) -> None:
        """Commit tokens and count the step."""
        rows, commit = decided.slots, decided.commit
        self.steps[rows] += 1
        positions = self.positions[rows]
        # torch.where on whole blocks instead of an index of the committed tokens: a boolean index has a
        # size that depends on data, which would synchronize with the GPU.
        for table, values in (
            (self.token_ids, decided.candidates),
            (self.unmask_steps, self.steps[rows, None].expand_as(commit)),
            (self.logprobs, decided.logprobs),
            (self.confidences, decided.confidences),
        ):
            current = table[rows[:, None], positions]
            table[rows[:, None], positions] = torch.where(commit, values.to(table.dtype), current)
        # Before the mask is updated, from which it derives the column of the step.
        if self._rejected is not None:
            self._rejected.record(decided, positions, self.steps[rows], self.masked[rows])
        self.masked[rows] &= ~commit

    def advance(self, committed: Tensor) -> None:
        """Move the slots whose block the last forward has cached, bool [S], to the next block."""
        self.starts += committed * self.block_size
        self.masked |= committed[:, None]

    def take_response(self, slot: int, visible_len: int | None) -> tuple[str, Response]:
        """Return request id and response of a slot; `visible_len` is None without a stop token."""
        request = self.requests[slot]
        if request is None:
            raise RuntimeError(f"Slot {slot} has no request.")
        start = int(self.prompt_lengths[slot])
        response = slice(start, int(self.starts[slot]) + self.block_size)
        rejected = NO_CANDIDATES
        # The table also holds candidates of requests that do not record them.
        if request.decoding.record_candidates:
            if self._rejected is None:
                raise RuntimeError(f"Slot {slot} records candidates without a table for them.")
            rejected = self._rejected.of(slot, response)
        return request.request_id, Response(
            token_ids=self.token_ids[slot, response].cpu().numpy().astype(np.int32),
            unmask_step=self.unmask_steps[slot, response].cpu().numpy().astype(np.int32),
            logprobs=self.logprobs[slot, response].cpu().numpy().copy(),
            confidences=self.confidences[slot, response].cpu().numpy().copy(),
            visible_len=response.stop - start if visible_len is None else visible_len,
            finish_reason=FinishReason.LENGTH if visible_len is None else FinishReason.STOP,
            num_forwards=int(self.forwards[slot]),
            rejected=rejected,
        )


class _RejectedTable:
    """Rejected candidates: at most one per position and step of its block."""

    def __init__(
        self, num_slots: int, max_tokens: int, block_size: int, device: torch.device
    ) -> None:
        def per_step(dtype: torch.dtype) -> Tensor:
            return torch.zeros((num_slots, max_tokens, block_size), dtype=dtype, device=device)

        self._step = per_step(torch.int64)
        """[S, L, B] step, or 0 without a rejected candidate. The column is the number of masked positions
        minus one, which is different for every step of a block, since each commits at least one.
        """
        self._token_ids = per_step(torch.int64)
        self._logprobs = per_step(torch.float32)

    def clear(self, rows: Tensor) -> None:
        """Clear the rejected candidates of slots [n]."""
        self._step[rows] = 0

    def record(
        self, decided: Commitments, positions: Tensor, steps: Tensor, masked: Tensor
    ) -> None:
        """Record candidates of masked positions, bool [n, B], that a step [n] did not commit."""
        rejected = masked & ~decided.commit
        slot, offset = rejected.nonzero(as_tuple=True)
        at = (decided.slots[slot], positions[slot, offset], masked.sum(1)[slot] - 1)
        self._step[at] = steps[slot]
        self._token_ids[at] = decided.candidates[slot, offset]
        self._logprobs[at] = decided.logprobs[slot, offset]

    def of(self, slot: int, response: slice) -> Candidates:
        """Return the rejected candidates of a response, sorted by position and step."""
        # Columns count masked positions, which decrease from step to step, so the last column is the
        # earliest step.
        steps = self._step[slot, response].flip(1)
        position, column = steps.nonzero(as_tuple=True)
        token_ids, logprobs = (
            table[slot, response].flip(1) for table in (self._token_ids, self._logprobs)
        )
        return Candidates(
            position=position.cpu().numpy().astype(np.int32),
            step=steps[position, column].cpu().numpy().astype(np.int32),
            token_ids=token_ids[position, column].cpu().numpy().astype(np.int32),
            logprobs=logprobs[position, column].cpu().numpy().copy(),
        )


def last_position(request: GenerationRequest, block_size: int) -> int:
    """Return the position after the last block of the budget, which is rounded up to whole blocks."""
    needed = len(request.prompt_ids) + request.decoding.max_new_tokens
    return -(-needed // block_size) * block_size
