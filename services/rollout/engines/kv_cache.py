"""Keys and values of the clean blocks of every slot, and the attention that reads and writes them.

Legend: S slots, L positions, B block length, P prompt tokens, W window.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from services.common.model.attention import Attend
from services.common.model.document_attention import wide_dtype

WINDOW_STEP: Final = 64
"""Attention reads a multiple of this many positions. Whole vectors of masked zeros change no sum,
so the rounding that a response sees does not depend on how long its neighbours are.
"""


class KVCache:
    """Preallocated keys and values, one tensor [S, L, kv_heads, head_dim] per layer and kind."""

    def __init__(
        self,
        config: PreTrainedConfig,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.max_tokens = _whole_windows(max_tokens)
        kv_heads, head_dim = kv_shape(config)
        shape = (config.num_hidden_layers, num_slots, self.max_tokens, kv_heads, head_dim)
        stored = cache_dtype(dtype, device)
        self.keys = torch.zeros(shape, dtype=stored, device=device)
        self.values = torch.zeros(shape, dtype=stored, device=device)

    def write_prefix(self, slots: Tensor, prefix: "Prefix") -> None:
        """Copy a prefilled prompt into slots [n]."""
        for layer, (key, value) in enumerate(prefix.layers):
            self.keys[layer, slots, : key.shape[0]] = key.to(self.keys.dtype)
            self.values[layer, slots, : value.shape[0]] = value.to(self.values.dtype)

    def clear(self) -> None:
        """Zero everything: masked keys must stay finite, and those of broken weights may not be."""
        self.keys.zero_()
        self.values.zero_()


class Prefix:
    """Records keys and values [P, kv_heads, head_dim] of every layer while a prompt is attended."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """[1, heads, P, head_dim]; see Attend."""
        self.layers.append((key[0].transpose(0, 1), value[0].transpose(0, 1)))
        return self._attend(layer, query, key, value, scaling)


class BlockAttend:
    """One block of each slot: it sees the slot's clean blocks and itself.

    The block's own keys and values are written behind the clean ones at every forward; they count
    only once the block is complete and the slot's start moves past them. A commit is therefore
    nothing but the forward of a full block.
    """

    def __init__(self, cache: KVCache, starts: Tensor, block_size: int) -> None:
        """`starts` [S]: first position of each slot's block."""
        self._cache = cache
        ends = starts + block_size
        self._window = _whole_windows(int(ends.max()))
        self._mask = (torch.arange(self._window, device=starts.device) < ends[:, None])[
            :, None, None
        ]
        rows = torch.arange(starts.shape[0], device=starts.device) * cache.max_tokens
        offsets = torch.arange(block_size, device=starts.device)
        self._where = ((rows + starts)[:, None] + offsets).flatten()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """[S, heads, B, head_dim]; see Attend."""
        keys = self._written(self._cache.keys[layer], key)
        values = self._written(self._cache.values[layer], value)
        num, heads, length, width = query.shape
        # All queries of a slot see the same keys, so the query heads that share a key-value head
        # stand side by side.
        grouped = query.reshape(num, keys.shape[1], -1, width).to(keys.dtype)
        out = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self._mask, scale=scaling
        )
        return out.to(query.dtype).reshape(num, heads, length, width)

    def _written(self, cached: Tensor, new: Tensor) -> Tensor:
        """Write [S, kv_heads, B, head_dim] into [S, L, kv_heads, head_dim]; the window [S,
        kv_heads, W, head_dim].
        """
        cached.flatten(0, 1).index_copy_(
            0, self._where, new.transpose(1, 2).flatten(0, 1).to(cached.dtype)
        )
        return cached[:, : self._window].transpose(1, 2)


def kv_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """Key-value heads and head dimension."""
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return kv_heads, head_dim


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Keys and values stand ready in the precision in which attention is summed."""
    return wide_dtype(dtype) if device.type == "cpu" else dtype


def slot_bytes(config: PreTrainedConfig, max_tokens: int, dtype: torch.dtype) -> int:
    """Memory of one slot of a cache of that precision."""
    kv_heads, head_dim = kv_shape(config)
    layers: int = config.num_hidden_layers
    return 2 * layers * _whole_windows(max_tokens) * kv_heads * head_dim * dtype.itemsize


def _whole_windows(tokens: int) -> int:
    """Rounded up to whole steps of the attention window."""
    return -(-tokens // WINDOW_STEP) * WINDOW_STEP
