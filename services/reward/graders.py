"""Reward functions by name: each maps one judged response to a number."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.data.boxed import innermost, outer_boxes
from services.common.errors import PlatformError
from services.common.trajectory import Outcome
from services.reward.extraction import Extraction, final_part

_THINK_TAG: Final = re.compile(r"</?think>")
_JUDGED: Final = (Outcome.CORRECT, Outcome.INCORRECT)


@dataclass(frozen=True)
class JudgedResponse:
    """What a grader sees."""

    response: str
    extraction: Extraction
    outcome: Outcome
    """A scored one."""


Grader = Callable[[JudgedResponse], float]


def accuracy(judged: JudgedResponse) -> float:
    """1 for a correct answer, else 0."""
    return float(judged.outcome is Outcome.CORRECT)


def boxed(judged: JudgedResponse) -> float:
    r"""1 when the answer judged was in a `\\boxed{}`, right or wrong, else 0."""
    return float(judged.outcome in _JUDGED and judged.extraction.method == "boxed")


def format_(judged: JudgedResponse) -> float:
    r"""1 for at most one closed think block at the start and exactly one non-empty box after it, else 0.

    A `</think>` without its opening counts as closed: chat templates may open it in the prompt. Answers that were cut
    off or cost too much score 0.
    """
    final = final_part(judged.response)
    if judged.outcome not in _JUDGED or final is None or not _thinks_once(judged.response):
        return 0.0
    boxes = outer_boxes(final)
    return float(len(boxes) == 1 and boxes[0].closed and bool(innermost(boxes[0].content)))


def _thinks_once(response: str) -> bool:
    tags = _THINK_TAG.findall(response)
    if tags == ["<think>", "</think>"]:
        return response.lstrip().startswith("<think>")
    return tags in ([], ["</think>"])


GRADERS: Final[Mapping[str, Grader]] = {"accuracy": accuracy, "boxed": boxed, "format": format_}


def resolve(names: Sequence[str]) -> dict[str, Grader]:
    """The graders of these names; raises PlatformError("invalid_request") for unknown and repeated ones."""
    unknown = [name for name in names if name not in GRADERS]
    if unknown or len(set(names)) < len(names):
        raise PlatformError(
            "invalid_request",
            f"Cannot grade with {list(names)}: each grader must be one of {sorted(GRADERS)}, named once.",
            param="graders",
        )
    return {name: GRADERS[name] for name in names}
