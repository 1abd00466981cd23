r"""Parse and compare answers with several values: `1,2`, `\{1,2\}`, `(1,2)`, `[0,1)`."""

from dataclasses import dataclass
from typing import Final

from services.common.answers.notation import closes_at_end
from services.common.answers.rationals import Rational, is_same_number, parse_rational
from services.common.linear_patterns import LinearPattern

_SET: Final = LinearPattern(r"\\\{(.*)\\\}", dotall=True)
_UNLIKE_ELEMENTS: Final = ("=", r"\pm", r"\mp", r"\cup", "<", ">", r"\in")
UNORDERED: Final = "{}"


@dataclass(frozen=True)
class Sequence:
    """Values in brackets; `{}` for sets and bare lists, which are unordered."""

    brackets: str
    elements: tuple[str, ...]


def parse_sequence(text: str) -> Sequence | None:
    """Parse a normalised answer as a sequence; None if it is a single value."""
    whole = _SET.fullmatch(text)
    if whole:
        return Sequence(UNORDERED, split_outside(whole.group(1)))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and closes_at_end(text, "([", ")]"):
        elements = split_outside(text[1:-1])
        return Sequence(text[0] + text[-1], elements) if len(elements) > 1 else None
    elements = split_outside(text)
    return Sequence(UNORDERED, elements) if len(elements) > 1 else None


def is_same_sequence(reference: Sequence, answer: Sequence) -> bool | None:
    """Whether the sequences are equal, unordered ones as multisets; None if not all elements are
    plain numbers.

    Compared here because the comparator reads lists as sets, so that `1,1,2` would equal `1,2`.
    """
    if reference.brackets != answer.brackets:
        return None
    if reference.brackets == UNORDERED and all(
        element.startswith("(") for element in reference.elements
    ):
        # Solutions of a system of equations: repeating one does not change the answer.
        reference, answer = _drop_duplicates(reference), _drop_duplicates(answer)
    references, answers = _parse_numbers(reference), _parse_numbers(answer)
    if references is None or answers is None:
        plain = not any(
            sign in element
            for element in reference.elements + answer.elements
            for sign in _UNLIKE_ELEMENTS
        )
        return False if plain and len(reference.elements) != len(answer.elements) else None
    if reference.brackets == UNORDERED:
        references.sort(key=lambda number: number.value)
        answers.sort(key=lambda number: number.value)
    return len(references) == len(answers) and all(map(is_same_number, references, answers))


def _drop_duplicates(sequence: Sequence) -> Sequence:
    return Sequence(
        sequence.brackets,
        tuple({element.replace(" ", ""): element for element in sequence.elements}.values()),
    )


def _parse_numbers(sequence: Sequence) -> list[Rational] | None:
    numbers = [parse_rational(element) for element in sequence.elements]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else None


def split_outside(text: str) -> tuple[str, ...]:
    """Split at commas and semicolons outside brackets."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in ",;" and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return (*parts, text[start:].strip())
