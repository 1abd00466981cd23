r"""Extract the final answer of a response: the last complete `\boxed{}` after the last `</think>`.

Formulas in the running text are not searched: two boxes would merge into a set, and an intermediate
result could be rewarded. The `eval` profile adds the fallbacks that benchmarks accept;
reinforcement learning accepts boxes only.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.common.answers.candidates import BOX_SCORE, Candidate, find_candidates
from services.common.answers.normalisation import normalise
from services.common.answers.rationals import parse_rational
from services.common.answers.statements import BoxRun, join_boxes
from services.common.data.boxed import innermost, outer_boxes
from services.common.linear_patterns import LinearPattern

_MAX_RESPONSE_CHARS: Final = 1_000_000
_FALLBACK_CHARS: Final = 20_000
_END_OF_TURN: Final = LinearPattern(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end)\|>|</s>"
)


class Profile(StrEnum):
    """Which forms of an answer are accepted."""

    RL = "rl"
    EVAL = "eval"


@dataclass(frozen=True)
class Extraction:
    """The extracted answer, or the reason why there is none."""

    text: str = ""
    method: str = ""
    """boxed; in evaluation also final_answer | answer_tag | hashes | phrase | whole | last_formula | last_number; empty
    if no answer was found
    """
    failure: str = ""
    """unclosed_box | empty_box | unclosed_think | nothing_found | too_long; empty if an answer was found"""
    listed: str = ""
    """All boxes of a last run such as `\\boxed{3} and \\boxed{5}`, joined by commas; for answers that are lists."""


def _states_several(run: BoxRun) -> bool:
    r"""Whether no box is the answer by itself; `\boxed{1.5} or \boxed{\frac{3}{2}}` is one value."""
    if not run.is_connected:
        return False
    numbers = [parse_rational(normalise(content).text) for content in run.contents]
    if all(numbers):
        return len({number.value for number in numbers if number}) > 1
    return len(set(run.contents)) > 1


def final_part(response: str) -> str | None:
    """Return the text after the last `</think>`; None if a later `<think>` is not closed."""
    after = response.rpartition("</think>")[2]
    return None if "<think>" in after else after


def extract(response: str, profile: Profile) -> Extraction:
    """Find the final answer in time linear in the length of the response."""
    if len(response) > _MAX_RESPONSE_CHARS:
        return Extraction(failure="too_long")
    # After the end of its turn a model may continue with a conversation of its own invention.
    final = final_part(_END_OF_TURN.text_before(response))
    if final is None:
        return Extraction(failure="unclosed_think")
    boxes = outer_boxes(final)
    candidates: list[Candidate] = []
    if profile is Profile.EVAL:
        tail = final[boxes[-1].end :] if boxes else final
        candidates = find_candidates(tail[-_FALLBACK_CHARS:])
    if boxes:
        # Only the last box counts: an earlier one may hold an intermediate result.
        if not boxes[-1].closed:
            return Extraction(failure="unclosed_box")
        if not candidates or candidates[0].score < BOX_SCORE:
            run = join_boxes(final, boxes)
            text = run.joined if _states_several(run) else innermost(boxes[-1].content)
            if not text:
                return Extraction(failure="empty_box")
            return Extraction(text=text, method="boxed", listed=run.joined)
    if candidates:
        return Extraction(text=candidates[0].text, method=candidates[0].method)
    return Extraction(failure="nothing_found")
