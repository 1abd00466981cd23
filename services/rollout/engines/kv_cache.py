"""KV cache of the clean blocks of every slot, and the attention that reads and writes it.

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
"""Attention reads a multiple of this many positions. Whole vectors of masked zeros do not change the
order of a sum, so the rounding errors of a response do not depend on the lengths of other responses.
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
        self.max_tokens = _round_up_to_window(max_tokens)
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
        """Zero the cache. Masked keys must be finite, since 0 · inf is NaN, and broken weights may give inf."""
        self.keys.zero_()
        self.values.zero_()


class Prefix:
    """Records keys and values [P, kv_heads, head_dim] of every layer during a prefill."""

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
    """Attention of the current block of each slot to the clean blocks of the slot and to itself.

    Every forward writes the keys and values of the block after the clean ones, where the next
    forward overwrites them. They become part of the cache when the block is complete and the start
    of the slot moves past them, so caching a block needs no extra code, only its last forward.
    """

    def __init__(self, cache: KVCache, starts: Tensor, block_size: int) -> None:
        """`starts` [S] are the first positions of the blocks."""
        self._cache = cache
        ends = starts + block_size
        # Only as far as the longest response: attention over the whole cache would cost max_tokens.
        self._window = _round_up_to_window(int(ends.max()))
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
        keys = self._write(self._cache.keys[layer], key)
        values = self._write(self._cache.values[layer], value)
        num, heads, length, width = query.shape
        # All queries of a slot see the same keys, so query heads that share a key-value head can be
        # additional queries of it, which avoids repeating keys and values.
        grouped = query.reshape(num, keys.shape[1], -1, width).to(keys.dtype)
        out = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self._mask, scale=scaling
        )
        return out.to(query.dtype).reshape(num, heads, length, width)

    def _write(self, cached: Tensor, new: Tensor) -> Tensor:
        """Write [S, kv_heads, B, head_dim] to the cache; return the window [S, kv_heads, W, head_dim]."""
        cached.flatten(0, 1).index_copy_(
            0, self._where, new.transpose(1, 2).flatten(0, 1).to(cached.dtype)
        )
        return cached[:, : self._window].transpose(1, 2)


def kv_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the number of key-value heads and the head dimension."""
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return kv_heads, head_dim


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which attention is summed, so that cached values need no conversion."""
    return wide_dtype(dtype) if device.type == "cpu" else dtype


def slot_bytes(config: PreTrainedConfig, max_tokens: int, dtype: torch.dtype) -> int:
    """Return the memory of one slot of a cache."""
    kv_heads, head_dim = kv_shape(config)
    layers: int = config.num_hidden_layers
    return 2 * layers * _round_up_to_window(max_tokens) * kv_heads * head_dim * dtype.itemsize


def _round_up_to_window(tokens: int) -> int:
    """Round up to a multiple of WINDOW_STEP."""
    return -(-tokens // WINDOW_STEP) * WINDOW_STEP
