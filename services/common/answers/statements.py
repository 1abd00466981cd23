"""Tell formulas, bare answers and prose apart."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from services.common.answers.number_words import parse_words
from services.common.data.boxed import Box, innermost
from services.common.linear_patterns import LinearPattern

_DELIMITER: Final = LinearPattern(r"\\.|\$+", dotall=True)
_CLOSING: Final = {r"\(": r"\)", r"\[": r"\]", "$": "$"}
_COMMAND: Final = LinearPattern(
    r"\\{1,2}(?:begin|end|text|mathrm|mbox|textbf|mathbf|operatorname) ?\{[^{}]*\}|\\[a-zA-Z]+|[\^_]\{[^{}]*\}"
)
_WORD: Final = LinearPattern(
    r"[a-zA-Z]{3,}|(?<!\w)(?:am|an|as|at|be|by|he|if|in|is|it|me|my|no|of|on|or|pm|so|to|up|we)(?!\w)",
    ignore_case=True,
)
_FUNCTIONS: Final = frozenset(
    {
        "and", "or", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
        "log", "ln", "exp", "sqrt", "cbrt", "pi", "gcd", "lcm", "max", "min", "mod", "cis", "infinity",
    }
)  # fmt: skip
_RATIO_OR_BASE: Final = LinearPattern(
    r"\d+ to \d+|[\dA-F]+ \(?(?:in )?base[ -]\w+\)?|[a-zA-Z -]+ \(\d+\)"
)
_NUMBER_AND_UNIT: Final = LinearPattern(
    r"[-+$\d.,:/\\ {}^]+ ?[a-zA-Z]+(?: [a-zA-Z]+)?(?:\^ ?\{?\d\}?|\.)?"
)
_DIGIT: Final = LinearPattern(r"\d")
_MAX_BARE_CHARS: Final = 400
_MAX_WORDS: Final = 4
_GAP: Final = LinearPattern(
    r"\\q?quad|\\text|(?<![a-z])[a-z]+ (?=(?:and|or) )|(?<![a-z])[a-z] ?=|[\s,;$\\(){}\[\]]"
)
_MAX_BOX_GAP: Final = 40
_MAX_LISTED: Final = 64
"""Boxes that are joined."""


class Formula(NamedTuple):
    """A formula between delimiters."""

    start: int
    end: int
    content: str


class BoxRun(NamedTuple):
    """The last boxes of a text that stand side by side."""

    contents: list[str]
    is_connected: bool
    """Whether `and` or `or` stands between them."""

    @property
    def joined(self) -> str:
        """The contents, joined by commas; "" for one box."""
        return ",".join(self.contents) if len(self.contents) > 1 else ""


def join_boxes(text: str, boxes: Sequence[Box]) -> BoxRun:
    r"""Join the last boxes of a list such as `\boxed{3} and \boxed{5}`."""
    first, gaps = len(boxes) - 1, []
    while first > max(0, len(boxes) - _MAX_LISTED):
        gap = text[boxes[first - 1].end : boxes[first].start]
        connective = _GAP.sub("", gap)
        if len(gap) > _MAX_BOX_GAP or connective not in ("", "and", "or"):
            break
        gaps.append(connective)
        first -= 1
    run = [innermost(box.content) for box in boxes[max(first, 0) :]]
    return BoxRun(run, any(gaps))


def is_bare(text: str) -> bool:
    """Whether the text is only an answer: one formula, a number with a unit, or at most two words."""
    text = text.strip()
    formulas = find_formulas(text)
    if len(formulas) == 1 and (formulas[0].start, formulas[0].end) == (0, len(text)):
        return True
    if len(text) > _MAX_BARE_CHARS or not text:
        return False
    words = [
        word for word in _WORD.findall(_COMMAND.sub(" ", text)) if word.lower() not in _FUNCTIONS
    ]
    if (
        (not words and "\n" not in text)
        or _NUMBER_AND_UNIT.fullmatch(text)
        or _RATIO_OR_BASE.fullmatch(text)
        or parse_words(text)
    ):
        return True
    return len(words) <= 2 and not _DIGIT.search(text)


def is_prose(text: str) -> bool:
    """Whether the text has more words than an answer."""
    return len(_WORD.findall(_COMMAND.sub(" ", text))) > _MAX_WORDS


def find_formulas(text: str) -> list[Formula]:
    r"""Find `$…$`, `\(…\)` and `\[…\]` in one pass; ignores delimiters that are not closed."""
    found: list[Formula] = []
    opening, start, inside = "", 0, 0
    for token in _DELIMITER.finditer(text):
        sign = token.group().replace("$", "") or "$"
        if opening and sign == _CLOSING[opening]:
            content = text[inside : token.start()].strip()
            found += [Formula(start, token.end(), content)] if content else []
            opening = ""
        elif sign in _CLOSING and opening != "$":
            opening, start, inside = sign, token.start(), token.end()
    return found
