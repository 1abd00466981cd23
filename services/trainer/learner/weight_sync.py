"""Publishing a weight version: the same tensors to every replica, in parallel, each transfer with
a deadline.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from services.common.errors import PlatformError
from services.common.parity import ParityProbe
from services.common.pb.dirl.v1 import rollout_pb2
from services.common.weights import WeightVersion, push_weights, weight_digest

_BASE_TIMEOUT_S: Final = 60.0
_SLOWEST_BYTES_PER_S: Final = 20e6


@dataclass(frozen=True)
class Publication:
    """Result of sending one version to the replicas."""

    weight_version: int
    weight_digest: str
    num_bytes: int
    """Bytes of one copy."""
    seconds: float
    loaded: tuple[str, ...]
    """Addresses that hold the version."""
    failed: dict[str, PlatformError]
    """Errors by address."""
    parity_gap: float | None = None
    """Largest one of the replicas that loaded the version; None without a probe."""


def publish(
    addresses: Sequence[str],
    job_id: str,
    attempt: int,
    weight_version: int,
    tensors: Mapping[str, Tensor],
    probe: ParityProbe | None = None,
) -> Publication:
    """Send a version to all addresses; a replica that fails is reported, never raised: others
    continue without it.

    A replica that answers with another digest than the sender's counts as failed
    (`weight_digest_mismatch`).
    """
    started = time.monotonic()
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    timeout_s = _BASE_TIMEOUT_S + num_bytes / _SLOWEST_BYTES_PER_S
    with ThreadPoolExecutor(max_workers=len(addresses) + 1, thread_name_prefix="publish") as pool:
        # Hashed while the first chunks are on the wire; the stream ends with the digest.
        digest = pool.submit(weight_digest, tensors)
        version = WeightVersion(job_id, attempt, weight_version, tensors, digest.result, probe)

        def send(address: str) -> rollout_pb2.UpdateWeightsResponse | PlatformError:
            try:
                answer = push_weights(address, version, timeout_s)
            except PlatformError as error:
                return error
            matches = answer.weight_digest == digest.result()
            return (
                answer if matches else _mismatch(address, weight_version, digest.result(), answer)
            )

        outcomes = dict(zip(addresses, pool.map(send, addresses), strict=True))
    failed = {
        address: answer for address, answer in outcomes.items() if isinstance(answer, PlatformError)
    }
    loaded = {
        address: answer
        for address, answer in outcomes.items()
        if not isinstance(answer, PlatformError)
    }
    return Publication(
        weight_version=weight_version,
        weight_digest=digest.result(),
        num_bytes=num_bytes,
        seconds=time.monotonic() - started,
        loaded=tuple(loaded),
        failed=failed,
        parity_gap=max(
            (each.parity_gap for each in loaded.values() if each.HasField("parity_gap")),
            default=None,
        ),
    )


def _mismatch(
    address: str, weight_version: int, digest: str, answer: rollout_pb2.UpdateWeightsResponse
) -> PlatformError:
    return PlatformError(
        "weight_digest_mismatch",
        f"Replica {address} holds weight version {weight_version} with digest {answer.weight_digest}, the learner's "
        f"is {digest}; both must be the same weights.",
    )
