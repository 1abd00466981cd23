"""Texts that make a backtracking matcher slow: long runs of one class, alternating, nested, cut off."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

CLASSES: Final = {
    "blank": " ", "newline": "\n", "tab": "\t", "digit": "1", "letter": "x", "capital": "A", "word": "so ",
    "dollar": "$", "tilde": "~", "backslash": "\\", "open brace": "{", "close brace": "}", "open bracket": "[",
    "close bracket": "]", "open parenthesis": "(", "close parenthesis": ")", "comma": ",", "point": ".",
    "minus": "-", "plus": "+", "times": "*", "slash": "/", "power": "^", "subscript": "_", "equals": "=",
    "less": "<", "greater": ">", "bar": "|", "colon": ":", "semicolon": ";", "exclamation mark": "!",
    "quote": '"', "apostrophe": "'", "percent": "%", "ampersand": "&", "hash": "#", "accent": "é",
    "ideograph": "個", "raised digit": "²", "ligature": "ﷺ", "command": r"\frac", "text": r"\text{",
    "answer": "answer is ", "number": "1,000.5 ",
}  # fmt: skip
"""A text of each class of characters."""
_NESTED: Final = (
    ("{", "}"),
    ("(", ")"),
    ("[", "]"),
    (r"\frac{1}{", "}"),
    (r"\text{", "}"),
    ("<", ">"),
)


def hostile_texts(chars: int) -> Iterator[tuple[str, str]]:
    """Yield names and texts of about the same length."""
    for name, one in CLASSES.items():
        yield name, fill(one, chars)
    for (first, one), (second, other) in pairwise(CLASSES.items()):
        yield f"{first} and {second}", fill(one + other, chars)
    for one in CLASSES:
        yield f"blank and {one}", fill("  " + CLASSES[one], chars)
    for opening, closing in _NESTED:
        depth = chars // len(opening + closing)
        yield f"nested {opening}", opening * depth + closing * depth


def fill(one: str, chars: int) -> str:
    """Repeat a text to a length."""
    return (one * (chars // len(one) + 1))[:chars]
