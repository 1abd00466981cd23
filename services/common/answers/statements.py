r"""Find answers in prose: `The answer is 5.`, `so $x=5$`, `#### 5`."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from services.common.answers.number_words import parse_words
from services.common.data.boxed import Box, innermost, outer_boxes
from services.common.linear_patterns import LinearPattern

_ANSWER_TAG: Final = LinearPattern(r"<answer>([^<]*)</answer>")
_HASHES: Final = LinearPattern(r"####[ \t]*([^\n]+)")
_PHRASE: Final = LinearPattern(
    r"(?:answer(?:\s+is)?\s*:|(?:answer|option|choice)\s+is)[ \t]*([^\n]+)", ignore_case=True
)
_FINAL: Final = LinearPattern(r"final\s+answer\s+is[ \t:]*([^\n]+)", ignore_case=True)
_DELIMITER: Final = LinearPattern(r"\\.|\$+", dotall=True)
_CLOSING: Final = {r"\(": r"\)", r"\[": r"\]", "$": "$"}
_SENTENCE_END: Final = LinearPattern(r"\.\s+[A-Z]")
_NUMBER: Final = LinearPattern(r"(?<![\w.,])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?")
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
_MAX_SOLUTION_CHARS: Final = 20_000
_MAX_BARE_CHARS: Final = 400
_MAX_WORDS: Final = 4
_GAP: Final = LinearPattern(
    r"\\q?quad|\\text|(?<![a-z])[a-z]+ (?=(?:and|or) )|(?<![a-z])[a-z] ?=|[\s,;$\\(){}\[\]]"
)
_MAX_BOX_GAP: Final = 40


class _Formula(NamedTuple):
    start: int
    end: int
    content: str


def extract_reference(reference: str) -> str:
    r"""Return the answer of a reference that is a sentence or a solution: its last boxes, or its
    statement.
    """
    boxes = [box for box in outer_boxes(reference) if box.closed]
    if boxes:
        return join_boxes(reference, boxes) or innermost(boxes[-1].content)
    announced = None if is_bare(reference) else find_stated(reference[-_MAX_SOLUTION_CHARS:])
    return announced[1] if announced else reference.strip()


def join_boxes(text: str, boxes: Sequence[Box]) -> str:
    r"""Join the last boxes of a list such as `\boxed{3} and \boxed{5}` by commas; "" for one box."""
    first = len(boxes) - 1
    while first > 0:
        gap = text[boxes[first - 1].end : boxes[first].start]
        if len(gap) > _MAX_BOX_GAP or _GAP.sub("", gap) not in ("", "and", "or"):
            break
        first -= 1
    run = [innermost(box.content) for box in boxes[max(first, 0) :]]
    return ",".join(run) if len(run) > 1 else ""


def find_stated(text: str) -> tuple[str, str] | None:
    """Return the form of a statement (answer_tag | hashes | phrase) and its answer; None without one."""
    for method, pattern in (("answer_tag", _ANSWER_TAG), ("hashes", _HASHES), ("phrase", _PHRASE)):
        found = [part.strip() for part in pattern.findall(text) if part.strip()]
        if found:
            return method, _first_statement(found[-1])
    return None


def final_statement(text: str) -> str:
    """Return the answer after the last `the final answer is`; "" without one."""
    found = _FINAL.findall(text)
    return _first_statement(found[-1].strip()) if found else ""


def is_bare(text: str) -> bool:
    """Whether the text is only an answer: one formula, a number with a unit, or at most two words."""
    text = text.strip()
    formulas = _find_formulas(text)
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


def last_value(text: str) -> tuple[str, str] | None:
    """Return the last formula (last_formula), or the last number after it (last_number)."""
    formulas = [formula for formula in _find_formulas(text) if not _is_prose(formula.content)]
    numbers = list(_NUMBER.finditer(text))
    if numbers and (not formulas or numbers[-1].start() >= formulas[-1].end):
        return "last_number", numbers[-1].group().rstrip(",")
    return ("last_formula", formulas[-1].content) if formulas else None


def _first_statement(line: str) -> str:
    """Return the leading formula of a line, else its first sentence, or the last value of a long one."""
    formulas = _find_formulas(line)
    if formulas and formulas[0].start == 0:
        return formulas[0].content
    sentence = _SENTENCE_END.text_before(line).lstrip("}").strip()
    value = last_value(sentence) if _is_prose(sentence) else None
    return value[1] if value else sentence


def _is_prose(text: str) -> bool:
    return len(_WORD.findall(_COMMAND.sub(" ", text))) > _MAX_WORDS


def _find_formulas(text: str) -> list[_Formula]:
    r"""Find `$…$`, `\(…\)` and `\[…\]` in one pass; ignores delimiters that are not closed."""
    found: list[_Formula] = []
    opening, start, inside = "", 0, 0
    for token in _DELIMITER.finditer(text):
        sign = token.group().replace("$", "") or "$"
        if opening and sign == _CLOSING[opening]:
            content = text[inside : token.start()].strip()
            found += [_Formula(start, token.end(), content)] if content else []
            opening = ""
        elif sign in _CLOSING and opening != "$":
            opening, start, inside = sign, token.start(), token.end()
    return found
