"""Special tokens in the text of rows. A tokenizer reads `<|im_end|>` in a text as the token, not as ten
characters: it would end a turn, mask a position or stand for an image. Imports no tokenizer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.common.data.rows import Row

_RULE: Final = "which the tokenizer of the model reads as one token and not as text; remove it, or write it otherwise"


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that must not stand in the text of a row."""

    texts: frozenset[str]
    mask_token_id: int
    vocab_size: int
    """Rows of the embedding."""

    def find_in(self, text: str) -> str | None:
        """Return a special token of a text, the first in the order of the alphabet."""
        return next((token for token in sorted(self.texts) if token in text), None)


def read_special_tokens(model: Path, mask_token_id: int, vocab_size: int) -> SpecialTokens:
    """Read the special tokens of a model directory; the mask token is one whatever its flag says."""
    added = [
        *(_read_json(model / "tokenizer.json").get("added_tokens") or ()),
        *(
            {"id": int(number), **token}
            for number, token in _decoder_of(_read_json(model / "tokenizer_config.json")).items()
        ),
    ]
    texts = (
        token["content"]
        for token in added
        if token.get("content") and (token.get("special") or token["id"] == mask_token_id)
    )
    return SpecialTokens(frozenset(texts), mask_token_id, vocab_size)


def find_special_token(
    row: Row, special: SpecialTokens, *, completions: bool, trace: bool
) -> str | None:
    """Return what is wrong with a row that has a special token in a turn of its prompt, with `completions`
    in its completion, or with `trace` an impossible id in its recorded `token_ids`.
    """
    parts = [(f"the {message.role} turn", message.target) for message in row.messages]
    # The completion of a recorded response is not encoded: its ids are given.
    if completions and not trace and row.completion is not None:
        parts.append(("the completion", row.completion))
    for place, text in parts:
        if (token := special.find_in(text)) is not None:
            return f"{place} has {token!r}, {_RULE}"
    return _find_impossible_id(row, special) if completions and trace else None


def _find_impossible_id(row: Row, special: SpecialTokens) -> str | None:
    ids = row.metadata.get("token_ids")
    for number in ids if isinstance(ids, list) else ():
        if number == special.mask_token_id:
            return f"token_ids has {number}, the mask token: a response that is not finished"
        if isinstance(number, int) and not 0 <= number < special.vocab_size:
            return f"token_ids has {number}; the model has the ids 0 to {special.vocab_size - 1}"
    return None


def _decoder_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    decoder = config.get("added_tokens_decoder")
    return decoder if isinstance(decoder, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    """Return {} for a file that is missing or is not an object: reading the model says what is wrong."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
