"""Attention of packed rows on a CPU with the SDPA kernel, which computes only visible pairs.

A document is cut into chunks of whole blocks, including the noisy states of these blocks. The
tokens of a chunk attend to the chunk under the mask, and to every clean token before the chunk
without a mask; the two softmaxes are merged with their log-sum-exps. The cost is therefore that of
the visible pairs, and the size of the masks is linear in the length of a document.

The gradient of a part of a softmax needs only the output and the log-sum-exp of the whole
(FlashAttention, arXiv 2205.14135, appendix B.2). The kernel offers this backward as an operator.

Legend: T tokens of a row, H heads, G key-value heads, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.common.model.attention_plan import Plan, cut_row
from services.common.model.index import RowIndex

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which attention is summed on a CPU: fp64 for fp32 operands.

    The rollout engine and the learner sum over the same keys in different orders. In fp32 their
    log-probabilities would differ by rounding, rarely but by unbounded amounts over a long job. In
    fp64 the difference disappears when the result is rounded to fp32.
    """
    return torch.float64 if dtype == torch.float32 else dtype


class DocumentAttend:
    """Attention over one row, built once for all layers (see services.common.model.attention)."""

    def __init__(self, index: RowIndex) -> None:
        self._index, self._chunks = index, cut_row(index)
        self._plan: Plan | None = None

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """[1, H, T, D]; see Attend."""
        heads, groups = query.shape[1], key.shape[1]
        # Built at the first call, which knows the number of heads and the dtype.
        if self._plan is None:
            self._plan = Plan(self._index, self._chunks, heads, groups, wide_dtype(query.dtype))
        rows = (tensor[0].transpose(0, 1).flatten(0, 1) for tensor in (query, key, value))
        out: Tensor = _DocumentAttention.apply(*rows, self._plan, scaling)  # type: ignore[no-untyped-call]
        return out.view(-1, heads, out.shape[-1]).transpose(0, 1)[None]


class _DocumentAttention(torch.autograd.Function):
    """Attention of queries [T · H, D] to keys and values [T · G, D]; returns [T · H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        batched = plan.queries.scatter(q), plan.keys.scatter(k), plan.keys.scatter(v)
        wide = tuple(each.to(plan.dtype) for each in batched)
        queries, keys, values = plan.split(*wide)
        parts = [
            _attend(*operands, attn_mask=bias, scale=scale)
            for *operands, bias in zip(queries, keys, values, plan.biases, strict=True)
        ]
        outs, log_sums = zip(*parts, strict=True)
        if plan.prefixes:
            _merge_prefixes(plan, queries, wide[1:], outs, log_sums, scale)
        # For bf16 operands the log-sum-exps of the kernel are fp32 and must not be rounded.
        if plan.dtype != q.dtype:
            outs, log_sums = (tuple(part.to(q.dtype) for part in each) for each in (outs, log_sums))
        ctx.save_for_backward(*batched, *outs, *log_sums)
        ctx.plan, ctx.scale = plan, scale
        return plan.queries.gather(_flatten(outs))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        # Read once: with activation checkpointing, each access recomputes the forward.
        q, k, v, *whole = ctx.saved_tensors
        queries, keys, values = plan.split(q, k, v)
        # Zero gradients for padded queries, so that they add nothing to the gradients of keys and values.
        given = plan.queries.split(plan.queries.scatter_zero_padded(grad))
        outs, log_sums = whole[: len(given)], whole[len(given) :]
        parts = [
            _attend_backward(*operands, 0.0, False, attn_mask=bias.to(q.dtype), scale=ctx.scale)
            for *operands, bias in zip(
                given, queries, keys, values, outs, log_sums, plan.biases, strict=True
            )
        ]
        grads = tuple(_flatten(each) for each in zip(*parts, strict=True))
        if plan.prefixes:
            softmaxes = list(zip(given, queries, outs, log_sums, strict=True))
            _add_prefix_gradients(plan, softmaxes, (k, v), grads, ctx.scale)
        return (
            plan.queries.gather(grads[0]),
            plan.keys.gather(grads[1]),
            plan.keys.gather(grads[2]),
            None,
            None,
        )


def _flatten(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate buckets [n, G, Q, D] to rows [·, D]."""
    return torch.cat([part.flatten(0, 2) for part in parts])


def _merge_prefixes(
    plan: Plan,
    queries: Sequence[Tensor],
    keys_values: Sequence[Tensor],
    outs: Sequence[Tensor],
    log_sums: Sequence[Tensor],
    scale: float,
) -> None:
    """Merge the attention to the prefixes into outputs and log-sum-exps of the chunks, in place."""
    keys, values = (batched[plan.clean][None] for batched in keys_values)
    for prefix in plan.prefixes:
        query, out, log_sum = (
            parts[prefix.bucket][prefix.place] for parts in (queries, outs, log_sums)
        )
        part, part_log_sum = _attend(
            query, keys[:, :, prefix.clean], values[:, :, prefix.clean], scale=scale
        )
        # The weight of a part is exp(its log-sum-exp) over that of both, which is a sigmoid of the
        # difference and cannot overflow.
        out.lerp_(part, torch.sigmoid(part_log_sum - log_sum)[..., None])
        log_sum.copy_(torch.logaddexp(log_sum, part_log_sum))


def _add_prefix_gradients(
    plan: Plan,
    softmaxes: Sequence[tuple[Tensor, ...]],
    keys_values: Sequence[Tensor],
    grads: Sequence[Tensor],
    scale: float,
) -> None:
    """Add the contribution of the prefixes to the batched gradients of queries, keys and values.

    `softmaxes` has, for each bucket, the incoming gradient, the queries, the output and the
    log-sum-exp.
    """
    keys, values = (batched[plan.clean][None] for batched in keys_values)
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    grad_queries = plan.queries.split(grads[0])
    for prefix in plan.prefixes:
        given, query, out, log_sum = (tensor[prefix.place] for tensor in softmaxes[prefix.bucket])
        operands = (
            given,
            query,
            keys[:, :, prefix.clean],
            values[:, :, prefix.clean],
            out,
            log_sum,
        )
        parts = _attend_backward(*operands, 0.0, False, scale=scale)
        grad_queries[prefix.bucket][prefix.place] += parts[0]
        grad_keys[:, :, prefix.clean] += parts[1]
        grad_values[:, :, prefix.clean] += parts[2]
    grads[1][plan.clean] += grad_keys[0]
    grads[2][plan.clean] += grad_values[0]
