"""Weights on the wire: the same bits arrive, or none."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import rollout_pb2
from services.common.weights import (
    MAX_CHUNK_BYTES,
    WeightAssembler,
    WeightVersion,
    weight_chunks,
    weight_digest,
)

TENSORS = {
    "b.bf16": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "a.fp32": torch.tensor([[1.0, float("inf")], [float("nan"), -0.0]]),
    "d.fp16": torch.arange(6, dtype=torch.float16).reshape(2, 3).T,
    "c.scalar": torch.tensor(2.5),
    "e.empty": torch.empty(0, 4),
}


def chunks_of(tensors: dict[str, Tensor]) -> list[rollout_pb2.WeightChunk]:
    return list(
        weight_chunks(WeightVersion("job_1", 1, 7, tensors, partial(weight_digest, tensors)))
    )


def assembled(chunks: list[rollout_pb2.WeightChunk]) -> tuple[dict[str, Tensor], str]:
    assembler = WeightAssembler()
    for chunk in chunks:
        assembler.feed(rollout_pb2.WeightChunk.FromString(chunk.SerializeToString()))
    return assembler.finish()


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return (
        tensor.dtype,
        tensor.shape,
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def code_of(chunks: list[rollout_pb2.WeightChunk]) -> str:
    with pytest.raises(PlatformError) as raised:
        assembled(chunks)
    return raised.value.code


def test_every_bit_of_every_dtype_arrives() -> None:
    tensors, digest = assembled(chunks_of(TENSORS))

    assert {name: bits(t) for name, t in tensors.items()} == {
        name: bits(t) for name, t in TENSORS.items()
    }
    assert digest == weight_digest(TENSORS)


_DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
_SHAPES = st.lists(st.integers(0, 5), max_size=3)


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    names = draw(
        st.lists(
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1), unique=True, max_size=4
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return {n: torch.randn(draw(_SHAPES), generator=generator).to(draw(_DTYPES)) for n in names}


@given(state_dicts())
def test_any_state_dict_arrives_whole(tensors: dict[str, Tensor]) -> None:
    received, digest = assembled(chunks_of(tensors))

    assert {name: bits(t) for name, t in received.items()} == {
        name: bits(t) for name, t in tensors.items()
    }
    assert digest == weight_digest(tensors)


def test_chunks_are_full_and_never_longer_than_four_mebibytes() -> None:
    large = {"a": torch.zeros(MAX_CHUNK_BYTES // 4 + 1), "b": torch.zeros(MAX_CHUNK_BYTES // 4 + 1)}

    sizes = [len(chunk.data) for chunk in chunks_of(large) if chunk.WhichOneof("part") == "data"]

    assert sizes == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 8]


def test_the_digest_tells_names_dtypes_shapes_and_bytes_apart() -> None:
    base = {"w": torch.zeros(4)}
    variants = [
        base,
        {"v": torch.zeros(4)},
        {"w": torch.zeros(8, dtype=torch.bfloat16)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {**base, "x": torch.empty(0)},
    ]

    assert len({weight_digest(variant) for variant in variants}) == len(variants)


def test_the_digest_does_not_depend_on_the_order_of_the_dict_or_on_strides() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    forwards = {"a": matrix, "b": torch.ones(1)}
    backwards = {"b": torch.ones(1), "a": matrix.T.contiguous().T}

    assert weight_digest(forwards) == weight_digest(backwards)


def test_a_flipped_bit_is_a_digest_mismatch() -> None:
    chunks = chunks_of(TENSORS)
    data = bytearray(chunks[1].data)
    data[5] ^= 1
    chunks[1] = rollout_pb2.WeightChunk(data=bytes(data))

    assert code_of(chunks) == "weight_digest_mismatch"


def test_missing_bytes_are_a_digest_mismatch_that_names_the_tensor() -> None:
    chunks = chunks_of(TENSORS)
    chunks[1] = rollout_pb2.WeightChunk(data=chunks[1].data[:-1])

    with pytest.raises(PlatformError, match=r"inside tensor 'd\.fp16'"):
        assembled(chunks)
    assert code_of(chunks) == "weight_digest_mismatch"


def test_more_bytes_than_announced_are_a_digest_mismatch() -> None:
    chunks = chunks_of(TENSORS)
    chunks.insert(2, rollout_pb2.WeightChunk(data=b"\0"))

    assert code_of(chunks) == "weight_digest_mismatch"


def test_a_stream_that_ends_without_its_digest_is_a_digest_mismatch() -> None:
    assert code_of(chunks_of(TENSORS)[:-1]) == "weight_digest_mismatch"


def permuted(manifest: rollout_pb2.WeightManifest) -> Iterator[rollout_pb2.WeightManifest]:
    """The manifest with one fault each."""
    for fault in ({"num_bytes": 1}, {"dtype": "int8"}, {"name": "z"}, {"shape": [-1, -2]}):
        faulty = rollout_pb2.WeightManifest.FromString(manifest.SerializeToString())
        faulty.tensors[0].MergeFrom(rollout_pb2.TensorSpec(**fault))
        yield faulty
    doubled = rollout_pb2.WeightManifest.FromString(manifest.SerializeToString())
    doubled.tensors.append(doubled.tensors[-1])
    yield doubled


def test_a_manifest_that_contradicts_itself_is_refused_before_any_byte() -> None:
    for manifest in permuted(chunks_of(TENSORS)[0].manifest):
        assert code_of([rollout_pb2.WeightChunk(manifest=manifest)]) == "invalid_request"


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1], [0, 0, 1, 2], [0, 1, 2, 1], [0, 1, 2, 2]])
def test_messages_out_of_order_are_refused(order: list[int]) -> None:
    chunks = chunks_of(TENSORS)

    assert code_of([chunks[i] for i in order]) == "invalid_request"


def test_an_empty_message_is_refused() -> None:
    assert code_of([chunks_of(TENSORS)[0], rollout_pb2.WeightChunk()]) == "invalid_request"


def test_an_empty_stream_is_refused() -> None:
    assert code_of([]) == "invalid_request"


def test_a_dtype_that_does_not_travel_is_refused_before_the_first_chunk() -> None:
    with pytest.raises(PlatformError, match=r"'w' of dtype torch\.int64"):
        chunks_of({"w": torch.zeros(1, dtype=torch.int64)})
