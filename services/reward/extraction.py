r"""The final answer of a response: the last complete `\boxed{}` after the last `</think>`, in one pass.

Formulas in the running text are never searched: two boxes would merge into a set, and an intermediate result could
be rewarded. The `eval` profile adds the fallbacks that benchmarks accept; reinforcement learning takes boxes only.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.common.data.boxed import Box, innermost, outer_boxes

_FALLBACK_CHARS: Final = 20_000
_MAX_BOX_GAP: Final = 40
_SPACING: Final = re.compile(r"\\q?quad|\\text|[\s,;$\\(){}\[\]]")
_ANSWER_TAG: Final = re.compile(r"<answer>([^<]*)</answer>")
_HASHES: Final = re.compile(r"####[ \t]*([^\n]+)")
_PHRASE: Final = re.compile(r"(?:answer(?:\s+is)?\s*:|answer\s+is)[ \t]*([^\n]+)", re.IGNORECASE)
_FORMULA: Final = re.compile(r"\$+([^$]+)\$|\\[(\[](.+?)\\[)\]]")
_SENTENCE_END: Final = re.compile(r"\.\s+[A-Z]")
_NUMBER: Final = re.compile(r"(?<![\w.,])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?")


class Profile(StrEnum):
    """What counts as stating an answer."""

    RL = "rl"
    EVAL = "eval"


@dataclass(frozen=True)
class Extraction:
    """The answer found, or why there is none."""

    text: str = ""
    method: str = ""
    """boxed | answer_tag | hashes | phrase | last_number; empty when nothing was found"""
    failure: str = ""
    """unclosed_box | empty_box | unclosed_think | nothing_found; empty when an answer was found"""
    listed: str = ""
    """All boxes of a last run such as `\\boxed{3} and \\boxed{5}`, joined by commas; for golds that are lists."""


def final_part(response: str) -> str | None:
    """What follows the last `</think>`; None when a `<think>` after it was never closed."""
    after = response.rpartition("</think>")[2]
    return None if "<think>" in after else after


def extract(response: str, profile: Profile) -> Extraction:
    """Find the final answer; linear in the length of the response."""
    final = final_part(response)
    if final is None:
        return Extraction(failure="unclosed_think")
    boxes = outer_boxes(final)
    if boxes:
        return _from_boxes(final, boxes)
    if profile is Profile.EVAL:
        return _fallback(final[-_FALLBACK_CHARS:])
    return Extraction(failure="nothing_found")


def _from_boxes(final: str, boxes: list[Box]) -> Extraction:
    last = boxes[-1]
    if not last.closed:
        return Extraction(failure="unclosed_box")
    text = innermost(last.content)
    if not text:
        return Extraction(failure="empty_box")
    return Extraction(text=text, method="boxed", listed=_last_run(final, boxes))


def _last_run(final: str, boxes: list[Box]) -> str:
    first = len(boxes) - 1
    while first > 0 and _is_list_gap(final[boxes[first - 1].end : boxes[first].start]):
        first -= 1
    run = [innermost(box.content) for box in boxes[first:]]
    return ",".join(run) if len(run) > 1 else ""


def _first_statement(line: str) -> str:
    """The formula that a line begins with, else its first sentence."""
    formula = _FORMULA.match(line)
    if formula:
        return (formula.group(1) or formula.group(2)).strip()
    return _SENTENCE_END.split(line, maxsplit=1)[0].strip()


def _is_list_gap(gap: str) -> bool:
    return len(gap) <= _MAX_BOX_GAP and _SPACING.sub("", gap) in ("", "and", "or")


def _fallback(tail: str) -> Extraction:
    for method, pattern in (("answer_tag", _ANSWER_TAG), ("hashes", _HASHES), ("phrase", _PHRASE)):
        found = [text.strip() for text in pattern.findall(tail) if text.strip()]
        if found:
            return Extraction(text=_first_statement(found[-1]), method=method)
    numbers = _NUMBER.findall(tail)
    if numbers:
        return Extraction(text=numbers[-1].rstrip(","), method="last_number")
    return Extraction(failure="nothing_found")
