"""How a packed row is cut for attention on a CPU: chunks of documents, and where their operands
lie.

Legend: T tokens of a row, n chunks of a bucket, Q tokens of a chunk, H heads, G key-value heads, D
width of a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.common.model.index import RowIndex, allowed

CHUNK_TOKENS: Final = 256
"""Largest chunk, give or take a block: a larger one computes more masked pairs, a smaller one calls
the kernel more.
"""


@dataclass(frozen=True, eq=False)
class Chunks:
    """A row's tokens in order of document, block and copy, cut into n chunks."""

    order: Tensor
    """[T] offsets in the row."""
    is_clean: Tensor
    """bool [T], in that order."""
    starts: Tensor
    """[n] place of each chunk's first token."""
    lengths: Tensor
    """[n]"""
    document_starts: Tensor
    """[n] place of the first token of each chunk's document."""


def cut(index: RowIndex) -> Chunks:
    """Each document into as few chunks as CHUNK_TOKENS allows, of about equal length."""
    order = _sorted(index)
    document, block = index.document[order], index.block[order]
    opens_document = _changes(document)
    document_start, document_length = _runs(opens_document)
    block_start, _ = _runs(opens_document | _changes(block))
    number = torch.div(document_length + CHUNK_TOKENS - 1, CHUNK_TOKENS, rounding_mode="floor")
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


def _sorted(index: RowIndex) -> Tensor:
    """Offsets [T] by document, block, copy and place."""
    order = torch.argsort(index.copy, stable=True)
    for field in (index.block, index.document):
        order = order[torch.argsort(field[order], stable=True)]
    return order


def _changes(values: Tensor) -> Tensor:
    """Whether each value differs from the one before; the first does. bool [T]"""
    return torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] != values[:-1]])


def _runs(opens: Tensor) -> tuple[Tensor, Tensor]:
    """Start and length [T] of the run that each place belongs to, given where runs open."""
    starts = torch.nonzero(opens).flatten()
    lengths = torch.diff(starts, append=starts.new_tensor([len(opens)]))
    return starts.repeat_interleave(lengths), lengths.repeat_interleave(lengths)


def _grades(lengths: Tensor) -> list[Tensor]:
    """Chunks grouped by length, counted down from the longest: within a group by less than a factor
    of sqrt(2).
    """
    grade = torch.floor(2 * torch.log2(lengths.max() / lengths)).long()
    return [torch.nonzero(grade == value).flatten() for value in sorted(set(grade.tolist()))]


def _padded(chunks: Chunks, members: Tensor) -> tuple[Tensor, Tensor]:
    """Row offsets of some chunks side by side [n, Q], padded with a chunk's first token, and which
    are real.
    """
    starts, lengths = chunks.starts[members, None], chunks.lengths[members, None]
    column = torch.arange(int(lengths.max()), device=starts.device)
    real = column < lengths
    return chunks.order[torch.where(real, starts + column, starts)], real


def _bias(index: RowIndex, rows: Tensor, real: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 1, Q, Q]: 0 where a query sees a key, else -inf; nobody sees padding."""
    block, copy, document = index.block[rows], index.copy[rows], index.document[rows]
    seen = allowed(
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
    """Where the kernel's operands come from, and where its results go.

    Operands lie bucket by bucket, [n, G, H / G · Q, D] of queries and [n, G, Q, D] of keys: query
    heads that share a key-value head stand side by side, as more queries of it.
    """

    def __init__(
        self, index: RowIndex, chunks: Chunks, heads: int, groups: int, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        """Of the masks, and of the operands that they are added to."""
        buckets = _grades(chunks.lengths)
        padded = [_padded(chunks, members) for members in buckets]
        self.queries = Gather(
            [(_of_heads(rows, heads, groups), real) for rows, real in padded], len(index) * heads
        )
        self.keys = Gather(
            [(_of_heads(rows, groups, groups), real) for rows, real in padded], len(index) * groups
        )
        self.biases = [
            _bias(index, *each, dtype).repeat(1, 1, heads // groups, 1) for each in padded
        ]
        self.clean = self.keys.inverse[_of_heads(chunks.order[chunks.is_clean], groups, groups)]
        """[G, clean tokens] places among the laid-out keys."""
        self.prefixes = list(_prefixes(chunks, buckets))

    def split(
        self, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Laid-out queries, keys and values, bucket by bucket."""
        return self.queries.split(q), self.keys.split(k), self.keys.split(v)


class Gather:
    """A permutation of rows into buckets, with padding, and back."""

    def __init__(self, parts: list[tuple[Tensor, Tensor]], num_rows: int) -> None:
        """Offsets [n, G, Q · repeat] and, for all G heads and repeats alike, which of [n, Q] are
        real.
        """
        self._shapes = [at.shape for at, _ in parts]
        self._rows = torch.cat([at.flatten() for at, _ in parts])
        real = torch.cat([_repeated(real, at.shape).flatten() for at, real in parts])
        self._padding = torch.nonzero(~real).flatten()
        self.inverse = torch.empty(num_rows, dtype=torch.int64, device=real.device)
        """[rows] place of each row in the buckets."""
        self.inverse[self._rows[real]] = torch.nonzero(real).flatten()

    def laid(self, rows: Tensor) -> Tensor:
        """[rows, D] to all buckets, flat."""
        return rows.index_select(0, self._rows)

    def laid_without_padding(self, rows: Tensor) -> Tensor:
        """The same with zeros for padding."""
        return self.laid(rows).index_fill_(0, self._padding, 0)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of the buckets in their shapes."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes])
        return [
            part.view(*shape, *part.shape[1:])
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def back(self, flat: Tensor) -> Tensor:
        """All buckets, flat, to [rows, D]."""
        return flat.index_select(0, self.inverse)


def _of_heads(rows: Tensor, heads: int, groups: int) -> Tensor:
    """Offsets [..., Q] of tokens to those of their heads, [..., G, H / G · Q]."""
    head = torch.arange(heads, device=rows.device).view(groups, -1, 1)
    return (rows[..., None, None, :] * heads + head).flatten(-2)


def _repeated(real: Tensor, shape: torch.Size) -> Tensor:
    """[n, Q] to [n, G, H / G · Q]."""
    return real[:, None].repeat(1, shape[1], shape[2] // real.shape[1])


@dataclass(frozen=True)
class Prefix:
    """What a chunk sees before itself."""

    bucket: int
    place: slice
    """Of the one chunk in its bucket."""
    clean: slice
    """Of the clean tokens in order."""


def _prefixes(chunks: Chunks, buckets: list[Tensor]) -> Iterator[Prefix]:
    """Of every chunk that is not its document's first."""
    clean_before = chunks.is_clean.cumsum(0) - chunks.is_clean.long()
    first, last = (
        clean_before[chunks.document_starts].tolist(),
        clean_before[chunks.starts].tolist(),
    )
    for bucket, members in enumerate(buckets):
        for place, chunk in enumerate(members.tolist()):
            if last[chunk] > first[chunk]:
                yield Prefix(bucket, slice(place, place + 1), slice(first[chunk], last[chunk]))
