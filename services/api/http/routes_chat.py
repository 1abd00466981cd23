"""/v1/chat/completions and /v1/completions: responses of a model or checkpoint, in the shapes of
OpenAI's API.

An idle replica generates them; what is streamed are finished blocks, the unit in which these models
write.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from services.api.domain.access import Caller
from services.api.http.auth import Who
from services.api.http.resources import Res, Resources
from services.api.http.slots import HoldsHeavySlot
from services.api.schemas.chat import (
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatRequest,
    ChatUsage,
    CompletionRequest,
    DecodingOptions,
    TextChoice,
    TextCompletion,
)
from services.api.use_cases.generate import generate_response
from services.common.errors import PlatformError
from services.common.ids import new_id
from services.common.pb.dirl.v1 import rollout_pb2

router = APIRouter(tags=["playground"])

_STREAM: Final = "text/event-stream"


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {_STREAM: {}}}},
)
async def create_chat_completion(
    resources: Res, caller: Who, body: ChatRequest, _slot: HoldsHeavySlot
) -> ChatCompletion | StreamingResponse:
    """Answer a conversation. With `stream` the generation comes in chunks of finished blocks."""
    tokens = body.max_completion_tokens or body.max_tokens
    turns = [
        rollout_pb2.ChatMessage(role=message.role, content=message.content)
        for message in body.messages
    ]
    request = _to_request(body, tokens, messages=turns)
    generation = await resources.heavy.run(
        _start, resources, caller, body.model, request, "chatcmpl"
    )
    if body.stream:
        return _to_stream(resources, generation, "chat.completion.chunk", _to_chat_delta)
    text, last = await resources.heavy.run(generation.whole)
    choice = ChatChoice(message=ChatAnswer(content=text), finish_reason=last.finish_reason)
    return ChatCompletion(
        id=generation.id,
        created=generation.created,
        model=body.model,
        choices=[choice],
        usage=_to_usage(last),
    )


@router.post(
    "/v1/completions", response_model=TextCompletion, responses={200: {"content": {_STREAM: {}}}}
)
async def create_completion(
    resources: Res, caller: Who, body: CompletionRequest, _slot: HoldsHeavySlot
) -> TextCompletion | StreamingResponse:
    """Continue a text. With `stream` the continuation comes in chunks of finished blocks."""
    generation = await resources.heavy.run(
        _start,
        resources,
        caller,
        body.model,
        _to_request(body, body.max_tokens, prompt=body.prompt),
        "cmpl",
    )
    if body.stream:
        return _to_stream(resources, generation, "text_completion", _to_text_delta)
    text, last = await resources.heavy.run(generation.whole)
    choice = TextChoice(text=text, finish_reason=last.finish_reason)
    return TextCompletion(
        id=generation.id,
        created=generation.created,
        model=body.model,
        choices=[choice],
        usage=_to_usage(last),
    )


def _to_request(
    body: DecodingOptions, max_tokens: int | None, **prompt: Any
) -> rollout_pb2.GenerateRequest:
    return rollout_pb2.GenerateRequest(
        max_new_tokens=max_tokens or 256,
        temperature=body.temperature,
        top_p=body.top_p,
        confidence_threshold=body.confidence_threshold,
        seed=body.seed,
        show_steps=body.denoising and body.stream,
        **prompt,
    )


@dataclass(frozen=True)
class _Generation:
    """A response that is being generated. Its first piece has arrived, so errors before it have a status."""

    id: str
    created: int
    model: str
    first: rollout_pb2.GenerateResponse
    rest: Iterator[rollout_pb2.GenerateResponse]

    def pieces(self) -> Iterator[rollout_pb2.GenerateResponse]:
        yield self.first
        yield from self.rest

    def whole(self) -> tuple[str, rollout_pb2.GenerateResponse]:
        """Text, and the last piece."""
        pieces = list(self.pieces())
        return "".join(piece.text for piece in pieces), pieces[-1]


def _start(
    resources: Resources,
    caller: Caller,
    model: str,
    request: rollout_pb2.GenerateRequest,
    prefix: str,
) -> _Generation:
    pieces = generate_response(resources, caller, model, request)
    identity = f"{prefix}-{new_id('evt').removeprefix('evt_')}"
    return _Generation(identity, int(time.time()), model, next(pieces), pieces)


def _to_usage(last: rollout_pb2.GenerateResponse) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        total_tokens=last.prompt_tokens + last.completion_tokens,
        denoising_steps=last.num_steps,
    )


_Delta = Callable[[rollout_pb2.GenerateResponse, bool], dict[str, Any]]


def _to_stream(
    resources: Resources, generation: _Generation, kind: str, delta: _Delta
) -> StreamingResponse:
    return StreamingResponse(
        resources.heavy.iterate(_iter_frames(generation, kind, delta)),
        media_type=_STREAM,
        headers={"cache-control": "no-store"},
    )


def _iter_frames(generation: _Generation, kind: str, delta: _Delta) -> Iterator[str]:
    head = {
        "id": generation.id,
        "object": kind,
        "created": generation.created,
        "model": generation.model,
    }
    try:
        for number, piece in enumerate(generation.pieces()):
            choice = {
                "index": 0,
                **delta(piece, number == 0),
                "finish_reason": piece.finish_reason or None,
            }
            usage = _to_usage(piece).model_dump() if piece.finish_reason else None
            # Not OpenAI's: the step, and the text of every token of the unfinished block, null where it
            # is masked.
            draft = [text or None for text in piece.draft]
            denoising = {"denoising": {"step": piece.num_steps, "draft": draft}} if draft else {}
            yield _to_frame({**head, "choices": [choice], "usage": usage, **denoising})
    except PlatformError as error:  # the response has begun: its status is sent already
        yield _to_frame(
            {"error": {"type": error.kind.http_type, "code": error.code, "message": error.message}}
        )
    yield "data: [DONE]\n\n"


def _to_frame(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _to_chat_delta(piece: rollout_pb2.GenerateResponse, is_first: bool) -> dict[str, Any]:
    role = {"role": "assistant"} if is_first else {}
    return {"delta": {**role, "content": piece.text}}


def _to_text_delta(piece: rollout_pb2.GenerateResponse, _is_first: bool) -> dict[str, Any]:
    return {"text": piece.text, "logprobs": None}
