"""Text to token ids: the prompt through the chat template, the answer with its end of turn."""

from collections.abc import Sequence
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from services.common.errors import PlatformError

END_OF_TURN_TOKENS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""Spellings of the token that ends a turn: ChatML (Qwen, SDAR), Llama 3, Gemma."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> list[int]:
    """Token ids of the turns, with the assistant's turn opened; raises
    PlatformError("model_invalid").
    """
    if tokenizer.chat_template is None:
        raise PlatformError(
            "model_invalid",
            "A prompt was to be encoded, but the model's tokenizer has no chat template.",
            hint="Add chat_template.jinja to the model directory.",
        )
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer, closed by the end of turn."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, end_of_turn_ids(tokenizer)[0]]


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The id that ends a turn, then the tokenizer's end-of-sequence id; raises
    PlatformError("model_invalid").
    """
    # One by one: the whole vocabulary is a dictionary built anew, too slow for every row of a data
    # set.
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
