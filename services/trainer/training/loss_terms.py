"""Documents cut into blocks, and the terms of a batch's loss.

Legend: M blocks of all documents together, B block length, D documents, N terms of the loss, R
response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from services.common.trajectory import Candidates, Int32s

Int64s = NDArray[np.int64]


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
