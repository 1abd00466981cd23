r"""The last `\boxed{…}` or `\fbox{…}` of a text, found in one pass without backtracking."""

import re
from dataclasses import dataclass
from typing import Final

_BOX: Final = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])")
_MAX_NESTED: Final = 8
_BRACE_OR_ESCAPE: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_ARGUMENT: Final = re.compile(r"[ \t]+([+-]?[\w.,/]*\w)")


@dataclass(frozen=True)
class Box:
    """A box: its content without the braces, and its position."""

    content: str
    start: int
    """Offset of the backslash."""
    end: int
    """Offset just after the closing brace; the length of the text if the box is not closed."""
    closed: bool


def outer_boxes(text: str) -> list[Box]:
    r"""Return the outermost boxes in order, in linear time.

    A box left open runs to the end of the text and is the last one. `\boxed 5` (a bare argument)
    counts as closed.
    """
    boxes: list[Box] = []
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        box = _parse_box(text, match)
        if box is not None:
            boxes.append(box)
        position = match.end() if box is None else box.end
    return boxes


def last_box(text: str) -> Box | None:
    """Return the last outermost box, closed or not."""
    boxes = outer_boxes(text)
    return boxes[-1] if boxes else None


def innermost(content: str) -> str:
    r"""Unwrap nested boxes: `\boxed{3}` becomes `3`."""
    stripped = content.strip()
    for _ in range(_MAX_NESTED):
        match = _BOX.match(stripped)
        box = _parse_box(stripped, match) if match else None
        if box is None or not box.closed or box.end != len(stripped):
            break
        stripped = box.content.strip()
    return stripped


def _parse_box(text: str, match: re.Match[str]) -> Box | None:
    opening = match.end()
    while opening < len(text) and text[opening].isspace():
        opening += 1
    if opening < len(text) and text[opening] == "{":
        inside, depth = opening + 1, 1
        for token in _BRACE_OR_ESCAPE.finditer(text, inside):
            # Escaped braces are tokens of two characters and do not count.
            depth += {"{": 1, "}": -1}.get(token.group(), 0)
            if depth == 0:
                return Box(text[inside : token.start()], match.start(), token.end(), closed=True)
        return Box(text[inside:], match.start(), len(text), closed=False)
    if opening == len(text):
        return Box("", match.start(), len(text), closed=False)
    argument = _BARE_ARGUMENT.match(text, match.end())
    return argument and Box(argument.group(1), match.start(), argument.end(), closed=True)
