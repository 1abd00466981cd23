r"""Normalise notation, spacing, wrappers and units of answers without changing their meaning.

It runs in the serving process on answers that may be hostile, so every step takes linear time.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from services.common.answers.notation import TEXT, closes_at_end, unify_notation
from services.common.answers.number_words import parse_words
from services.common.answers.units import canonical as canonical_unit
from services.common.answers.units import is_known, split_unit
from services.common.linear_patterns import LinearPattern

_LEFT_EDGE: Final = " ,;:"
_RIGHT_EDGE: Final = " .,;:"
_MAX_WRAPPERS: Final = 12
_LEAD: Final = LinearPattern(
    rf"(?:{TEXT}\s*\{{)?\s*(?:the |final )*answer(?: is)?\s*:?\s*\}}?\s*"
    rf"|{TEXT}\s*\{{[a-z ,]{{3,}}(?::| is| equals| is equal to)\s*:?\s*\}}\s*|\\approx\s+|\\approx(?![a-z])",
    ignore_case=True,
)
_ALL_VALUES: Final = (
    rf"(?:{TEXT} ?\{{ ?)?(?:for )?(?:all|any|every)(?: real)?(?: numbers?)? ?\}}? ?"
)
_FOR_ALL: Final = LinearPattern(
    rf"^{_ALL_VALUES}(?=[a-z] ?(?:[<>]|\\[lg]))|[ ,]+{_ALL_VALUES}[a-z](?: ?\\in ?\\mathbb ?\{{ ?\w ?\}})?$"
)
_WHOLE_TEXT: Final = LinearPattern(TEXT + r"\s*\{([^{}]*)\}", dotall=True)
_LEADING_TEXT: Final = LinearPattern(
    TEXT + r"\s*\{([^{}\d]*[a-zA-Z]{3}[^{}]*)\}((?:[\d\s,]|" + TEXT + r"\s*\{[^{}]*\})+)"
)
_ARGUMENT: Final = LinearPattern(TEXT + r"\s*\{([^{}]*)\}")
_WORDS: Final = LinearPattern(r"[a-zA-Z][a-zA-Z' -]+(?:\(\d+\))?|\d+ ?\([a-zA-Z -]+\)")
_LETTER: Final = LinearPattern(TEXT + r"\s*\{\s*([a-zA-Z])\s*\}")
_COUNTED_WORDS: Final = LinearPattern(
    r"([a-zA-Z][a-zA-Z -]*[a-zA-Z])(?: ?\((\d+)\))?|(\d+) ?\(([a-zA-Z -]+)\)"
)
_PHRASES: Final = (
    (
        LinearPattern(
            r"(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?|(?:the )?(?:empty|null) set",
            ignore_case=True,
        ),
        r"\emptyset",
    ),
    (
        LinearPattern(
            r"(?:all |the set of )?(?:all )?(?:the )?real(?: numbers|s)|all real", ignore_case=True
        ),
        r"\mathbb{R}",
    ),
    (LinearPattern(r"dne|(?:the limit )?does not exist", ignore_case=True), "does not exist"),
)


@dataclass(frozen=True)
class Normalised:
    """An answer in normal form, without its trailing unit."""

    text: str
    unit: str = ""
    """Canonical unit with its powers, `%`, or empty."""
    is_text: bool = False
    r"""Whether the whole answer is in `\\text{}`, so that it is words even if it has only two letters."""


@lru_cache(maxsize=4096)
def normalise(answer: str) -> Normalised:
    """Convert an answer or reference answer to its normal form.

    Cached, because the responses of a group share their reference answer and often their answers.
    """
    text = _trim(unify_notation(answer))
    lead = _LEAD.match(text)
    text = _trim(_FOR_ALL.sub("", text[lead.end() :] if lead else text))
    words = _plain_words(text)
    if words is None:
        return _strip_unit(text)
    phrase = next((canonical for pattern, canonical in _PHRASES if pattern.fullmatch(words)), None)
    if phrase:
        return Normalised(phrase)
    number = _parse_number_words(words)
    if number or words[:1].isdigit():
        return number or _strip_unit(words)
    return Normalised(words, is_text=bool(_WHOLE_TEXT.fullmatch(text)))


def _plain_words(text: str) -> str | None:
    r"""Return the words of `\text{Evelyn}`, `\text{July }4` or plain text; None for formulas."""
    whole = _WHOLE_TEXT.fullmatch(text)
    if whole:
        return _trim(whole.group(1))
    if _LEADING_TEXT.fullmatch(text):
        return _trim(_ARGUMENT.sub(r"\1", text))
    return text if _WORDS.fullmatch(text) else None


def _parse_number_words(words: str) -> Normalised | None:
    """Convert `forty-two`, `forty-two (42)` and `seven days` to digits; None for other words."""
    if both := _COUNTED_WORDS.fullmatch(words):
        spelled, digits = both.group(1) or both.group(4), both.group(2) or both.group(3)
        value = parse_words(spelled)
        if value is not None and digits in (None, str(value)):
            return Normalised(_to_digits(value))
    amount, _, unit = words.rpartition(" ")
    value = parse_words(amount) if is_known(unit) else None
    return None if value is None else Normalised(_to_digits(value), canonical_unit(unit))


def _to_digits(value: Fraction) -> str:
    return (
        str(value)
        if value.denominator == 1
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def _strip_unit(text: str) -> Normalised:
    body, unit = split_unit(text)
    # Degrees and percents that are not a trailing unit are spelt as sympy reads them.
    body = _trim(body).replace(r"\text{degree}", r"^{\circ}").replace(r"\text{percent}", r"\%")
    return Normalised(_LETTER.sub(r"\1", body), unit)


def _trim(text: str) -> str:
    """Collapse blanks; strip trailing punctuation, stray backslashes and enclosing braces."""
    text = " ".join(text.split())
    for _ in range(_MAX_WRAPPERS):
        text = text.lstrip(_LEFT_EDGE).rstrip(_RIGHT_EDGE + "\\")
        if not (text.startswith("{") and text.endswith("}") and closes_at_end(text, "{", "}")):
            break
        text = text[1:-1]
    return text
