"""Encode prompts with the chat template, and completions with an end-of-turn token."""

from collections.abc import Sequence
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from services.common.errors import PlatformError

END_OF_TURN_TOKENS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""Spellings of the token that ends a turn: ChatML (Qwen, SDAR), Llama 3, Gemma."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> list[int]:
    """Encode the turns, followed by the generation prompt; raises as render_prompt."""
    return encode_text(tokenizer, render_prompt(tokenizer, messages))


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Return the text of the turns, followed by the generation prompt.

    Raises PlatformError("model_invalid") without a template, and ValueError with what a template says of
    turns that it refuses.
    """
    if tokenizer.chat_template is None:
        raise PlatformError(
            "model_invalid",
            "Cannot encode a prompt: the tokenizer of the model has no chat template.",
            hint="Add chat_template.jinja to the model directory.",
        )
    try:
        text = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise ValueError(f"the chat template of the model refuses the turns: {error}") from None
    return str(text)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a rendered text, whose special tokens are read as such."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a completion, followed by the end-of-turn token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, end_of_turn_ids(tokenizer)[0]]


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the end-of-turn id, then the end-of-sequence id; raises PlatformError("model_invalid")."""
    # Looked up one by one: get_vocab() builds a new dictionary, which is too slow for every row.
    found: list[Any] = [tokenizer.convert_tokens_to_ids(token) for token in END_OF_TURN_TOKENS]
    ids: list[int] = [number for number in found if number not in (None, tokenizer.unk_token_id)]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise PlatformError(
            "model_invalid",
            f"The tokenizer has neither an end-of-sequence token nor one of {', '.join(END_OF_TURN_TOKENS)}.",
            hint="Set eos_token in tokenizer_config.json.",
        )
    return ids
