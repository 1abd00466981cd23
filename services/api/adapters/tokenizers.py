"""Token ids as text, piece by piece, with the tokenizer of the model that made them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_KEPT: Final = 8


def token_texts(model_path: str, token_ids: Sequence[int]) -> list[str] | None:
    """Text of every token, special tokens included; joined they are the text.

    A token that is only part of a character is empty, and the one that completes it has the whole.
    None when the model's directory has no tokenizer (any more): ids are all that is known then.
    """
    tokenizer = _find_tokenizer(model_path)
    if tokenizer is None:
        return None
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token_id) or "" for token_id in token_ids]


def whole_text(model_path: str, token_ids: Sequence[int]) -> str | None:
    """Text of the tokens without special ones; None as for `token_texts`."""
    tokenizer = _find_tokenizer(model_path)
    return (
        None
        if tokenizer is None
        else str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
    )


def count_tokens(model_path: Path, texts: Sequence[str]) -> list[int] | None:
    """Tokens of every text; None as for `token_texts`."""
    tokenizer = _find_tokenizer(str(model_path))
    if tokenizer is None:
        return None
    return [
        len(encoding.ids)
        for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]


def _find_tokenizer(model_path: str) -> Tokenizer | None:
    path = Path(model_path) / "tokenizer.json"
    return _read_tokenizer(path) if path.is_file() else None


@lru_cache(_KEPT)
def _read_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
