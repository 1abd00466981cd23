"""The parity probe: responses for which learner and replica must compute the same
log-probabilities.

It travels with the weights. A replica scores it by the path that decodes (prefill, cache, one block
after the other), the learner by the one that trains (packed rows), so weights, masks, positions or
arithmetic that differ between them show before a single trajectory is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.common.codec import pack_float32, pack_int32, unpack_float32, unpack_int32
from services.common.pb.dirl.v1 import rollout_pb2
from services.common.trajectory import Float32s, Int32s


@dataclass(frozen=True, kw_only=True)
class DenoisingPath:
    """A response and the order in which its tokens are committed."""

    prompt_ids: Int32s
    """[P]"""
    token_ids: Int32s
    """[R] whole blocks."""
    unmask_step: Int32s
    """[R] 1-based, counted over the response, without gaps."""


@dataclass(frozen=True, kw_only=True)
class ParityProbe:
    """Paths and what the learner computes for them."""

    paths: tuple[DenoisingPath, ...]
    logprobs: tuple[Float32s, ...]
    """[R] of each path, at temperature 1."""
    tolerance: float

    def gap(self, logprobs: Sequence[Float32s]) -> float:
        """Largest |difference| / max(1, |learner's|) of other log-probabilities; infinite when one is not a number."""
        ours, theirs = (
            np.concatenate(list(each)).astype(np.float64) for each in (self.logprobs, logprobs)
        )
        gap = float(np.max(np.abs(theirs - ours) / np.maximum(1.0, np.abs(ours))))
        return gap if np.isfinite(gap) else float("inf")


def probe_to_pb(probe: ParityProbe) -> rollout_pb2.ParityProbe:
    """Probe to its message."""
    items = [
        rollout_pb2.ProbeItem(
            prompt_ids=pack_int32(path.prompt_ids),
            token_ids=pack_int32(path.token_ids),
            unmask_step=pack_int32(path.unmask_step),
            logprobs=pack_float32(logprobs),
        )
        for path, logprobs in zip(probe.paths, probe.logprobs, strict=True)
    ]
    return rollout_pb2.ParityProbe(items=items, tolerance=probe.tolerance)


def probe_from_pb(message: rollout_pb2.ParityProbe) -> ParityProbe | None:
    """Message to probe; None without items."""
    if not message.items:
        return None
    paths = tuple(
        DenoisingPath(
            prompt_ids=unpack_int32(item.prompt_ids),
            token_ids=unpack_int32(item.token_ids),
            unmask_step=unpack_int32(item.unmask_step),
        )
        for item in message.items
    )
    logprobs = tuple(unpack_float32(item.logprobs) for item in message.items)
    return ParityProbe(paths=paths, logprobs=logprobs, tolerance=message.tolerance)
