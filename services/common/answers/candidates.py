r"""Find what a text in prose may state as its answer, as candidates with a score.

`The final answer is **12**.`, `#### 12`, `Answer:\n12`, `so $x = 12$`, `the probability is 3/4.`
Every place is read to its end: the whole quotient `3/4`, without Markdown marks, without the clause
that follows. A sentence that only mentions its answer ("the final answer is correct") states none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.answers.statements import Formula, find_formulas, is_bare, is_prose, join_boxes
from services.common.data.boxed import innermost, outer_boxes
from services.common.linear_patterns import LinearPattern

_SCORES: Final = {
    "final_answer": 90, "boxed": 85, "answer_tag": 80, "hashes": 75, "phrase": 70, "whole": 65, "last_formula": 50,
    "last_number": 50,
}  # fmt: skip
"""Score by the place of a candidate, out of 100. Of equal scores the last place wins."""
_STATED: Final = ("final_answer", "answer_tag", "hashes", "phrase")
BOX_SCORE: Final = _SCORES["boxed"]
_PROSE_PENALTY: Final = 15
"""Words, and a number within a longer statement, are less certain than a statement that is a value."""
_MAX_SOLUTION_CHARS: Final = 20_000
_MAX_PHRASES: Final = 8
_MAX_STATEMENT: Final = 2000
_MAX_WORDS: Final = 3
_MAX_WORD: Final = 12
_MARKS: Final = ("**", "__", "*", "_", "``", "`")
_MARK_CHARACTERS: Final = "*_`#> \t"
_ARROWS: Final = "→⇒➡"
_HTML: Final = LinearPattern(r"</?(?:b|u|i|em|strong|p|br|span|div|center|mark|sub|sup) ?/?>")
_ASKED: Final = ("answer", "option", "choice")
_INDEFINITE: Final = frozenset({"each", "every", "any", "no", "another", "other", "one"})
"""Words before a mention that announces no answer: `Let's check each option:`."""
_REASONS: Final = frozenset(
    {
        "because", "since", "as", "which", "where", "when", "obtained", "given", "found", "using", "by", "after", "if",
        "but", "not",
    }
)  # fmt: skip
_CLAUSES: Final = _REASONS | {"so", "thus", "hence", "therefore"}
"""Words that begin a clause about the answer before them."""
_PREDICATES: Final = frozenset(
    {
        "is", "are", "was", "were", "be", "will", "would", "has", "have", "had", "gets", "takes", "took", "needs",
        "makes", "made", "costs", "earns", "pays", "equal", "equals", "there", "he", "she", "it", "they", "we", "you",
    }
)  # fmt: skip
"""Words of a sentence that says the answer: `There are 109 flowers`."""
_CONNECTIVES: Final = {",": ",", "or": r"\text{ or }", "and": r"\text{ and }", ", or": r"\text{ or }",
                       ", and": r"\text{ and }"}  # fmt: skip
_COMMENTS: Final = frozenset(
    {
        "correct", "right", "wrong", "incorrect", "in", "above", "below", "as", "follows", "not", "verified",
        "reasonable",
        "consistent", "boxed", "shown", "given", "obtained", "found", "by", "that", "this", "here", "therefore",
        "clear",
        "obvious", "unknown", "unclear", "it", "what", "now", "then", "simply", "just",
    }
)  # fmt: skip
"""Words of a sentence that speaks about the answer without stating it."""
_LINKS: Final = frozenset("+-*/^×÷·")
_ALIGNED: Final = tuple(
    rf"\begin{{{name}}}" for name in ("aligned", "align", "align*", "gathered", "gather*", "split")
)
_DIGITS: Final = frozenset("0123456789")


@dataclass(frozen=True)
class Candidate:
    """A text that may be the answer, without marks."""

    text: str
    method: str
    """Where it was found: a key of the scores."""
    score: int


def find_candidates(text: str) -> list[Candidate]:
    """Return the candidates, best first."""
    text = _HTML.sub("", text)
    found = [*_find_tags(text), *_find_hashes(text), *_find_phrases(text)]
    if not found and is_bare(text):
        stripped = strip_marks(text)
        found += [Candidate(stripped, "whole", _SCORES["whole"])] if stripped else []
    found += _find_last_value(text)
    # Each search yields its candidates in the order of their places; the last of the best wins.
    found.reverse()
    found.sort(key=lambda candidate: -candidate.score)
    return found


def extract_reference(reference: str) -> str:
    r"""Return the answer of a reference that is a sentence or a solution: its last boxes, or its
    statement.
    """
    boxes = [box for box in outer_boxes(reference) if box.closed]
    if boxes:
        return join_boxes(reference, boxes).joined or innermost(boxes[-1].content)
    if is_bare(reference):
        return reference.strip()
    stated = [
        one for one in find_candidates(reference[-_MAX_SOLUTION_CHARS:]) if one.method in _STATED
    ]
    return stated[0].text if stated else reference.strip()


def strip_marks(text: str) -> str:
    """Remove Markdown marks around the text, and the punctuation after it."""
    text = text.strip()
    while True:
        bare = text.rstrip(" .,;:")
        for mark in _MARKS:
            if bare.startswith(mark) and bare.endswith(mark) and len(bare) > 2 * len(mark):
                text = bare[len(mark) : -len(mark)].strip()
                break
        else:
            return text


def _find_tags(text: str) -> Iterator[Candidate]:
    for part in text.split("<answer>")[1:]:
        inside, closed, _ = part.partition("</answer>")
        if closed and inside.strip():
            yield Candidate(strip_marks(inside), "answer_tag", _SCORES["answer_tag"])


def _find_hashes(text: str) -> Iterator[Candidate]:
    for part in text.split("####")[1:][-_MAX_PHRASES:]:
        value = _read_statement(part.partition("\n")[0].strip(" \t#"))
        if value is not None:
            yield Candidate(value[0], "hashes", _SCORES["hashes"])


def _find_phrases(text: str) -> Iterator[Candidate]:
    """Yield what follows the last mentions of an answer: `the answer is`, `Answer:`, a heading."""
    lower = text.lower()
    for start, end in _find_mentions(lower):
        content = _skip_to_content(text, lower, start, end)
        if content is None:
            continue
        value = _read_statement(text[content : content + _MAX_STATEMENT])
        if value is None:
            continue
        is_final = lower[:start].rstrip(_MARK_CHARACTERS).endswith("final")
        method = "final_answer" if is_final else "phrase"
        statement, is_prose_value = value
        yield Candidate(statement, method, _SCORES[method] - _PROSE_PENALTY * is_prose_value)


def _find_mentions(lower: str) -> list[tuple[int, int]]:
    """Return the offsets of the last words that announce an answer, in order."""
    found: list[tuple[int, int]] = []
    for word in _ASKED:
        end = len(lower)
        for _ in range(_MAX_PHRASES):
            start = lower.rfind(word, 0, end)
            if start < 0:
                break
            before = lower[max(0, start - _MAX_WORD) : start].split()
            if not before or before[-1].strip(_MARK_CHARACTERS) not in _INDEFINITE:
                found.append((start, start + len(word)))
            end = start
    return sorted(found)[-_MAX_PHRASES:]


def _skip_to_content(text: str, lower: str, start: int, end: int) -> int | None:
    """Return the offset of what is stated after a mention; None if nothing is."""
    place = _skip(text, end, _MARK_CHARACTERS)
    if text[place : place + 1] in _ARROWS and place < len(text):
        return _skip(text, place, _MARK_CHARACTERS + _ARROWS)
    says = lower.startswith("is", place) and not lower[place + 2 : place + 3].isalpha()
    if says and lower[place + 2 : place + 3] not in ("'", "’"):
        place = _skip(text, place + 2, " \t")
        says_more = text[place : place + 1] in (":", "=")
        place += says_more
    elif text[place : place + 1] in (":", "="):
        place += 1
    elif not _is_heading(text, start, place):
        return None
    # Marks that end here began before the mention: `**Answer:** 12`.
    before = text[max(0, text.rfind("\n", 0, start) + 1) : start]
    for mark in _MARKS:
        if before.count(mark) % 2 and text.startswith(mark, place):
            place += len(mark)
            break
    return _skip(text, place, " \t\r\n" + _ARROWS)


def _is_heading(text: str, start: int, place: int) -> bool:
    """Whether the line holds only `answer` or `final answer` and marks."""
    if text[place : place + 1] not in ("\n", "\r"):
        return False
    line = text[max(0, text.rfind("\n", 0, start) + 1) : start].strip(_MARK_CHARACTERS).lower()
    return line in ("", "the", "final", "the final")


def _skip(text: str, place: int, characters: str) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place


def _read_statement(text: str) -> tuple[str, bool] | None:
    """Return the value that the text begins with, and whether it is prose; None without one."""
    text = text.strip()
    formulas = find_formulas(text)
    if formulas and formulas[0].start == 0:
        return _join_formulas(text, formulas), False
    for mark in _MARKS:
        if text.startswith(mark) and (end := text.find(mark, len(mark))) > len(mark):
            inside = text[len(mark) : end].strip()
            if inside and "\n" not in inside:
                value = _read_statement(inside)
                return (value[0], False) if value else (inside, False)
    line = text.partition("\n")[0]
    sentence = _cut_clause(line, _CLAUSES).strip(" .,;:*_`}")
    if not sentence:
        return None
    words = _words_of(sentence)
    if len(words) > 1 and not sentence[0].isdigit() and _PREDICATES.intersection(words):
        return _read_sentence(_cut_clause(line, _REASONS))
    if not _DIGITS.intersection(sentence) and "\\" not in sentence:
        return (sentence, True) if not _is_comment(words) else None
    if not is_prose(sentence) and not (_COMMENTS | _CLAUSES).intersection(words):
        return sentence, False
    inner = list(_find_last_value(sentence))
    return (inner[0].text, True) if inner else None


def _join_formulas(text: str, formulas: Sequence[Formula]) -> str:
    """Return the first formula with those that follow it as further values: `$x=3$ or $x=5$`."""
    joined, end = formulas[0].content, formulas[0].end
    for formula in formulas[1:]:
        connective = _CONNECTIVES.get(text[end : formula.start].strip())
        if connective is None:
            break
        joined, end = f"{joined}{connective}{formula.content}", formula.end
    return joined


def _words_of(sentence: str) -> list[str]:
    return [word.strip(".,:;'\"!?*_`").lower() for word in sentence.split()]


def _read_sentence(sentence: str) -> tuple[str, bool] | None:
    """Return what a sentence states last, in bold type if it has any; None for one without a value."""
    bold = sentence.split("**")[1::2]
    values = _find_last_value(bold[-1]) if bold else []
    values = values or _find_last_value(sentence)
    if values:
        return values[0].text, True
    words = _words_of(sentence)
    return None if _is_comment(words) else (sentence.strip(" .,;:*_`}"), True)


def _is_comment(words: list[str]) -> bool:
    return len(words) > _MAX_WORDS or bool(_COMMENTS.intersection(words))


def _cut_clause(line: str, clauses: frozenset[str]) -> str:
    """Return the line up to the end of its sentence, or to a clause that begins with one of the words.

    After a value every clause that follows a comma is about it; a sentence may say its value there.
    """
    is_value = clauses is _CLAUSES
    place = 0
    while place < len(line):
        after = line[place + 1 : place + 2]
        if line[place] == "." and (not after or after.isspace()):
            return line[:place]
        if line[place] in ",;" and after == " ":
            word = _word_at(line, place + 2)
            if word in clauses or (is_value and len(word) > 1 and word not in ("and", "or")):
                return line[:place]
        if line[place] == " " and place and _word_at(line, place + 1 + (after == "(")) in clauses:
            return line[:place].removesuffix(" and").removesuffix(" or")
        place += 1
    return line


def _word_at(line: str, place: int) -> str:
    end = place
    while end < len(line) and line[end].isalpha():
        end += 1
    return line[place:end].lower()


def _find_last_value(text: str) -> list[Candidate]:
    """Return the last formula, or the calculation or number after it."""
    formulas = [
        formula._replace(content=_last_row(formula.content))
        for formula in find_formulas(text)
        if not is_prose(formula.content)
    ]
    values = list(_find_calculations(text, formulas[-1].end if formulas else 0))
    if values:
        return [Candidate(values[-1], "last_number", _SCORES["last_number"])]
    if formulas:
        first = len(formulas) - 1
        while (
            first and text[formulas[first - 1].end : formulas[first].start].strip() in _CONNECTIVES
        ):
            first -= 1
        joined = _join_formulas(text, formulas[first:])
        return [Candidate(joined, "last_formula", _SCORES["last_formula"])]
    return []


def _last_row(formula: str) -> str:
    r"""Return what follows the last equals sign of an `aligned` calculation; other formulas whole."""
    begun = formula.rfind(r"\begin{")
    if begun < 0 or not formula.startswith(_ALIGNED, begun):
        return formula
    rows = formula[begun:].partition("}")[2].rpartition(r"\end{")[0].split(r"\\")
    row = next((row for row in reversed(rows) if row.strip()), "").replace("&", " ")
    return row.rpartition("=")[2].strip(" .,\n") or formula


def _find_calculations(text: str, start: int) -> Iterator[str]:
    """Yield numbers, and calculations such as `3/4`, from an offset on; not what follows `not`."""
    place = start
    while (found := _next_number(text, place)) is not None:
        begin, place = found
        end = place
        while (link := _linked_number(text, end)) is not None:
            end = place = link
        if not _is_denied(text, begin):
            yield text[begin:end].rstrip(",")


def _next_number(text: str, place: int) -> tuple[int, int] | None:
    while place < len(text):
        if text[place] in _DIGITS or (
            text[place] == "."
            and text[place + 1 : place + 2] in _DIGITS
            and text[place + 1 : place + 2]
        ):
            before = text[place - 1 : place] if place else ""
            end = _number_end(text, place)
            if before.isalnum() or before in ("_", ".", ","):
                place = end
                continue
            signed = before in ("-", "+") and not (
                place > 1 and (text[place - 2].isalnum() or text[place - 2] in ")]}")
            )
            return place - signed, end
        place += 1
    return None


def _number_end(text: str, place: int) -> int:
    """Return the end of a number with its groups of digits, decimal places and percent sign."""
    while place < len(text) and text[place] in _DIGITS:
        place += 1
    while text[place : place + 1] == "," and text[place + 1 : place + 2].isdigit():
        place = _skip(text, place + 1, "0123456789")
    if text[place : place + 1] == "." and text[place + 1 : place + 2].isdigit():
        place = _skip(text, place + 1, "0123456789")
    return place + (text[place : place + 1] == "%")


def _linked_number(text: str, place: int) -> int | None:
    """Return the end of the number that an operator links to the one before; None without one."""
    # A ratio has no blanks; a colon before one ends a phrase.
    if text[place : place + 1] == ":" and text[place + 1 : place + 2].isdigit():
        return _number_end(text, place + 1)
    operator = _skip_one_blank(text, place)
    if text[operator : operator + 1] not in _LINKS or operator >= len(text):
        return None
    start = _skip_one_blank(text, operator + 1)
    if text[start : start + 1] not in _DIGITS or start >= len(text):
        return None
    return _number_end(text, start)


def _skip_one_blank(text: str, place: int) -> int:
    return place + (text[place : place + 1] == " ")


def _is_denied(text: str, place: int) -> bool:
    words = text[max(0, place - 12) : place].lower().replace("’", "'").split()
    return bool(words) and (words[-1] == "not" or words[-1].endswith("n't"))
