"""Generate responses to single requests of the playground, streamed block by block.

The model of a request stays loaded for the next one, and is freed when the replica is assigned to a
job.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, load_model
from services.common.model.prompts import encode_prompt
from services.common.telemetry.logs import get_logger
from services.common.trajectory import Int32s, Response
from services.rollout.engines.base import DenoisingEvent
from services.rollout.engines.torch_engine import TorchEngine
from services.rollout.playground_request import PlaygroundRequest, to_generation_request

_UNFINISHED: Final = "\ufffd"
"""Text that a tokenizer returns for an incomplete character."""

log = get_logger()


@dataclass(frozen=True)
class Piece:
    """Text added to the response."""

    text: str
    """Text of the blocks that were finished since the last piece."""
    finish_reason: str = ""
    """stop | length; in the last piece only."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_steps: int = 0
    """Denoising steps so far; in the last piece only, unless the request shows every step."""
    draft: tuple[str, ...] = ()
    """Text of every token of the block in progress, empty where masked, if the request shows steps."""


class Playground:
    """Processes one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[str, LoadedModel] | None = None

    def answer(
        self, model_path: str, request: PlaygroundRequest, timeout_s: float
    ) -> Iterator[Piece]:
        """The answer, piece by piece.

        Raises PlatformError: "model_invalid", "invalid_request", "busy" when earlier requests take
        longer than `timeout_s`.
        """
        if not self._lock.acquire(timeout=timeout_s):
            raise PlatformError(
                "busy", "The replica is processing other requests.", hint="Retry later."
            )
        try:
            yield from _generate(self._load(model_path), request)
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Free the model, after the current request has finished."""
        self._loaded = None

    def _load(self, path: str) -> LoadedModel:
        held = self._loaded
        if held is not None and held[0] == path:
            return held[1]
        cuda = torch.cuda.is_available()
        loaded = load_model(path, "bfloat16" if cuda else "float32", "cuda" if cuda else "cpu")
        self._loaded = (path, loaded)
        log.info("playground model loaded", path=path)
        return loaded


def _generate(loaded: LoadedModel, request: PlaygroundRequest) -> Iterator[Piece]:
    prompt = _encode(loaded, request)
    generation = to_generation_request(loaded, prompt, request)
    seen: list[DenoisingEvent] = []
    needed = len(prompt) + request.max_new_tokens
    engine = TorchEngine(loaded, max_sequence_tokens=needed, max_batch_size=1, on_step=seen.append)
    engine.submit([generation])
    sent, finished = "", dict[str, Response]()
    while not finished:
        steps_before = len(seen)
        finished = engine.step()
        text = (
            _decode(loaded, _finished_blocks(loaded, prompt, seen[-1])[: request.max_new_tokens])
            if seen
            else ""
        )
        # More tokens may change the decoded text before them, and sent text cannot be taken back.
        added = text[len(sent) :] if text.startswith(sent) else ""
        has_update = bool(added) or (request.shows_steps and len(seen) > steps_before)
        if has_update and not finished:
            yield (
                _make_piece(loaded, prompt, seen[-1], added)
                if request.shows_steps
                else Piece(added)
            )
            sent += added
    [response] = finished.values()
    visible = min(
        response.visible_len, request.max_new_tokens
    )  # the last block may exceed the budget
    whole = _decode(loaded, response.token_ids[:visible], cut=False)
    yield Piece(
        text=whole[len(sent) :],
        finish_reason=response.finish_reason.value,
        prompt_tokens=len(prompt),
        completion_tokens=visible,
        num_steps=response.num_steps,
    )


def _encode(loaded: LoadedModel, request: PlaygroundRequest) -> list[int]:
    """Encode turns, or a text; raises PlatformError("invalid_request").

    No turn may hold the text of a special token: it would end the turn and speak for another role.
    A text without a template may, except for the mask.
    """
    if not request.messages:
        ids: list[int] = loaded.tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        if loaded.mask_token_id in ids:
            raise PlatformError(
                "invalid_request",
                f"The prompt has the mask token at position {ids.index(loaded.mask_token_id)} of its tokens.",
                hint="Remove it: a prompt has no position to be filled in.",
            )
        return ids
    special = loaded.special_tokens
    for number, turn in enumerate(request.messages):
        if (token := special.find_in(turn["content"])) is not None:
            raise PlatformError(
                "invalid_request",
                f"messages[{number}].content has {token!r}, which the tokenizer reads as one token and not as text.",
                hint="Remove it; the chat template adds the tokens of a turn.",
            )
    return encode_prompt(loaded.tokenizer, [dict(turn) for turn in request.messages])


def _make_piece(loaded: LoadedModel, prompt: list[int], event: DenoisingEvent, added: str) -> Piece:
    """Create a piece with the state of the block in progress."""
    open_from = _first_masked_block(loaded, prompt, event.token_ids)
    draft = event.token_ids[open_from:].tolist()
    texts = (
        "" if token == loaded.mask_token_id else str(loaded.tokenizer.decode([token]))
        for token in draft
    )
    return Piece(added, num_steps=event.step, draft=tuple(texts))


def _finished_blocks(loaded: LoadedModel, prompt: list[int], event: DenoisingEvent) -> Int32s:
    """Tokens of the blocks without a mask, up to the first stop token.

    The block grid starts with the prompt, so the first block of the response may contain prompt tokens.
    """
    token_ids = event.token_ids
    end = _first_masked_block(loaded, prompt, token_ids)
    stops = [
        place
        for place, token in enumerate(token_ids[:end].tolist())
        if token in loaded.stop_token_ids
    ]
    return token_ids[: stops[0] if stops else end]


def _first_masked_block(loaded: LoadedModel, prompt: list[int], token_ids: Int32s) -> int:
    """Return the index of the first block with a mask; the length if there is none."""
    masked = (token_ids == loaded.mask_token_id).nonzero()[0]
    if not len(masked):
        return len(token_ids)
    first = int(masked[0])
    return max(0, first - (len(prompt) + first) % loaded.block_size)


def _decode(loaded: LoadedModel, token_ids: Int32s, *, cut: bool = True) -> str:
    """Decode without special tokens; `cut` removes an incomplete last character."""
    text = str(loaded.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))
    return text.rstrip(_UNFINISHED) if cut else text
