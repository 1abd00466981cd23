r"""The final answer of a response: the last complete `\boxed{}` after the last `</think>`, in one
pass.

Formulas in the running text are never searched: two boxes would merge into a set, and an
intermediate result could be rewarded. The `eval` profile adds the fallbacks that benchmarks accept;
reinforcement learning takes boxes only.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.common.answers.statements import (
    final_statement,
    is_bare,
    joined_boxes,
    last_value,
    stated,
)
from services.common.data.boxed import Box, innermost, outer_boxes

_FALLBACK_CHARS: Final = 20_000
_END_OF_TURN: Final = re.compile(r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end)\|>|</s>")


class Profile(StrEnum):
    """What counts as stating an answer."""

    RL = "rl"
    EVAL = "eval"


@dataclass(frozen=True)
class Extraction:
    """The answer found, or why there is none."""

    text: str = ""
    method: str = ""
    """boxed; in evaluation also answer_tag | hashes | phrase | whole | last_formula | last_number; empty when nothing
    was found
    """
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
    final = final_part(_END_OF_TURN.split(response, maxsplit=1)[0])
    if final is None:
        return Extraction(failure="unclosed_think")
    boxes = outer_boxes(final)
    announced = final_statement(final[boxes[-1].end :][-_FALLBACK_CHARS:]) if boxes else ""
    if announced and profile is Profile.EVAL:
        return Extraction(text=announced, method="phrase")
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
    return Extraction(text=text, method="boxed", listed=joined_boxes(final, boxes))


def _fallback(tail: str) -> Extraction:
    found = stated(tail) or (("whole", tail.strip()) if is_bare(tail) else last_value(tail))
    return (
        Extraction(text=found[1], method=found[0]) if found else Extraction(failure="nothing_found")
    )
