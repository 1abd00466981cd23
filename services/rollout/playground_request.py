"""Requests of the playground, which belong to no job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.rollout.engines.base import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class PlaygroundRequest:
    """Prompt and decoding parameters; the block length is that of the model."""

    messages: Sequence[Mapping[str, str]] = ()
    """Turns for the chat template; empty if `prompt` is set."""
    prompt: str = ""
    """Text to continue, without a chat template."""
    max_new_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    confidence_threshold: float
    """Positions at least this confident are committed."""
    seed: int
    shows_steps: bool = False
    """Whether to send a piece after every denoising step."""


def to_generation_request(
    loaded: LoadedModel, prompt_ids: Sequence[int], request: PlaygroundRequest
) -> GenerationRequest:
    """Convert to a request with threshold decoding; raises PlatformError("invalid_request")."""
    try:
        decoding = DecodingConfig(
            block_size=loaded.block_size,
            denoising_steps=loaded.block_size,
            unmasking_strategy=UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
            confidence_threshold=request.confidence_threshold,
            entropy_bound=0.0,
            selection=Selection.MAX,
            mask_token_id=loaded.mask_token_id,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=0,
            max_new_tokens=request.max_new_tokens,
            stop_token_ids=loaded.stop_token_ids,
        )
    except ValueError as error:
        raise PlatformError("invalid_request", f"Invalid decoding parameters: {error}") from error
    return GenerationRequest(
        request_id="playground",
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        decoding=decoding,
        seed=request.seed,
        ledger_position=0,
        response_index=0,
    )
