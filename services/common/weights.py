"""Weights on the wire: a state dict as a stream of a manifest, chunks of bytes, and a digest; and
back.

Tensors travel in the order of their names, as contiguous little-endian bytes without gaps. The
digest is sha256 over one header line per tensor (name, dtype, shape) followed by its bytes, so it
depends on the content alone: the same weights have the same digest in the learner, in a checkpoint
and in every replica.
"""

import hashlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.common.errors import PlatformError
from services.common.parity import ParityProbe, probe_to_pb
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc
from services.common.rpc.client import call, channel

MAX_CHUNK_BYTES: Final = 4 * 2**20
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}

if sys.byteorder != "little":
    raise RuntimeError("Weights travel as the memory's own bytes, which must be little-endian.")


def weight_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of a state dict. Raises PlatformError("invalid_request") for dtypes other than
    fp32, bf16, fp16.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_header(_spec(name, tensors[name])))
        digest.update(_bytes_of(tensors[name]))
    return digest.hexdigest()


@dataclass(frozen=True)
class WeightVersion:
    """One version of a job's weights, as it is sent."""

    job_id: str
    attempt: int
    number: int
    tensors: Mapping[str, Tensor]
    """They may lie on a device; one at a time is copied."""
    digest: Callable[[], str]
    """weight_digest of the tensors; asked for after the last of the data, so that it is computed
    once for several streams, while they flow.
    """
    probe: ParityProbe | None = None


def weight_chunks(version: WeightVersion) -> Iterator[rollout_pb2.WeightChunk]:
    """The stream of UpdateWeights: manifest, data of at most 4 MiB each, digest.

    Raises PlatformError like weight_digest, before the first chunk.
    """
    manifest = rollout_pb2.WeightManifest(
        job_id=version.job_id,
        attempt=version.attempt,
        weight_version=version.number,
        tensors=[_spec(name, version.tensors[name]) for name in sorted(version.tensors)],
        probe=None if version.probe is None else probe_to_pb(version.probe),
    )
    return _chunks(manifest, version)


def _chunks(
    manifest: rollout_pb2.WeightManifest, version: WeightVersion
) -> Iterator[rollout_pb2.WeightChunk]:
    yield rollout_pb2.WeightChunk(manifest=manifest)
    pieces: list[memoryview] = []
    free = MAX_CHUNK_BYTES
    for spec in manifest.tensors:
        data = _bytes_of(version.tensors[spec.name])
        while data:
            piece, data = data[:free], data[free:]
            pieces.append(piece)
            free -= len(piece)
            if free == 0:
                yield rollout_pb2.WeightChunk(data=b"".join(pieces))
                pieces, free = [], MAX_CHUNK_BYTES
    if pieces:
        yield rollout_pb2.WeightChunk(data=b"".join(pieces))
    yield rollout_pb2.WeightChunk(digest=version.digest())


def _spec(name: str, tensor: Tensor) -> rollout_pb2.TensorSpec:
    if tensor.dtype not in _NAMES:
        raise PlatformError(
            "invalid_request",
            f"Cannot send tensor {name!r} of dtype {tensor.dtype}; weights travel as one of {sorted(_DTYPES)}.",
        )
    return rollout_pb2.TensorSpec(
        name=name,
        dtype=_NAMES[tensor.dtype],
        shape=tensor.shape,
        num_bytes=tensor.numel() * tensor.element_size(),
    )


def _header(spec: rollout_pb2.TensorSpec) -> bytes:
    return f"{spec.name}\0{spec.dtype}\0{','.join(map(str, spec.shape))}\n".encode()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes in C order; no copy for contiguous CPU tensors."""
    flat = tensor.detach().to("cpu").reshape(-1)
    return flat.view(torch.uint8).numpy().data


class WeightAssembler:
    """Puts a stream of chunks together, into one buffer per tensor, checking as it goes.

    >>> assembler = WeightAssembler() >>> tensors = {"w": torch.ones(2)} >>> for chunk in
    weight_chunks(WeightVersion("job_1", 1, 7, tensors, lambda: weight_digest(tensors))): ...
    assembler.feed(chunk) >>> assembler.finish()[0]["w"] tensor([1., 1.])
    """

    def __init__(self) -> None:
        self._manifest: rollout_pb2.WeightManifest | None = None
        self._buffers: list[Tensor] = []
        self._hash = hashlib.sha256()
        self._sent_digest: str | None = None
        self._current = 0
        self._filled = 0

    @property
    def manifest(self) -> rollout_pb2.WeightManifest:
        """The first message. Raises PlatformError("invalid_request") before it came."""
        if self._manifest is None:
            raise PlatformError(
                "invalid_request",
                "A weight stream must begin with its manifest; it has none so far.",
            )
        return self._manifest

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.num_bytes for spec in self.manifest.tensors)

    def feed(self, chunk: rollout_pb2.WeightChunk) -> None:
        """Take the next message.

        Raises PlatformError: "invalid_request" for a manifest that contradicts itself or messages
        out of order, "weight_digest_mismatch" for more bytes than announced.
        """
        part = chunk.WhichOneof("part")
        if part == "manifest":
            self._begin(chunk.manifest)
        elif self._sent_digest is not None:
            raise PlatformError(
                "invalid_request", f"A weight stream ends with its digest; {part!r} came after it."
            )
        elif part == "data":
            self._fill(memoryview(chunk.data))
        elif part == "digest":
            _ = self.manifest  # refuses a digest before the manifest
            self._sent_digest = chunk.digest
        else:
            raise PlatformError(
                "invalid_request", "An empty message came in a weight stream; send each part set."
            )

    def finish(self) -> tuple[dict[str, Tensor], str]:
        """The tensors by name, and their digest.

        Raises PlatformError("weight_digest_mismatch") when bytes or the digest are missing or the
        digest differs.
        """
        specs = self.manifest.tensors
        if self._sent_digest is None or self._current < len(specs):
            at = (
                f"inside tensor {specs[self._current].name!r}"
                if self._current < len(specs)
                else "before the digest"
            )
            raise PlatformError(
                "weight_digest_mismatch",
                f"{self._title()} ended {at}; send the whole stream again.",
            )
        digest = self._hash.hexdigest()
        if digest != self._sent_digest:
            raise PlatformError(
                "weight_digest_mismatch",
                f"{self._title()} arrived with digest {digest}, the sender computed {self._sent_digest}; "
                "send the whole stream again.",
            )
        tensors = {
            spec.name: buffer.view(_DTYPES[spec.dtype]).reshape(tuple(spec.shape))
            for spec, buffer in zip(specs, self._buffers, strict=True)
        }
        return tensors, digest

    def _title(self) -> str:
        return f"Weight version {self.manifest.weight_version} of {self.manifest.job_id}"

    def _begin(self, manifest: rollout_pb2.WeightManifest) -> None:
        if self._manifest is not None:
            raise PlatformError(
                "invalid_request", "A weight stream has one manifest; a second one came."
            )
        _check_manifest(manifest)
        self._manifest = manifest
        self._buffers = [
            torch.empty(spec.num_bytes, dtype=torch.uint8) for spec in manifest.tensors
        ]
        self._enter_tensor()

    def _enter_tensor(self) -> None:
        """Hash the current tensor's header; step over tensors without elements."""
        specs = self.manifest.tensors
        while self._current < len(specs):
            self._hash.update(_header(specs[self._current]))
            if specs[self._current].num_bytes:
                return
            self._current += 1

    def _fill(self, data: memoryview) -> None:
        specs = self.manifest.tensors
        while data:
            if self._current == len(specs):
                raise PlatformError(
                    "weight_digest_mismatch",
                    f"{self._title()} has {len(data)} bytes more than the {self.num_bytes} its manifest announces.",
                )
            size = specs[self._current].num_bytes
            piece = data[: size - self._filled]
            self._hash.update(piece)
            _bytes_of(self._buffers[self._current])[self._filled : self._filled + len(piece)] = (
                piece
            )
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == size:
                self._current, self._filled = self._current + 1, 0
                self._enter_tensor()


def _check_manifest(manifest: rollout_pb2.WeightManifest) -> None:
    names = [spec.name for spec in manifest.tensors]
    if any(later <= earlier for earlier, later in itertools.pairwise(names)):
        raise PlatformError(
            "invalid_request", "A weight manifest must list every tensor once, in order of names."
        )
    for spec in manifest.tensors:
        if spec.dtype not in _DTYPES:
            raise PlatformError(
                "invalid_request",
                f"Tensor {spec.name!r} has dtype {spec.dtype!r}; weights travel as one of {sorted(_DTYPES)}.",
            )
        expected = math.prod(spec.shape) * _DTYPES[spec.dtype].itemsize
        if min(spec.shape, default=0) < 0 or spec.num_bytes != expected:
            raise PlatformError(
                "invalid_request",
                f"Tensor {spec.name!r} of shape {list(spec.shape)} and dtype {spec.dtype} takes {expected} bytes; "
                f"its manifest says {spec.num_bytes}.",
            )


def push_weights(
    address: str, version: WeightVersion, timeout_s: float
) -> rollout_pb2.UpdateWeightsResponse:
    """Send a version to the replica at host:port and wait until it is loaded.

    Raises PlatformError: the replica's own code ("stale_weights", "weight_digest_mismatch",
    "parity_violation", …), "rollout_unavailable" when it cannot be reached, "weight_sync_timeout"
    after `timeout_s` seconds.
    """
    with channel(address) as connection:
        return call(
            rollout_pb2_grpc.RolloutServiceStub(connection).UpdateWeights,
            weight_chunks(version),
            timeout_s=timeout_s,
            what=f"Sending weight version {version.number} of {version.job_id} to replica {address}",
            unavailable_code="rollout_unavailable",
            deadline_code="weight_sync_timeout",
        )
