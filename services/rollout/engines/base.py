"""The interface of decoding engines.

Legend: P prompt tokens, R response tokens (P + R is a whole number of blocks).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from services.common.diffusion.config import DecodingConfig
from services.common.parity import DenoisingPath
from services.common.trajectory import Float32s, Int32s, Response


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A response to decode. Equal requests and weights give equal responses, independent of the batch."""

    request_id: str
    prompt_ids: Int32s
    """[P]"""
    decoding: DecodingConfig
    seed: int
    ledger_position: int
    response_index: int
    """With seed and ledger_position the key of the random numbers."""


@dataclass(frozen=True, kw_only=True)
class DenoisingEvent:
    """One denoising step of one response, for display."""

    request_id: str
    step: int
    token_ids: Int32s
    """Response tokens so far, in whole blocks; the mask id at masked positions."""
    committed: Int32s
    """Indices in token_ids that this step committed."""


class RolloutEngine(Protocol):
    """Continuous batching: requests are submitted, and `step` returns responses as they finish."""

    busy_s: float
    """Seconds spent in step() so far."""
    generated_tokens: int
    """Response tokens committed so far."""

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or being decoded."""

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue all requests, or none if one is invalid; raises PlatformError("invalid_request")."""

    def step(self) -> dict[str, Response]:
        """Run one forward for all requests in flight; return finished responses by request id."""

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        """Return log-probabilities [R] of given responses at temperature 1, of each token in the
        state before the step that committed it.

        Raises PlatformError("invalid_request") for a path that does not fit the model or the cache.
        """

    def abort_all(self) -> None:
        """Drop all requests, queued and in flight."""

    def sleep(self) -> None:
        """Free the memory of weights and cache until load_weights().

        Raises PlatformError("busy") while there is work.
        """

    def close(self) -> None:
        """Free all resources; the engine cannot be used afterwards."""

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights, given by checkpoint name.

        Raises PlatformError: "busy" while there is work, "model_invalid" if names or shapes
        differ from those of the model.
        """
