"""Attention of packed rows, registered with transformers as an attention implementation.

Transformers passes every extra keyword of a model's forward to the attention function. The keyword
`attend` carries an object that knows which keys a query sees: `packed_attention(index)` for packed
rows, or the KV cache of the rollout engine.
"""

import functools
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface

from services.common.errors import PlatformError
from services.common.model.document_attention import DocumentAttend
from services.common.model.index import RowIndex, is_visible

IMPLEMENTATION: Final = "block_diffusion"
"""Name under which the attention function is registered with transformers."""

LENGTH_BUCKET: Final = 512
"""Tokens; a multiple of the 128 tokens of a FlexAttention block. Padding attends to padding only."""

UNSUPPORTED_OPTIONS: Final = ("softcap", "s_aux", "sliding_window")


class Attend(Protocol):
    """Attention of one layer."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Attend.

        query [N, heads, T, D], key and value [N, kv_heads, T, D], after rotary embedding; returns
        [N, heads, T, D].
        """


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    attend: Attend,
    scaling: float,
    **options: Any,
) -> tuple[Tensor, None]:
    """Adapt `attend` to the signature of transformers, which expects [N, T, heads, D]."""
    unsupported = [name for name in UNSUPPORTED_OPTIONS if options.get(name) is not None]
    if unsupported:
        raise PlatformError(
            "model_invalid",
            f"The attention of the model uses {', '.join(unsupported)}, which block-diffusion attention lacks.",
            hint="Use a decoder with plain softmax attention over all earlier positions (Qwen3, Llama).",
        )
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types every attribute as Tensor | Module
    # Under autocast the rotary embedding leaves query and key in fp32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return attend(layer, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, _attention)


def packed_attention(index: RowIndex) -> Attend:
    """Return the attention over one packed row: FlexAttention on CUDA, document by document elsewhere."""
    return FlexAttend(index, compiled=True) if index.position.is_cuda else DocumentAttend(index)


def row_padding(length: int, device: torch.device) -> int:
    """Number of padding positions that the attention of a packed row computes."""
    return -length % LENGTH_BUCKET if device.type == "cuda" else 0


class FlexAttend:
    """FlexAttention with the index-vector mask, which is built once per row for all layers.

    Rows are padded to a multiple of LENGTH_BUCKET, so that the kernels see few different lengths.
    `compiled` is False only in comparisons with the SDPA path.
    """

    def __init__(self, index: RowIndex, *, compiled: bool) -> None:
        self._length, self._padding = len(index), -len(index) % LENGTH_BUCKET
        # -1 differs from every index, so no token attends to padding, and padding attends to itself: a
        # row of the softmax without any key would be NaN.
        block, copy, document = (F.pad(field, (0, self._padding), value=-1)
                                 for field in (index.block, index.copy, index.document))  # fmt: skip

        def mask_mod(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return is_visible(block[q], copy[q], document[q], block[k], copy[k], document[k])

        self._flex_attention = _compile_once(flex_attention) if compiled else flex_attention
        make_mask = _compile_once(create_block_mask) if compiled else create_block_mask
        self._block_mask = make_mask(
            mask_mod, None, None, len(block), len(block), device=block.device
        )

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """[1, heads, T, D]; see Attend."""
        query, key, value = (
            F.pad(tensor, (0, 0, 0, self._padding)) for tensor in (query, key, value)
        )
        out: Tensor = self._flex_attention(
            query,
            key,
            value,
            block_mask=self._block_mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out[:, :, : self._length]


@functools.cache
def _compile_once(function: Any) -> Any:
    """Compile once per process; shapes are dynamic, because row lengths differ between calls."""
    return torch.compile(function, dynamic=True)
