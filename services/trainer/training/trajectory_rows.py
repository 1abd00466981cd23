"""Packed training rows: one clean copy of each document, and for each block only the states it was
denoised through.

Legend: P prompt tokens, R response tokens, B block length (P + R is a whole number of blocks,
counted from the prompt's first token), K_b denoising states of block b, T tokens of a packed row, N
of them with a loss; of a whole batch: D documents, M blocks.

A document becomes

    [ clean prompt + response: P + R tokens | for each block b, for each of its K_b states, the B tokens of that block ]

State k shows the tokens of rank < k and masks the others; the loss is on the tokens of rank k,
where the rank of a token is the index of its denoising step among the distinct steps of its block,
from 1, and a token without a step (the prompt, or an answer token that the noise of supervised
fine-tuning left alone) has rank 0. So each response token has its loss in exactly the state from
which it was committed. A candidate that a step sampled and did not commit, where the trajectory
carries them, has its loss in that step's state too. Attention is the predicate of
services.common.model.index.

Differs from the published layout (up to B rows `[noisy | clean]` per response, arXiv 2512.22234, section 4) in length,
not in value: all of those rows share one clean context. Knows nothing of models, rewards or devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.errors import PlatformError
from services.common.model.index import RowIndex
from services.common.trajectory import Candidates, Int32s, Response
from services.trainer.training.sft import NoisyExample

Int64s = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One trajectory with its advantage."""

    trajectory_id: str
    prompt_ids: Int32s
    """[P]"""
    response: Response
    advantage: float
    group: str = ""
    """Samples of one group stand together, in one mini-batch."""
    proximal: Floats | None = None
    """[terms] log-probs under the weights before the step."""
    reference: Floats | None = None
    """[terms] log-probs under the reference policy."""

    @property
    def num_terms(self) -> int:
        """Terms of the loss: committed tokens in order, then rejected candidates."""
        return len(self.response.token_ids) + len(self.response.rejected.token_ids)


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Several documents side by side: one forward pass."""

    token_ids: torch.Tensor
    """[T] int64."""
    index: RowIndex
    """Position, block, copy and document of each of the T tokens; documents are numbered within the
    row.
    """
    loss_at: torch.Tensor
    """[N] int64 offsets in the row, ascending."""
    targets: torch.Tensor
    """[N] int64 token that was sampled there."""
    sample: torch.Tensor
    """[N] int64 which of the given samples."""
    token: torch.Tensor
    """[N] int64 which of its terms: response token, or R and which of its rejected candidates."""
    committed: torch.Tensor
    """bool [N] whether the state's step committed it."""

    def to(self, device: torch.device) -> "PackedRow":
        """The same row on a device."""
        return PackedRow(
            token_ids=self.token_ids.to(device),
            index=self.index.to(device),
            loss_at=self.loss_at.to(device),
            targets=self.targets.to(device),
            sample=self.sample.to(device),
            token=self.token.to(device),
            committed=self.committed.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Blocks:
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


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The tokens of a batch that have a loss, N of them."""

    block: Int64s
    """[N] among all blocks."""
    copy: Int64s
    """[N] state of the block, from 1."""
    offset: Int64s
    """[N] in the block."""
    target: Int64s
    """[N] token id."""
    number: Int64s
    """[N] within its document."""
    committed: NDArray[np.bool_]
    """[N] whether its step committed it."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Copies of blocks that make up a row, Q of them."""

    block: Int64s
    """[Q] which of all blocks."""
    copy: Int64s
    """[Q] 0 for the clean copy, else the state."""


def rl_rows(
    samples: Sequence[Sample], *, block_size: int, mask_token_id: int, max_tokens: int
) -> list[PackedRow]:
    """Pack rows for the policy loss; every response token, and every rejected candidate, has its loss
    exactly once.

    `max_tokens` is the target length of a row; a longer document gets a row of its own. Raises
    PlatformError("internal") for a malformed trajectory.
    """
    for sample in samples:
        _require_whole(sample, block_size)
    blocks = cut_blocks(
        [(s.prompt_ids, s.response.token_ids, s.response.unmask_step) for s in samples], block_size
    )
    terms = [
        committed_terms(blocks),
        *(
            _rejected_terms_of(blocks, i, s)
            for i, s in enumerate(samples)
            if len(s.response.rejected.step)
        ),
    ]
    return _pack(blocks, concatenate_terms(terms), mask_token_id, max_tokens)


def sft_rows(
    examples: Sequence[NoisyExample], *, block_size: int, mask_token_id: int, max_tokens: int
) -> list[PackedRow]:
    """Pack rows for the supervised loss: the states of every block in which anything is masked, loss on
    the masked tokens.

    An example of which nothing is masked adds no row: it has no loss, yet counts in the loss's
    denominator.
    """
    blocks = cut_blocks([(e.prompt_ids, e.token_ids, e.state) for e in examples], block_size)
    return _pack(blocks, committed_terms(blocks), mask_token_id, max_tokens)


def _require_whole(sample: Sample, block_size: int) -> None:
    response = sample.response
    sizes = {len(response.token_ids), len(response.unmask_step), len(response.logprobs)}
    total = len(sample.prompt_ids) + len(response.token_ids)
    if len(sizes) > 1 or len(response.token_ids) == 0:
        raise PlatformError(
            "internal",
            f"Cannot train on trajectory {sample.trajectory_id}: it has {len(response.token_ids)} tokens,"
            f" {len(response.unmask_step)} steps and {len(response.logprobs)} log-probs; each token must have one of"
            " each.",
        )
    if total % block_size or response.unmask_step.min() < 1:
        raise PlatformError(
            "internal",
            f"Cannot train on trajectory {sample.trajectory_id}: prompt and response are {total} tokens, its first step"
            f" is {response.unmask_step.min()}; they must fill blocks of {block_size}, and steps count from 1.",
        )


def _rejected_terms_of(blocks: Blocks, document: int, sample: Sample) -> Terms:
    try:
        return rejected_terms(
            blocks, document, sample.response.unmask_step, sample.response.rejected
        )
    except ValueError as error:
        message = f"Cannot train on trajectory {sample.trajectory_id}: {error}."
        raise PlatformError("internal", message) from None


def _pack(blocks: Blocks, terms: Terms, mask_token_id: int, max_tokens: int) -> list[PackedRow]:
    """Lay the documents out and pack them; documents without any state are left out."""
    # Only states that were visited: a block that was committed in two steps has two, whatever B is.
    num_states = blocks.rank.max(axis=1)
    block = np.concatenate(
        [np.arange(len(num_states)), np.repeat(np.arange(len(num_states)), num_states)]
    )
    copy = np.concatenate([np.zeros_like(num_states), count_within(num_states) + 1])
    owner = blocks.document[block]
    sizes = np.bincount(owner)
    # Stable: clean blocks stand before states in `block`, so sorting by document alone yields the
    # layout.
    parts = np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    with_states = np.flatnonzero(sizes > np.bincount(blocks.document))
    lengths = sizes * blocks.tokens.shape[1]
    # Parts are all clean blocks, then the states of block after block: state k of block b is the
    # (k - 1)-th behind the states of the blocks before it.
    part_of_term = (
        len(num_states) + (np.cumsum(num_states) - num_states)[terms.block] + terms.copy - 1
    )
    place = np.empty_like(block)
    rows = []
    for documents in _first_fit_decreasing(with_states.tolist(), lengths.tolist(), max_tokens):
        chosen = np.concatenate([parts[document] for document in documents])
        place[chosen] = np.arange(len(chosen))
        mine = np.flatnonzero(np.isin(blocks.document[terms.block], documents))
        loss_at = place[part_of_term[mine]] * blocks.tokens.shape[1] + terms.offset[mine]
        ascending = np.argsort(loss_at, kind="stable")
        chosen_parts = _Parts(block=block[chosen], copy=copy[chosen])
        rows.append(
            _row(blocks, chosen_parts, terms, mine[ascending], loss_at[ascending], mask_token_id)
        )
    return rows


def _first_fit_decreasing(documents: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Group documents into rows of at most `budget` tokens, or of one longer document;
    deterministic.
    """
    # Longest first leaves the least unused; ties by number, so that every rank packs the same rows.
    rows: list[list[int]] = []
    free: list[int] = []
    for document in sorted(documents, key=lambda d: (-lengths[d], d)):
        row = next((i for i, left in enumerate(free) if lengths[document] <= left), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(budget)
        rows[row].append(document)
        free[row] -= lengths[document]
    return rows


def _row(
    blocks: Blocks, parts: _Parts, terms: Terms, mine: Int64s, loss_at: Int64s, mask_token_id: int
) -> PackedRow:
    """Make the row of some parts in order, with the loss of the terms `mine` at the offsets
    `loss_at`.
    """
    block_size = blocks.tokens.shape[1]
    # A state shows what was committed before its step; the clean copy shows everything.
    shown = (parts.copy[:, None] == 0) | (blocks.rank[parts.block] < parts.copy[:, None])
    number, document = blocks.number[parts.block], blocks.document[parts.block]
    return PackedRow(
        token_ids=_flat(np.where(shown, blocks.tokens[parts.block], mask_token_id)),
        index=RowIndex(
            # Both copies of a token have its position in the document (RoPE), and block numbers
            # count from the prompt's first token, as the engine's grid does.
            position=_flat(number[:, None] * block_size + np.arange(block_size)),
            block=_flat(np.repeat(number, block_size)),
            copy=_flat(np.repeat(parts.copy, block_size)),
            document=_flat(
                np.repeat(np.cumsum(np.diff(document, prepend=document[0]) != 0), block_size)
            ),
        ),
        loss_at=_flat(loss_at),
        targets=_flat(terms.target[mine]),
        sample=_flat(blocks.document[terms.block[mine]]),
        token=_flat(terms.number[mine]),
        committed=torch.from_numpy(terms.committed[mine]),
    )


def _flat(values: Int64s) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64).reshape(-1))


def cut_blocks(
    documents: Sequence[tuple[Int32s, Int32s, NDArray[np.generic]]], block_size: int
) -> Blocks:
    """Blocks of (prompt, response, step of each response token) documents; step 0 is never masked."""
    tokens = np.concatenate(
        [part for prompt, response, _ in documents for part in (prompt, response)]
    )
    steps = np.concatenate(
        [part for prompt, _, step in documents for part in (np.zeros(len(prompt), int), step)]
    )
    prompt_len = np.array([len(prompt) for prompt, _, _ in documents])
    total = prompt_len + [len(response) for _, response, _ in documents]
    if np.any(total % block_size):
        raise ValueError(
            f"documents must fill blocks of {block_size} tokens, their lengths are {sorted(set(total.tolist()))}"
        )
    blocks = total // block_size
    return Blocks(
        tokens=tokens.reshape(-1, block_size).astype(np.int64),
        rank=_to_ranks(steps.reshape(-1, block_size)),
        document=np.repeat(np.arange(len(documents)), blocks),
        number=count_within(blocks),
        prompt_len=prompt_len,
    )


def _to_ranks(steps: Int64s) -> Int64s:
    """[M, B] steps to ranks: the index of a step among the distinct positive steps of its row, from
    1; 0 for step 0.
    """
    # Ranks, because steps are counted over the response: those of a later block do not begin at 1.
    # A rank grows where the sorted steps do; step 0 never opens one.
    order = np.argsort(steps, axis=1, kind="stable")
    ascending = np.take_along_axis(steps, order, axis=1)
    opens = np.diff(ascending, axis=1, prepend=0) > 0
    ranks = np.empty_like(steps)
    np.put_along_axis(ranks, order, np.cumsum(opens, axis=1), axis=1)
    return ranks


def committed_terms(blocks: Blocks) -> Terms:
    """Every masked token, in the state of its rank."""
    # Row-major: terms of a document stand in the order of its tokens, which `number` counts.
    block, offset = np.nonzero(blocks.rank)
    position = blocks.number[block] * blocks.rank.shape[1] + offset
    return Terms(
        block=block,
        copy=blocks.rank[block, offset],
        offset=offset,
        target=blocks.tokens[block, offset],
        number=position - blocks.prompt_len[blocks.document[block]],
        committed=np.ones(len(block), np.bool_),
    )


def rejected_terms(blocks: Blocks, document: int, steps: Int32s, candidates: Candidates) -> Terms:
    """Every rejected candidate of a document, in the state of its step: that of the tokens which
    the step committed.

    `steps` [R] are those of the response's tokens. Raises ValueError for a candidate without such a
    state.
    """
    block_size, prompt_len = blocks.rank.shape[1], int(blocks.prompt_len[document])
    position = prompt_len + candidates.position.astype(np.int64)
    # Blocks of all documents are numbered through; a document's first one is found by bisection.
    first = int(np.searchsorted(blocks.document, document))
    block, offset = first + position // block_size, position % block_size
    all_steps = np.concatenate([np.zeros(prompt_len, np.int64), steps]).reshape(-1, block_size)
    # The state of a step is the rank of the tokens it committed; a step that committed nothing in
    # this block has no state to score a candidate in.
    same_step = all_steps[block - first] == candidates.step[:, None]
    copy = (same_step * blocks.rank[block]).max(axis=1, initial=0)
    if np.any((copy == 0) | (copy >= blocks.rank[block, offset])):
        raise ValueError(
            "a rejected candidate must belong to a step of its block, before its position was committed"
        )
    return Terms(
        block=block,
        copy=copy,
        offset=offset,
        target=candidates.token_ids.astype(np.int64),
        number=len(steps) + np.arange(len(position)),
        committed=np.zeros(len(position), np.bool_),
    )


def concatenate_terms(parts: Sequence[Terms]) -> Terms:
    """One batch of terms from several, in order."""
    return Terms(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Terms)}
    )


def count_within(sizes: Int64s) -> Int64s:
    """0, 1, … within each of consecutive runs of the given sizes."""
    starts = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) - np.repeat(starts, sizes)
