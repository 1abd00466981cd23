"""Questions with answers to choose from: MMLU, MMLU-Pro, ARC, CommonsenseQA, AQuA, MedQA."""

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from services.common.data.conversations import parse_list
from services.common.data.layouts import CHOICES


def read_choices(columns: Mapping[str, Any]) -> dict[str, str]:
    """Return the answers of a row by their labels; empty for a row without any."""
    given = next((columns[name] for name in CHOICES if columns.get(name)), None)
    given = parse_list(given)
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        labels, texts = given.get("label"), given["text"]
    elif isinstance(given, dict):
        labels, texts = list(given), list(given.values())
    else:
        labels, texts = None, given
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(ascii_uppercase):
        return {}
    if not isinstance(labels, list) or len(labels) != len(texts):
        labels = list(ascii_uppercase[: len(texts)])
    if not all(isinstance(text, str) for text in (*labels, *texts)):
        return {}
    return {label: _without_label(label, text) for label, text in zip(labels, texts, strict=True)}


def append_choices(text: str, choices: Mapping[str, str]) -> str:
    """Return a question with its answers below, unless it has them."""
    if not choices or all(choice in text for choice in choices.values()):
        return text
    lines = "\n".join(f"{label}. {choice}" for label, choice in choices.items())
    return f"{text}\n\n{lines}"


def to_label(value: Any, choices: Mapping[str, str]) -> Any:
    """Return the label of an answer that is an index or the text of a choice, else the value."""
    labels = list(choices)
    if isinstance(value, str) and value not in choices:
        return next((label for label, text in choices.items() if text == value), value)
    is_index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels)
    return labels[value] if is_index else value


def _without_label(label: str, text: str) -> str:
    """Return `21` for `A)21`, as AQuA writes it."""
    return text.removeprefix(f"{label})").strip() if text.startswith(f"{label})") else text
