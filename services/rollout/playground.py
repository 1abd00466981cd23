"""Answers to single questions, for people who look at a model: decoded beside no job, streamed
block by block.

The model of a question stays loaded for the next one and is dropped when the replica is assigned to
a job.
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
from services.rollout.playground_request import PlaygroundRequest, request_of

_UNFINISHED: Final = "\ufffd"
"""What a tokenizer gives for the first bytes of a character."""

log = get_logger()


@dataclass(frozen=True)
class Piece:
    """What was added to the answer."""

    text: str
    """Of the blocks that were finished since the last piece."""
    finish_reason: str = ""
    """stop | length; of the last piece only."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_steps: int = 0
    """Denoising steps of the whole answer; of the last piece only, unless the question wants every
    step.
    """
    draft: tuple[str, ...] = ()
    """Text of every token behind what was said, empty where it is still masked; where the question
    wants steps.
    """


class Playground:
    """One question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[str, LoadedModel] | None = None

    def answer(
        self, model_path: str, question: PlaygroundRequest, timeout_s: float
    ) -> Iterator[Piece]:
        """The answer, piece by piece.

        Raises PlatformError: "model_invalid", "invalid_request", "busy" when earlier questions take
        `timeout_s`.
        """
        if not self._lock.acquire(timeout=timeout_s):
            raise PlatformError(
                "busy", "The replica is answering other questions.", hint="Ask again later."
            )
        try:
            yield from _answer(self._model(model_path), question)
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Free the model; one that is answering goes on and is freed afterwards."""
        self._loaded = None

    def _model(self, path: str) -> LoadedModel:
        held = self._loaded
        if held is not None and held[0] == path:
            return held[1]
        cuda = torch.cuda.is_available()
        loaded = load_model(path, "bfloat16" if cuda else "float32", "cuda" if cuda else "cpu")
        self._loaded = (path, loaded)
        log.info("playground model loaded", path=path)
        return loaded


def _answer(loaded: LoadedModel, question: PlaygroundRequest) -> Iterator[Piece]:
    prompt = _prompt(loaded, question)
    request = request_of(loaded, prompt, question)
    seen: list[DenoisingEvent] = []
    needed = len(prompt) + question.max_new_tokens
    engine = TorchEngine(loaded, max_sequence_tokens=needed, max_batch_size=1, on_step=seen.append)
    engine.submit([request])
    told, finished = "", dict[str, Response]()
    while not finished:
        steps_before = len(seen)
        finished = engine.step()
        text = (
            _text(loaded, _finished_blocks(loaded, prompt, seen[-1])[: question.max_new_tokens])
            if seen
            else ""
        )
        added = text[len(told) :] if text.startswith(told) else ""
        is_news = bool(added) or (question.shows_steps and len(seen) > steps_before)
        if is_news and not finished:
            yield _piece(loaded, prompt, seen[-1], added) if question.shows_steps else Piece(added)
            told += added
    [response] = finished.values()
    visible = min(
        response.visible_len, question.max_new_tokens
    )  # the last block may reach beyond what was asked for
    whole = _text(loaded, response.token_ids[:visible], cut=False)
    yield Piece(
        text=whole[len(told) :],
        finish_reason=response.finish_reason.value,
        prompt_tokens=len(prompt),
        completion_tokens=visible,
        num_steps=response.num_steps,
    )


def _piece(loaded: LoadedModel, prompt: list[int], event: DenoisingEvent, added: str) -> Piece:
    """What was added, and the state of the block that is being written."""
    open_from = _first_open(loaded, prompt, event.token_ids)
    draft = event.token_ids[open_from:].tolist()
    texts = (
        "" if token == loaded.mask_token_id else str(loaded.tokenizer.decode([token]))
        for token in draft
    )
    return Piece(added, num_steps=event.step, draft=tuple(texts))


def _prompt(loaded: LoadedModel, question: PlaygroundRequest) -> list[int]:
    if question.messages:
        return encode_prompt(loaded.tokenizer, [dict(turn) for turn in question.messages])
    ids: list[int] = loaded.tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
    return ids


def _finished_blocks(loaded: LoadedModel, prompt: list[int], event: DenoisingEvent) -> Int32s:
    """Tokens of the blocks without a mask, up to the first token that ends the answer.

    The block grid begins with the prompt, whose last block the answer may share.
    """
    token_ids = event.token_ids
    end = _first_open(loaded, prompt, token_ids)
    stops = [
        place
        for place, token in enumerate(token_ids[:end].tolist())
        if token in loaded.stop_token_ids
    ]
    return token_ids[: stops[0] if stops else end]


def _first_open(loaded: LoadedModel, prompt: list[int], token_ids: Int32s) -> int:
    """Place of the first token of the first block that has a mask; the length when none has."""
    masked = (token_ids == loaded.mask_token_id).nonzero()[0]
    if not len(masked):
        return len(token_ids)
    first = int(masked[0])
    return max(0, first - (len(prompt) + first) % loaded.block_size)


def _text(loaded: LoadedModel, token_ids: Int32s, *, cut: bool = True) -> str:
    """Text without special tokens; `cut` leaves out a last character that is not complete yet."""
    text = str(loaded.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))
    return text.rstrip(_UNFINISHED) if cut else text
