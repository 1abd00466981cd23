"""A single question to a model, apart from any job: what is asked, as a request of the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.rollout.engines.base import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class PlaygroundRequest:
    """What is asked, and how the answer is decoded; the block grid is the model's own."""

    messages: Sequence[Mapping[str, str]] = ()
    """Turns for the chat template; empty when `prompt` is given."""
    prompt: str = ""
    """Text to be continued as it stands."""
    max_new_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    confidence_threshold: float
    """Positions at least this confident are committed."""
    seed: int
    shows_steps: bool = False
    """Whether a piece is wanted after every denoising step."""


def request_of(
    loaded: LoadedModel, prompt_ids: Sequence[int], question: PlaygroundRequest
) -> GenerationRequest:
    """Threshold decoding with the model's own block grid; raises PlatformError("invalid_request")."""
    try:
        decoding = DecodingConfig(
            block_size=loaded.block_size,
            denoising_steps=loaded.block_size,
            unmasking_strategy=UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
            confidence_threshold=question.confidence_threshold,
            entropy_bound=0.0,
            selection=Selection.MAX,
            mask_token_id=loaded.mask_token_id,
            temperature=question.temperature,
            top_p=question.top_p,
            top_k=0,
            max_new_tokens=question.max_new_tokens,
            stop_token_ids=loaded.stop_token_ids,
        )
    except ValueError as error:
        raise PlatformError("invalid_request", f"The question was not decoded: {error}") from error
    return GenerationRequest(
        request_id="answer",
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        decoding=decoding,
        seed=question.seed,
        ledger_position=0,
        response_index=0,
    )
