"""Layout of a packed row for attention on a CPU: documents are cut into chunks, chunks are batched.

Legend: T tokens of a row, n chunks of a bucket, Q tokens of a chunk, H heads, G key-value heads, D
width of a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.common.model.index import RowIndex, is_visible

CHUNK_TOKENS: Final = 256
"""Maximum size of a chunk, to within a block. Larger chunks compute more masked pairs, smaller ones
need more kernel calls.
"""


@dataclass(frozen=True, eq=False)
class Chunks:
    """Tokens of a row, sorted by document, block and copy, and cut into n chunks."""

    order: Tensor
    """[T] offsets in the row."""
    is_clean: Tensor
    """bool [T], in that order."""
    starts: Tensor
    """[n] index of the first token of each chunk."""
    lengths: Tensor
    """[n]"""
    document_starts: Tensor
    """[n] index of the first token of the document of each chunk."""


def cut_row(index: RowIndex) -> Chunks:
    """Cut each document into as few chunks as CHUNK_TOKENS allows, of about equal length."""
    # Sorted by document, block, copy and position: stable sorts from the least significant key to
    # the most significant one.
    order = torch.argsort(index.copy, stable=True)
    for field in (index.block, index.document):
        order = order[torch.argsort(field[order], stable=True)]
    document, block = index.document[order], index.block[order]
    opens_document = _changes(document)
    document_start, document_length = _runs(opens_document)
    block_start, _ = _runs(opens_document | _changes(block))
    number = torch.div(document_length + CHUNK_TOKENS - 1, CHUNK_TOKENS, rounding_mode="floor")
    # Chunks end at block boundaries, so that every token of a chunk sees all clean tokens before it.
    # Attention to the prefix then needs no mask.
    chunk = torch.div(
        (block_start - document_start) * number, document_length, rounding_mode="floor"
    )
    starts = torch.nonzero(opens_document | _changes(chunk)).flatten()
    return Chunks(
        order=order,
        is_clean=index.copy[order] == 0,
        starts=starts,
        lengths=torch.diff(starts, append=starts.new_tensor([len(order)])),
        document_starts=document_start[starts],
    )


def _changes(values: Tensor) -> Tensor:
    """Whether each value differs from the previous one, bool [T]; True for the first."""
    return torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] != values[:-1]])


def _runs(opens: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and length [T] of the run of each token, given where runs start."""
    starts = torch.nonzero(opens).flatten()
    lengths = torch.diff(starts, append=starts.new_tensor([len(opens)]))
    return starts.repeat_interleave(lengths), lengths.repeat_interleave(lengths)


def _bucket_by_length(lengths: Tensor) -> list[Tensor]:
    """Group chunks whose lengths differ by less than a factor of sqrt(2).

    The chunks of a bucket are padded to its longest one, so at most 30 % of the tokens are padding.
    """
    bucket = torch.floor(2 * torch.log2(lengths.max() / lengths)).long()
    return [torch.nonzero(bucket == value).flatten() for value in sorted(set(bucket.tolist()))]


def _pad_chunks(chunks: Chunks, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row offsets [n, Q] of some chunks, and a mask of those that are not padding.

    Padding repeats the first token of a chunk, so that every offset is valid.
    """
    starts, lengths = chunks.starts[members, None], chunks.lengths[members, None]
    column = torch.arange(int(lengths.max()), device=starts.device)
    real = column < lengths
    return chunks.order[torch.where(real, starts + column, starts)], real


def _bias(index: RowIndex, rows: Tensor, real: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the attention bias [n, 1, Q, Q]: 0 if a query sees a key, else -inf; padding is not seen."""
    block, copy, document = index.block[rows], index.copy[rows], index.document[rows]
    seen = is_visible(
        block[:, :, None],
        copy[:, :, None],
        document[:, :, None],
        block[:, None],
        copy[:, None],
        document[:, None],
    )
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill_(~(seen & real[:, None]), -torch.inf)[:, None]


class Plan:
    """Maps rows to the operands of the kernel, and its results back to rows.

    Each bucket has queries [n, G, H / G · Q, D] and keys [n, G, Q, D]. Query heads that share a
    key-value head (grouped-query attention) are additional queries of that head, which avoids
    repeating keys and values H / G times.
    """

    def __init__(
        self, index: RowIndex, chunks: Chunks, heads: int, groups: int, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        """Data type of the biases and of the operands."""
        buckets = _bucket_by_length(chunks.lengths)
        padded = [_pad_chunks(chunks, members) for members in buckets]
        self.queries = BucketPermutation(
            [(_head_offsets(rows, heads, groups), real) for rows, real in padded],
            len(index) * heads,
        )
        self.keys = BucketPermutation(
            [(_head_offsets(rows, groups, groups), real) for rows, real in padded],
            len(index) * groups,
        )
        self.biases = [
            _bias(index, *each, dtype).repeat(1, 1, heads // groups, 1) for each in padded
        ]
        # Clean tokens of all documents in one list: prefixes are contiguous ranges of it, so one
        # gather serves all of them.
        self.clean = self.keys.inverse[_head_offsets(chunks.order[chunks.is_clean], groups, groups)]
        """[G, clean tokens] indices in the batched keys."""
        self.prefixes = list(_iterate_prefixes(chunks, buckets))

    def split(
        self, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Split batched queries, keys and values into buckets."""
        return self.queries.split(q), self.keys.split(k), self.keys.split(v)


class BucketPermutation:
    """A permutation of rows into padded buckets, and its inverse."""

    def __init__(self, parts: list[tuple[Tensor, Tensor]], num_rows: int) -> None:
        """`parts` has, for each bucket, offsets [n, G, Q · repeat] and the mask [n, Q] of real tokens."""
        self._shapes = [at.shape for at, _ in parts]
        self._rows = torch.cat([at.flatten() for at, _ in parts])
        # Masks of tokens [n, Q], repeated for the heads of each: [n, G, H / G · Q].
        repeated = [
            mask[:, None].repeat(1, at.shape[1], at.shape[2] // mask.shape[1]) for at, mask in parts
        ]
        real = torch.cat([mask.flatten() for mask in repeated])
        self._padding = torch.nonzero(~real).flatten()
        self.inverse = torch.empty(num_rows, dtype=torch.int64, device=real.device)
        """[rows] index of each row in the buckets."""
        self.inverse[self._rows[real]] = torch.nonzero(real).flatten()

    def scatter(self, rows: Tensor) -> Tensor:
        """Copy rows [rows, D] to the flat buckets."""
        return rows.index_select(0, self._rows)

    def scatter_zero_padded(self, rows: Tensor) -> Tensor:
        """Copy rows to the flat buckets, with zeros for padding."""
        return self.scatter(rows).index_fill_(0, self._padding, 0)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return views of the buckets in their shapes."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes])
        return [
            part.view(*shape, *part.shape[1:])
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def gather(self, flat: Tensor) -> Tensor:
        """Copy the flat buckets back to rows [rows, D]."""
        return flat.index_select(0, self.inverse)


def _head_offsets(rows: Tensor, heads: int, groups: int) -> Tensor:
    """Expand offsets of tokens [..., Q] to those of their heads [..., G, H / G · Q]."""
    head = torch.arange(heads, device=rows.device).view(groups, -1, 1)
    return (rows[..., None, None, :] * heads + head).flatten(-2)


@dataclass(frozen=True)
class ChunkPrefix:
    """The clean tokens before a chunk, all of which it sees."""

    bucket: int
    place: slice
    """Index of the chunk in its bucket, as a slice of length 1."""
    clean: slice
    """Range in the sorted clean tokens."""


def _iterate_prefixes(chunks: Chunks, buckets: list[Tensor]) -> Iterator[ChunkPrefix]:
    """Yield the prefix of every chunk except the first of a document."""
    clean_before = chunks.is_clean.cumsum(0) - chunks.is_clean.long()
    first, last = (
        clean_before[chunks.document_starts].tolist(),
        clean_before[chunks.starts].tolist(),
    )
    for bucket, members in enumerate(buckets):
        for place, chunk in enumerate(members.tolist()):
            if last[chunk] > first[chunk]:
                yield ChunkPrefix(bucket, slice(place, place + 1), slice(first[chunk], last[chunk]))
