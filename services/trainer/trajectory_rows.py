"""Packed training rows: one clean copy of each document, and for each block only the states it was denoised through.

Legend: P prompt tokens, R response tokens, B block length (P + R is a whole number of blocks, counted from the prompt's
first token), K_b denoising states of block b, T tokens of a packed row, N of them with a loss.

A document becomes

    [ clean prompt + response: P + R tokens | for each block b, for each of its K_b states, the B tokens of that block ]

State k shows the tokens of rank < k and masks the others; the loss is on the tokens of rank k, where the rank of a
token is the index of its denoising step among the distinct steps of its block, from 1, and a token without a step (the
prompt, or an answer token that the noise of supervised fine-tuning left alone) has rank 0. So each response token has
its loss in exactly the state from which it was committed. Attention is the predicate of services.common.model.index.

Differs from the published layout (up to B rows `[noisy | clean]` per response, arXiv 2512.22234, section 4) in length,
not in value: all of those rows share one clean context. Knows nothing of models, rewards or devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.errors import PlatformError
from services.common.model.index import RowIndex
from services.common.trajectory import Int32s
from services.trainer.sft import NoisyExample

Int64s = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One trajectory with its advantage."""

    trajectory_id: str
    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R]"""
    unmask_step: Int32s
    """[R] denoising step of the token's commitment, from 1."""
    logprobs: Floats
    """[R] log-probabilities that the engine recorded."""
    advantage: float


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Several documents side by side: one forward pass."""

    token_ids: torch.Tensor
    """[T] int64."""
    index: RowIndex
    """Position, block, copy and document of each of the T tokens; documents are numbered within the row."""
    loss_at: torch.Tensor
    """[N] int64 offsets in the row, ascending."""
    targets: torch.Tensor
    """[N] int64 token that was committed there."""
    sample: torch.Tensor
    """[N] int64 which of the given samples."""
    token: torch.Tensor
    """[N] int64 which of its response tokens."""

    def to(self, device: torch.device) -> "PackedRow":
        """The same row on a device."""
        return PackedRow(
            token_ids=self.token_ids.to(device),
            index=self.index.to(device),
            loss_at=self.loss_at.to(device),
            targets=self.targets.to(device),
            sample=self.sample.to(device),
            token=self.token.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """All documents of a batch cut into blocks: M blocks, every array with one row per block."""

    tokens: Int64s
    """[M, B]"""
    rank: Int64s
    """[M, B] 0 for tokens that no state masks."""
    document: Int64s
    """[M]"""
    number: Int64s
    """[M] of the block within its document."""
    prompt_len: Int64s
    """[D] of each document."""


def rl_rows(samples: Sequence[Sample], *, block_size: int, mask_token_id: int, max_tokens: int) -> list[PackedRow]:
    """Rows for the policy loss; every response token has its loss exactly once.

    `max_tokens` is the target length of a row; a longer document gets a row of its own. Raises
    PlatformError("internal") for a malformed trajectory.
    """
    for sample in samples:
        _require_whole(sample, block_size)
    blocks = _cut([(s.prompt_ids, s.token_ids, s.unmask_step) for s in samples], block_size)
    return _pack(blocks, mask_token_id, max_tokens)


def sft_rows(
    examples: Sequence[NoisyExample], *, block_size: int, mask_token_id: int, max_tokens: int
) -> list[PackedRow]:
    """Rows for the supervised loss: one state per block in which the noise masked something, loss on the masked tokens.

    An example of which nothing was masked adds no row: it has no loss, yet counts in the loss's denominator.
    """
    blocks = _cut([(e.prompt_ids, e.token_ids, e.masked) for e in examples], block_size)
    return _pack(blocks, mask_token_id, max_tokens)


def _require_whole(sample: Sample, block_size: int) -> None:
    sizes = {len(sample.token_ids), len(sample.unmask_step), len(sample.logprobs)}
    total = len(sample.prompt_ids) + len(sample.token_ids)
    if len(sizes) > 1 or len(sample.token_ids) == 0:
        raise PlatformError(
            "internal",
            f"Cannot train on trajectory {sample.trajectory_id}: it has {len(sample.token_ids)} tokens,"
            f" {len(sample.unmask_step)} steps and {len(sample.logprobs)} log-probs; each token must have one of each.",
        )
    if total % block_size or sample.unmask_step.min() < 1:
        raise PlatformError(
            "internal",
            f"Cannot train on trajectory {sample.trajectory_id}: prompt and response are {total} tokens, its first step"
            f" is {sample.unmask_step.min()}; they must fill blocks of {block_size}, and steps count from 1.",
        )


def _cut(documents: Sequence[tuple[Int32s, Int32s, NDArray[np.generic]]], block_size: int) -> _Blocks:
    """Blocks of (prompt, response, step of each response token) documents; step 0 is never masked."""
    tokens = np.concatenate([part for prompt, response, _ in documents for part in (prompt, response)])
    steps = np.concatenate([part for prompt, _, step in documents for part in (np.zeros(len(prompt), int), step)])
    prompt_len = np.array([len(prompt) for prompt, _, _ in documents])
    total = prompt_len + [len(response) for _, response, _ in documents]
    if np.any(total % block_size):
        raise ValueError(
            f"documents must fill blocks of {block_size} tokens, their lengths are {sorted(set(total.tolist()))}"
        )
    blocks = total // block_size
    return _Blocks(
        tokens=tokens.reshape(-1, block_size).astype(np.int64),
        rank=_ranks(steps.reshape(-1, block_size)),
        document=np.repeat(np.arange(len(documents)), blocks),
        number=_count_within(blocks),
        prompt_len=prompt_len,
    )


def _ranks(steps: Int64s) -> Int64s:
    """[M, B] steps to ranks: the index of a step among the distinct positive steps of its row, from 1; 0 for step 0."""
    order = np.argsort(steps, axis=1, kind="stable")
    ascending = np.take_along_axis(steps, order, axis=1)
    opens = np.diff(ascending, axis=1, prepend=0) > 0
    ranks = np.empty_like(steps)
    np.put_along_axis(ranks, order, np.cumsum(opens, axis=1), axis=1)
    return ranks


def _count_within(sizes: Int64s) -> Int64s:
    """0, 1, … within each of consecutive runs of the given sizes."""
    starts = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) - np.repeat(starts, sizes)


def _pack(blocks: _Blocks, mask_token_id: int, max_tokens: int) -> list[PackedRow]:
    """Lay the documents out and pack them; documents without any state are left out."""
    num_states = blocks.rank.max(axis=1)
    block = np.concatenate([np.arange(len(num_states)), np.repeat(np.arange(len(num_states)), num_states)])
    copy = np.concatenate([np.zeros_like(num_states), _count_within(num_states) + 1])
    owner = blocks.document[block]
    sizes = np.bincount(owner)
    # Stable: clean blocks stand before states in `block`, so sorting by document alone yields the layout.
    parts = np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    with_states = np.flatnonzero(sizes > np.bincount(blocks.document))
    lengths = sizes * blocks.tokens.shape[1]
    return [
        _row(blocks, block, copy, [parts[document] for document in documents], mask_token_id)
        for documents in _first_fit_decreasing(with_states.tolist(), lengths.tolist(), max_tokens)
    ]


def _first_fit_decreasing(documents: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Documents grouped into rows of at most `budget` tokens, or of one longer document; deterministic."""
    rows: list[list[int]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda d: (-lengths[d], d)):
        row = next((i for i, left in enumerate(room) if lengths[document] <= left), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(budget)
        rows[row].append(document)
        room[row] -= lengths[document]
    return rows


def _row(blocks: _Blocks, block: Int64s, copy: Int64s, parts: list[Int64s], mask_token_id: int) -> PackedRow:
    """The row of some documents, each given as the indices of its (block, copy) pairs in order."""
    chosen = np.concatenate(parts)
    block_size = blocks.tokens.shape[1]
    block, copy = block[chosen], copy[chosen]
    clean, rank, state = blocks.tokens[block], blocks.rank[block], copy[:, None]
    shown = (state == 0) | (rank < state)
    position = blocks.number[block][:, None] * block_size + np.arange(block_size)
    loss_at = np.flatnonzero((state > 0) & (rank == state))
    sample = np.repeat(blocks.document[block], block_size)[loss_at]
    return PackedRow(
        token_ids=_flat(np.where(shown, clean, mask_token_id)),
        index=RowIndex(
            position=_flat(position),
            block=_flat(np.repeat(blocks.number[block], block_size)),
            copy=_flat(np.repeat(copy, block_size)),
            document=_flat(np.repeat(np.arange(len(parts)), [len(part) * block_size for part in parts])),
        ),
        loss_at=_flat(loss_at),
        targets=_flat(clean.reshape(-1)[loss_at]),
        sample=_flat(sample),
        token=_flat(position.reshape(-1)[loss_at] - blocks.prompt_len[sample]),
    )


def _flat(values: Int64s) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64).reshape(-1))
