"""Numbers in words: `forty-two`, `one hundred and five`, `two thirds`."""

from fractions import Fraction
from typing import Final

from services.common.linear_patterns import LinearPattern

_SMALL: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS: Final = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS: Final = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "fourth": 4, "fourths": 4, "quarter": 4, "quarters": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8,
    "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10,
}  # fmt: skip
_MAX_WORDS: Final = 12
_WORDS: Final = LinearPattern(r"[a-zA-Z]+(?:[ -]+[a-zA-Z]+)*")


def parse_words(text: str) -> Fraction | None:
    """Parse a number in words or a plain integer; None for anything else."""
    text = text.strip()
    if text.isdecimal():
        return Fraction(int(text[:400]))
    words = text.lower().replace("-", " ").split() if _WORDS.fullmatch(text) else []
    if not 0 < len(words) <= _MAX_WORDS:
        return None
    if len(words) > 1 and words[-1] in _PARTS:
        whole = _parse_integer(words[:-1])
        return None if whole is None else Fraction(whole, _PARTS[words[-1]])
    value = _parse_integer(words)
    return None if value is None else Fraction(value)


def _parse_integer(words: list[str]) -> int | None:
    """Add up groups of hundreds, each with its scale; None for unknown or misplaced words."""
    total = group = 0
    last = ""
    for word in words:
        if word in _SCALES and last:
            total, group = total + (group or 1) * _SCALES[word], 0
        elif word == "hundred" and last in _SMALL:
            group *= 100
        elif word in _TENS and last not in (*_SMALL, *_TENS):
            group += _TENS[word]
        elif word in _SMALL and last not in _SMALL and (last not in _TENS or 0 < _SMALL[word] < 10):
            group += _SMALL[word]
        elif word != "and" or last not in ("hundred", *_SCALES):
            return None
        last = word
    return total + group if last and last != "and" else None
