"""Prompts through the chat template, completions with their end."""

import pytest

from services.common.errors import PlatformError
from services.common.model.prompts import encode_completion, encode_prompt
from services.common.model.tiny import CHARACTERS, character_tokenizer


def test_a_prompt_is_the_turns_with_the_assistants_opened() -> None:
    tokenizer = character_tokenizer()

    ids = encode_prompt(
        tokenizer, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    )

    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == expected
    assert ids[0] == tokenizer.get_vocab()["<|im_start|>"]


def test_a_completion_ends_its_turn() -> None:
    tokenizer = character_tokenizer()

    assert tokenizer.decode(encode_completion(tokenizer, "It is 4.\n")) == "It is 4.\n<|im_end|>"


def test_every_printable_character_is_a_token_and_survives() -> None:
    tokenizer = character_tokenizer()
    text = "".join(CHARACTERS)

    ids = tokenizer(text)["input_ids"]

    assert len(ids) == len(CHARACTERS)
    assert tokenizer.decode(ids) == text


def test_an_unknown_character_stays_visible() -> None:
    tokenizer = character_tokenizer()

    assert tokenizer.decode(tokenizer("5 € π")["input_ids"]) == "5 � �"


def test_a_tokenizer_without_a_template_or_an_end_is_refused() -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(PlatformError, match="no chat template"):
        encode_prompt(tokenizer, [{"role": "user", "content": "2+2?"}])


def test_a_tokenizer_without_any_end_token_is_refused() -> None:
    class Endless:
        eos_token_id = unk_token_id = None

        def convert_tokens_to_ids(self, token: str) -> int | None:
            return {"a": 0}.get(token)

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [0]}

    with pytest.raises(PlatformError, match="neither an end-of-sequence token"):
        encode_completion(Endless(), "a")  # type: ignore[arg-type]
