"""What a decoding engine takes and gives, whatever runs underneath.

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
    """One response to be decoded. Equal requests under equal weights give equal responses, whatever
    runs beside.
    """

    request_id: str
    prompt_ids: Int32s
    """[P]"""
    decoding: DecodingConfig
    seed: int
    ledger_position: int
    response_index: int
    """With seed and ledger_position the key of the randomness."""


@dataclass(frozen=True, kw_only=True)
class DenoisingEvent:
    """One denoising step of one response, for display."""

    request_id: str
    step: int
    token_ids: Int32s
    """Response tokens so far, whole blocks; the mask id where nothing is committed yet."""
    committed: Int32s
    """Offsets into token_ids of what this step committed."""


class RolloutEngine(Protocol):
    """Continuous batching: requests are submitted, steps are made, responses come back in the order
    they finish.
    """

    busy_s: float
    """Seconds spent in step() so far."""
    generated_tokens: int
    """Response tokens committed so far."""

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or being decoded."""

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue requests; raises PlatformError("invalid_request"), and then queues none, if one
        cannot be served.
        """

    def step(self) -> dict[str, Response]:
        """One forward for everything in flight; the responses that it finished, by request id."""

    def replay(self, paths: Sequence[DenoisingPath]) -> list[Float32s]:
        """Log-probabilities [R] of given responses at temperature 1, each token in the state it is
        committed from.

        Raises PlatformError("invalid_request") for a path that does not fit the model or the cache.
        """

    def abort_all(self) -> None:
        """Forget everything queued and in flight."""

    def sleep(self) -> None:
        """Give the memory of weights and cache back until load_weights(); nothing is decoded
        meanwhile.

        Raises PlatformError("busy") while there is work.
        """

    def close(self) -> None:
        """Give back what the engine holds beside memory of its own; it is not used again."""

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights, given by checkpoint name.

        Raises PlatformError: "busy" while there is work, "model_invalid" when names or shapes are
        not the model's.
        """
