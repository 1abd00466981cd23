"""The index of a packed row and the attention mask of block diffusion.

Rollout and training share this one definition. A row is a sequence of documents; a document is a
clean copy of its tokens and any number of noisy states of single blocks. Legend: T tokens of a row,
Tq queries, Tk keys, B block length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Position of each token of a row; all fields are int64 [T]."""

    position: Tensor
    """Absolute position in its document, from 0; used by the rotary embedding."""
    block: Tensor
    """position // B"""
    copy: Tensor
    """0 for the clean copy, k >= 1 for the k-th noisy state of a block."""
    document: Tensor
    """Number of the document within the row."""

    def __len__(self) -> int:
        return int(self.position.shape[0])

    def to(self, device: torch.device | str) -> "RowIndex":
        """Copy the index to a device."""
        return RowIndex(
            *(field.to(device) for field in (self.position, self.block, self.copy, self.document))
        )

    @staticmethod
    def clean(num_tokens: int, block_size: int, device: torch.device | str = "cpu") -> "RowIndex":
        """Index of a single document without noisy states: plain block-causal attention."""
        position = torch.arange(num_tokens, device=device)
        zeros = torch.zeros_like(position)
        return RowIndex(position, position // block_size, zeros, zeros)


def is_visible(
    block_q: Tensor,
    copy_q: Tensor,
    document_q: Tensor,
    block_k: Tensor,
    copy_k: Tensor,
    document_k: Tensor,
) -> Tensor:
    """Whether a query sees a key: in its own block of its own copy, or in an earlier clean block.

    This is the three-part mask of BD3-LM (arXiv 2503.09573) over index vectors instead of a dense
    matrix; arguments broadcast.
    """
    # Noisy states never see each other, nor the clean copy of their own block: that is what decoding
    # sees, where only earlier blocks are committed.
    own_block = (copy_q == copy_k) & (block_q == block_k)
    earlier_clean_block = (copy_k == 0) & (block_k < block_q)
    return (document_q == document_k) & (own_block | earlier_clean_block)


def visibility_mask(q: RowIndex, k: RowIndex) -> Tensor:
    """Keys that each query sees, bool [Tq, Tk]."""
    return is_visible(
        q.block[:, None],
        q.copy[:, None],
        q.document[:, None],
        k.block[None],
        k.copy[None],
        k.document[None],
    )
