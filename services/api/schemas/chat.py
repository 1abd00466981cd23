"""Chat and text completions in OpenAI's shapes."""

from typing import Final, Literal

from pydantic import Field

from services.api.schemas.base import RequestBody, View

_MAX_TEXT: Final = 200_000


class DecodingOptions(RequestBody):
    """Options of both routes. Unknown keys are refused: none is silently ignored."""

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


class ChatMessage(RequestBody):
    """One turn."""

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


class ChatUsage(View):
    """Tokens of the request and the response."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    denoising_steps: int


class ChatAnswer(View):
    """One turn of the model."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(View):
    """The response."""

    index: int = 0
    message: ChatAnswer
    finish_reason: str
    """stop | length"""


class ChatCompletion(View):
    """A finished chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class TextChoice(View):
    """The continuation."""

    index: int = 0
    text: str
    finish_reason: str
    """stop | length"""
    logprobs: None = None


class TextCompletion(View):
    """A finished completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChatUsage
