"""Checks of requests and of the state of an engine."""

from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel
from services.common.trajectory import Int32s
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.slots import last_position


def require_fits(request: GenerationRequest, loaded: LoadedModel, max_tokens: int) -> None:
    """Raise PlatformError("invalid_request") for another block size or mask id, an id outside the
    vocabulary, or too many tokens.
    """
    config = request.decoding
    if (config.block_size, config.mask_token_id) != (loaded.block_size, loaded.mask_token_id):
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} has block size {config.block_size} and mask id "
            f"{config.mask_token_id}; the model has {loaded.block_size} and {loaded.mask_token_id}.",
        )
    require_known_ids(request.prompt_ids, loaded)
    needed = last_position(request, loaded.block_size)
    if needed > max_tokens:
        raise PlatformError(
            "invalid_request",
            f"Request {request.request_id} needs {needed} tokens (a prompt of {len(request.prompt_ids)} and "
            f"up to {config.max_new_tokens} new ones, in whole blocks); the limit of the engine is {max_tokens}.",
            hint="Shorten the prompt, lower max_new_tokens, or raise the sequence length.",
        )


def require_known_ids(token_ids: Int32s, loaded: LoadedModel) -> None:
    """Raise PlatformError("invalid_request") for an id without a row in the embedding: a GPU would
    stop at an assertion and lose the process.
    """
    rows = len(loaded.sampleable)
    unknown = token_ids[(token_ids < 0) | (token_ids >= rows)]
    if len(unknown):
        raise PlatformError(
            "invalid_request",
            f"Token id {unknown[0]} is outside the vocabulary: the model has the ids 0 to {rows - 1}.",
            hint="Encode the prompt with the tokenizer of this model.",
        )


def require_awake(asleep: bool) -> None:
    """Raise PlatformError("busy") if the engine sleeps."""
    if asleep:
        raise PlatformError(
            "busy",
            "Cannot decode: the engine sleeps.",
            hint="Load weights first, which wakes it.",
        )


def require_idle(has_work: bool, action: str) -> None:
    """Raise PlatformError("busy") while responses are being decoded."""
    if has_work:
        raise PlatformError(
            "busy",
            f"Cannot {action} while responses are being decoded; each response has one weight version.",
            hint="Finish or abort them first.",
        )
