"""Both ways of attending a packed row, against softmax under a dense mask."""

import pytest
import torch
from torch import Tensor

from services.common.errors import PlatformError
from services.common.model.attention import IMPLEMENTATION, FlexAttend
from services.common.model.attention_plan import CHUNK_TOKENS, Plan, cut_row
from services.common.model.document_attention import DocumentAttend
from services.common.model.forward import hidden_states
from services.common.model.index import RowIndex, visibility_mask
from tests.support.tiny_models import tiny_model

BLOCK = 4


def _document(number: int, num_tokens: int, states: list[tuple[int, int]]) -> RowIndex:
    """A clean copy and the noisy states (block, copy)."""
    clean = torch.arange(num_tokens)
    position = torch.cat(
        [clean, *(torch.arange(block * BLOCK, (block + 1) * BLOCK) for block, _ in states)]
    )
    copies = torch.tensor([copy for _, copy in states], dtype=torch.long).repeat_interleave(BLOCK)
    copy = torch.cat([torch.zeros_like(clean), copies])
    return RowIndex(position, position // BLOCK, copy, torch.full_like(position, number))


def _joined(documents: list[RowIndex]) -> RowIndex:
    fields = ("position", "block", "copy", "document")
    return RowIndex(
        *(torch.cat([getattr(document, field) for document in documents]) for field in fields)
    )


DOCUMENTS = [
    _document(3, 8, [(1, 1), (1, 2)]),
    _document(0, 40, [(4, 1), (9, 1), (9, 2), (9, 3)]),
    _document(7, 4, []),
    _document(1, 8, [(0, 1), (1, 1)]),
]


def _projections(num_tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Query of four heads, key and value of two, fp64."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(1, heads, num_tokens, 6, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def _dense(index: RowIndex, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    return scores.masked_fill(~visibility_mask(index, index), -torch.inf).softmax(
        -1
    ) @ v.repeat_interleave(2, 1)


LONG = _document(
    5, CHUNK_TOKENS + 40, [(block, copy) for block in range(30, 74) for copy in (1, 2)]
)
"""Three chunks' worth: the later ones see what precedes them as well."""


@pytest.mark.parametrize(
    "documents", [DOCUMENTS, [*DOCUMENTS, LONG, DOCUMENTS[0]]], ids=["short", "long"]
)
def test_documents_equal_softmax_under_the_dense_mask_with_gradients(
    documents: list[RowIndex],
) -> None:
    index = _joined(documents)
    projections = _projections(len(index))
    weight = torch.randn(1, 4, len(index), 6, dtype=torch.float64)

    ours, expected = DocumentAttend(index)(0, *projections, 0.3), _dense(index, *projections)

    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    gradients, expected_gradients = (
        torch.autograd.grad((out * weight).sum(), projections, retain_graph=True)
        for out in (ours, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


def test_documents_may_lie_interleaved_in_the_row() -> None:
    joined = _joined([*DOCUMENTS, LONG])
    order = torch.randperm(len(joined), generator=torch.Generator().manual_seed(1))
    index = RowIndex(
        joined.position[order], joined.block[order], joined.copy[order], joined.document[order]
    )
    projections = _projections(len(index))

    torch.testing.assert_close(
        DocumentAttend(index)(0, *projections, 0.3), _dense(index, *projections)
    )


def test_attention_over_fp32_is_summed_in_fp64_and_rounded_once() -> None:
    index = _joined([*DOCUMENTS, LONG])
    q, k, v = (tensor.detach().float() for tensor in _projections(len(index)))

    ours, expected = (
        DocumentAttend(index)(0, q, k, v, 0.3),
        _dense(index, q.double(), k.double(), v.double()).float(),
    )

    assert float((ours == expected).double().mean()) > 0.999
    torch.testing.assert_close(ours, expected, rtol=2e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_sees_what_the_documents_see() -> None:
    index = _joined(DOCUMENTS)
    q, k, v = (tensor.detach().float() for tensor in _projections(len(index)))

    ours = FlexAttend(index, compiled=False)(0, q, k, v, 0.3)

    torch.testing.assert_close(ours, _dense(index, q, k, v), rtol=1e-5, atol=1e-5)


def test_many_short_documents_cost_their_own_squares_only() -> None:
    many = _joined([_document(number, 8, []) for number in range(1000)])

    # A mask over the whole row would have 64 million entries.
    plan = Plan(many, cut_row(many), 4, 4, torch.float32)

    assert sum(bias.numel() for bias in plan.biases) == 1000 * 64
    assert plan.prefixes == []


def test_the_masks_of_a_long_document_grow_with_its_length_and_not_its_square() -> None:
    plan = Plan(LONG, cut_row(LONG), 4, 4, torch.float32)

    assert sum(bias.numel() for bias in plan.biases) <= len(LONG) * (CHUNK_TOKENS + 3 * BLOCK)
    assert len(plan.prefixes) == 2


@torch.no_grad()
def test_a_documents_hidden_states_do_not_depend_on_what_is_packed_beside_it() -> None:
    loaded = tiny_model()
    tokens = [
        torch.randint(0, 96, (len(d),), generator=torch.Generator().manual_seed(len(d)))
        for d in DOCUMENTS
    ]

    packed = hidden_states(loaded.model, torch.cat(tokens), _joined(DOCUMENTS))
    alone = [
        hidden_states(loaded.model, ids, document)
        for ids, document in zip(tokens, DOCUMENTS, strict=True)
    ]

    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_a_model_with_logit_softcapping_is_refused() -> None:
    loaded = tiny_model.__wrapped__()
    layer = loaded.model.model.layers[0].self_attn
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: forward(*args, **kwargs, softcap=30.0)

    with pytest.raises(PlatformError, match="softcap") as caught:
        hidden_states(loaded.model, torch.arange(4), RowIndex.clean(4, 4))

    assert caught.value.code == "model_invalid"
    assert loaded.model.config._attn_implementation == IMPLEMENTATION
