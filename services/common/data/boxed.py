r"""The last `\boxed{…}` or `\fbox{…}` of a text, found in one pass without backtracking."""

from dataclasses import dataclass
from typing import Final

from services.common.linear_patterns import LinearPattern, Match

_BOX: Final = LinearPattern(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])")
_MAX_NESTED: Final = 8
_MAX_ARGUMENT_CHARS: Final = 2000
_BARE_ARGUMENT: Final = LinearPattern(r"[ \t]+([+-]?[\w.,/]*\w)")


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
    for match in _BOX.finditer(text):
        if boxes and match.start() < boxes[-1].end:
            continue
        box = _parse_box(text, match)
        if box is not None:
            boxes.append(box)
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


def _parse_box(text: str, match: Match) -> Box | None:
    opening = match.end()
    while opening < len(text) and text[opening].isspace():
        opening += 1
    if opening < len(text) and text[opening] == "{":
        inside = opening + 1
        end = _closing_brace(text, inside)
        if end is None:
            return Box(text[inside:], match.start(), len(text), closed=False)
        return Box(text[inside:end], match.start(), end + 1, closed=True)
    if opening == len(text):
        return Box("", match.start(), len(text), closed=False)
    argument = _BARE_ARGUMENT.match(text[match.end() : match.end() + _MAX_ARGUMENT_CHARS])
    if argument is None:
        return None
    return Box(argument.group(1), match.start(), match.end() + argument.end(), closed=True)


def _closing_brace(text: str, place: int) -> int | None:
    """Return the offset of the brace that closes one opened before `place`."""
    depth = 1
    while place < len(text):
        char = text[place]
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return place
        # Escaped braces do not count.
        place += 1 + (char == "\\")
    return None
