"""/v1/chat/completions and /v1/completions: talk to a model or checkpoint, as OpenAI's clients do.

A replica that no job has answers; what is streamed are finished blocks, the unit in which these
models write.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from services.api.db.jobs import get_job, newest_checkpoint
from services.api.db.record_tables import Checkpoint, RegisteredModel
from services.api.domain.access import Caller
from services.api.http.auth import Who
from services.api.http.forecasting import free_replica
from services.api.http.resources import Res, Resources
from services.common.checkpoint.pins import pin
from services.common.errors import PlatformError
from services.common.ids import new_id
from services.common.pb.dirl.v1 import rollout_pb2

router = APIRouter(tags=["playground"])

_STREAM: Final = "text/event-stream"
_MAX_TEXT: Final = 200_000
_READ_S: Final = 600.0
"""A replica has read a checkpoint by then; until then retention leaves it."""


class DecodingOptions(BaseModel):
    """What both routes take beside the prompt. Unknown keys are refused: none is silently ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1,
        max_length=64,
        description="model_…, ckpt_…, or job_… for its newest checkpoint.",
    )
    max_tokens: int | None = Field(None, ge=1, le=32768, description="256 by default.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**31)
    stream: bool = False
    denoising: bool = Field(
        False,
        description="With `stream`: a chunk after every denoising step, with the state of the unfinished block.",
    )
    n: Literal[1] = 1
    user: str | None = Field(None, max_length=256)
    confidence_threshold: float = Field(
        0.9, ge=0, le=1, description="Positions at least this confident are committed."
    )


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=_MAX_TEXT)


class ChatRequest(DecodingOptions):
    """Body of a chat completion."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=32768, description="OpenAI's newer name of max_tokens."
    )


class CompletionRequest(DecodingOptions):
    """Body of a completion."""

    prompt: str = Field(min_length=1, max_length=_MAX_TEXT)


class ChatUsage(BaseModel):
    """What the answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    denoising_steps: int


class ChatAnswer(BaseModel):
    """One turn of the model."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """The answer."""

    index: int = 0
    message: ChatAnswer
    finish_reason: str
    """stop | length"""


class ChatCompletion(BaseModel):
    """A finished chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class TextChoice(BaseModel):
    """The continuation."""

    index: int = 0
    text: str
    finish_reason: str
    """stop | length"""
    logprobs: None = None


class TextCompletion(BaseModel):
    """A finished completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChatUsage


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {_STREAM: {}}}},
)
def create_chat_completion(
    resources: Res, caller: Who, body: ChatRequest
) -> ChatCompletion | StreamingResponse:
    """Answer a conversation. With `stream` the answer comes in chunks of finished blocks."""
    tokens = body.max_completion_tokens or body.max_tokens
    request = _request(body, tokens, messages=[_turn(message) for message in body.messages])
    answer = _ask(resources, caller, body.model, request, "chatcmpl")
    if body.stream:
        return _streamed(answer, "chat.completion.chunk", _chat_delta)
    text, last = answer.whole()
    choice = ChatChoice(message=ChatAnswer(content=text), finish_reason=last.finish_reason)
    return ChatCompletion(
        id=answer.id, created=answer.created, model=body.model, choices=[choice], usage=_usage(last)
    )


@router.post(
    "/v1/completions", response_model=TextCompletion, responses={200: {"content": {_STREAM: {}}}}
)
def create_completion(
    resources: Res, caller: Who, body: CompletionRequest
) -> TextCompletion | StreamingResponse:
    """Continue a text. With `stream` the continuation comes in chunks of finished blocks."""
    answer = _ask(
        resources, caller, body.model, _request(body, body.max_tokens, prompt=body.prompt), "cmpl"
    )
    if body.stream:
        return _streamed(answer, "text_completion", _text_delta)
    text, last = answer.whole()
    choice = TextChoice(text=text, finish_reason=last.finish_reason)
    return TextCompletion(
        id=answer.id, created=answer.created, model=body.model, choices=[choice], usage=_usage(last)
    )


def _turn(message: ChatMessage) -> rollout_pb2.ChatMessage:
    return rollout_pb2.ChatMessage(role=message.role, content=message.content)


def _request(
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
class _Answer:
    """An answer on its way; its first piece has come, so that what can be refused was."""

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


def _ask(
    resources: Resources,
    caller: Caller,
    model: str,
    request: rollout_pb2.GenerateRequest,
    prefix: str,
) -> _Answer:
    with resources.database.begin() as session:
        request.model_path = _model_path(session, caller, model)
    pieces = resources.fleet.generate(free_replica(resources), request)
    identity = f"{prefix}-{new_id('evt').removeprefix('evt_')}"
    return _Answer(identity, int(time.time()), model, next(pieces), pieces)


def _model_path(session: Session, caller: Caller, model: str) -> str:
    """Directory of what was named; raises PlatformError("not_found")."""
    name = (newest_checkpoint(session, model) or "") if model.startswith("job_") else model
    checkpoint = session.get(Checkpoint, name)
    if checkpoint is not None and _can_be_read(session, caller, checkpoint):
        pin(Path(checkpoint.path), "chat", _READ_S)
        return checkpoint.path
    registered = session.get(RegisteredModel, name)
    if registered is None or not caller.owns(registered.project):
        raise PlatformError(
            "not_found",
            f"There is no model, checkpoint or job with a checkpoint {model!r}.",
            hint="GET /v1/models and GET /v1/jobs/{id}/checkpoints list them.",
            param="model",
        )
    return registered.path


def _can_be_read(session: Session, caller: Caller, checkpoint: Checkpoint) -> bool:
    exists = checkpoint.deleted_at is None and Path(checkpoint.path).is_dir()
    return exists and caller.owns(get_job(session, checkpoint.job_id).project)


def _usage(last: rollout_pb2.GenerateResponse) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        total_tokens=last.prompt_tokens + last.completion_tokens,
        denoising_steps=last.num_steps,
    )


_Delta = Callable[[rollout_pb2.GenerateResponse, bool], dict[str, Any]]


def _streamed(answer: _Answer, kind: str, delta: _Delta) -> StreamingResponse:
    return StreamingResponse(
        _frames(answer, kind, delta), media_type=_STREAM, headers={"cache-control": "no-store"}
    )


def _frames(answer: _Answer, kind: str, delta: _Delta) -> Iterator[str]:
    head = {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}
    try:
        for number, piece in enumerate(answer.pieces()):
            choice = {
                "index": 0,
                **delta(piece, number == 0),
                "finish_reason": piece.finish_reason or None,
            }
            usage = _usage(piece).model_dump() if piece.finish_reason else None
            yield _frame({**head, "choices": [choice], "usage": usage, **_denoising(piece)})
    except PlatformError as error:  # the answer began, so its status cannot say it any more
        yield _frame(
            {"error": {"type": error.kind.http_type, "code": error.code, "message": error.message}}
        )
    yield "data: [DONE]\n\n"


def _denoising(piece: rollout_pb2.GenerateResponse) -> dict[str, Any]:
    """Not OpenAI's: the step, and the text of every token of the unfinished block; null where it is
    masked.
    """
    if not piece.draft:
        return {}
    return {"denoising": {"step": piece.num_steps, "draft": [text or None for text in piece.draft]}}


def _frame(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _chat_delta(piece: rollout_pb2.GenerateResponse, is_first: bool) -> dict[str, Any]:
    role = {"role": "assistant"} if is_first else {}
    return {"delta": {**role, "content": piece.text}}


def _text_delta(piece: rollout_pb2.GenerateResponse, _is_first: bool) -> dict[str, Any]:
    return {"text": piece.text, "logprobs": None}
