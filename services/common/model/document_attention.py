"""Attention of packed rows on a CPU: the SDPA kernel where the predicate allows, and nowhere else.

A document is cut into chunks of whole blocks, each with the states of its blocks. A chunk's tokens
attend to the chunk itself under the predicate's mask, and to every clean token before the chunk
without one; the two softmaxes are merged by their log-sum-exps. So the cost is that of the visible
pairs, and masks grow linearly with a document's length.

The gradient of a part of a softmax needs the output and log-sum-exp of the whole, no more:
FlashAttention's backward (arXiv 2205.14135, appendix B.2), which the kernel offers as an operator
of its own.

Legend: T tokens of a row, H heads, G key-value heads, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.common.model.attention_plan import Plan, cut
from services.common.model.index import RowIndex

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which attention over fp32 operands is summed on a CPU: fp64, rounded at the end.

    The rollout engine and the learner sum over the same keys in different orders; in fp32 their
    log-probabilities would differ by rounding, rarely but without bound over a long job. In fp64
    what is left rounds away.
    """
    return torch.float64 if dtype == torch.float32 else dtype


class DocumentAttend:
    """Attention over one row; built once, called by every layer. See
    services.common.model.attention.Attend.
    """

    def __init__(self, index: RowIndex) -> None:
        self._index, self._chunks = index, cut(index)
        self._plan: Plan | None = None

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """[1, H, T, D]; see Attend."""
        heads, groups = query.shape[1], key.shape[1]
        if self._plan is None:
            self._plan = Plan(self._index, self._chunks, heads, groups, wide_dtype(query.dtype))
        rows = (tensor[0].transpose(0, 1).flatten(0, 1) for tensor in (query, key, value))
        out: Tensor = _DocumentAttention.apply(*rows, self._plan, scaling)  # type: ignore[no-untyped-call]
        return out.view(-1, heads, out.shape[-1]).transpose(0, 1)[None]


class _DocumentAttention(torch.autograd.Function):
    """Queries [T · H, D], keys and values [T · G, D] to [T · H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        laid = plan.queries.laid(q), plan.keys.laid(k), plan.keys.laid(v)
        wide = tuple(each.to(plan.dtype) for each in laid)
        queries, keys, values = plan.split(*wide)
        parts = [
            _attend(*operands, attn_mask=bias, scale=scale)
            for *operands, bias in zip(queries, keys, values, plan.biases, strict=True)
        ]
        outs, masses = zip(*parts, strict=True)
        if plan.prefixes:
            _merge_prefixes(plan, queries, wide[1:], outs, masses, scale)
        if (
            plan.dtype != q.dtype
        ):  # of bf16 operands the kernel's log-sum-exps are fp32, and stay so
            outs, masses = (tuple(part.to(q.dtype) for part in each) for each in (outs, masses))
        ctx.save_for_backward(*laid, *outs, *masses)
        ctx.plan, ctx.scale = plan, scale
        return plan.queries.back(_flat(outs))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        q, k, v, *whole = (
            ctx.saved_tensors
        )  # once: with activation checkpointing each access computes them anew
        queries, keys, values = plan.split(q, k, v)
        given = plan.queries.split(plan.queries.laid_without_padding(grad))
        outs, masses = whole[: len(given)], whole[len(given) :]
        parts = [
            _attend_backward(*operands, 0.0, False, attn_mask=bias.to(q.dtype), scale=ctx.scale)
            for *operands, bias in zip(
                given, queries, keys, values, outs, masses, plan.biases, strict=True
            )
        ]
        grads = tuple(_flat(each) for each in zip(*parts, strict=True))
        if plan.prefixes:
            softmaxes = list(zip(given, queries, outs, masses, strict=True))
            _add_gradients_of_prefixes(plan, softmaxes, (k, v), grads, ctx.scale)
        return (
            plan.queries.back(grads[0]),
            plan.keys.back(grads[1]),
            plan.keys.back(grads[2]),
            None,
            None,
        )


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """Buckets [n, G, Q, D] to all their rows [·, D]."""
    return torch.cat([part.flatten(0, 2) for part in parts])


def _merge_prefixes(
    plan: Plan,
    queries: Sequence[Tensor],
    keys_values: Sequence[Tensor],
    outs: Sequence[Tensor],
    masses: Sequence[Tensor],
    scale: float,
) -> None:
    """Extend outputs and log-sum-exps over the chunks themselves, in place, to what precedes the
    chunks.
    """
    keys, values = (laid[plan.clean][None] for laid in keys_values)
    for prefix in plan.prefixes:
        query, out, mass = (parts[prefix.bucket][prefix.place] for parts in (queries, outs, masses))
        part, part_mass = _attend(
            query, keys[:, :, prefix.clean], values[:, :, prefix.clean], scale=scale
        )
        out.lerp_(part, torch.sigmoid(part_mass - mass)[..., None])
        mass.copy_(torch.logaddexp(mass, part_mass))


def _add_gradients_of_prefixes(
    plan: Plan,
    softmaxes: Sequence[tuple[Tensor, ...]],
    keys_values: Sequence[Tensor],
    grads: Sequence[Tensor],
    scale: float,
) -> None:
    """Add the prefixes' share to the laid-out gradients of queries, keys and values.

    `softmaxes` are, for each bucket, the gradient given, the queries, the output and the
    log-sum-exp.
    """
    keys, values = (laid[plan.clean][None] for laid in keys_values)
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    grad_queries = plan.queries.split(grads[0])
    for prefix in plan.prefixes:
        given, query, out, mass = (tensor[prefix.place] for tensor in softmaxes[prefix.bucket])
        operands = (given, query, keys[:, :, prefix.clean], values[:, :, prefix.clean], out, mass)
        parts = _attend_backward(*operands, 0.0, False, scale=scale)
        grad_queries[prefix.bucket][prefix.place] += parts[0]
        grad_keys[:, :, prefix.clean] += parts[1]
        grad_values[:, :, prefix.clean] += parts[2]
    grads[1][plan.clean] += grad_keys[0]
    grads[2][plan.clean] += grad_values[0]
