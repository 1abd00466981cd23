r"""One spelling for equal answers: Unicode, spacing, units, wrappers and digit groups; the meaning is kept.

Runs in the serving process on answers that may be hostile: every pattern is linear and the input is bounded by the
guard's length limit.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_CHARACTERS: Final = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "°": r"^\circ ", "±": r"\pm ", "⟨": "(", "⟩": ")", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
        "⁰": "^{0}", "¹": "^{1}", "²": "^{2}", "³": "^{3}", "⁴": "^{4}",
        "⁵": "^{5}", "⁶": "^{6}", "⁷": "^{7}", "⁸": "^{8}", "⁹": "^{9}", "€": "", "£": "", "¢": r"\text{ cents}",
    }
)  # fmt: skip
_TEXT: Final = (
    r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|mathsf|operatorname|bold|boldsymbol"
    r"|underline|emph|bm|pmb)"
)
_UNITS: Final = {
    "mm": "mm", "millimeter": "mm", "cm": "cm", "centimeter": "cm", "m": "m", "meter": "m", "metre": "m", "km": "km",
    "kilometer": "km", "inch": "inch", "inches": "inch", "foot": "foot", "feet": "foot", "ft": "foot", "yard": "yard",
    "mile": "mile", "mi": "mile", "g": "g", "gram": "g", "kg": "kg", "kilogram": "kg", "pound": "pound",
    "lb": "pound", "lbs": "pound", "ounce": "ounce", "oz": "ounce", "ton": "ton", "s": "s", "second": "s",
    "sec": "s", "min": "minute", "minute": "minute", "h": "hour", "hr": "hour", "hour": "hour", "day": "day",
    "week": "week", "month": "month", "year": "year", "unit": "unit", "degree": "degree", "deg": "degree",
    "dollar": "dollar", "cent": "cent", "mph": "mph", "liter": "liter", "litre": "liter", "ml": "ml",
    "people": "people", "person": "people", "student": "student", "way": "way", "time": "time", "coin": "coin",
    "point": "point", "square": "square", "sq": "square", "cubic": "cubic", "percent": "%",
    "percentage": "%", "pct": "%",
}  # fmt: skip
_COUNTED: Final = frozenset({"unit", "people", "person", "student", "way", "time", "coin", "point", "square", "cubic"})
_MEASURES: Final = frozenset(_UNITS.values()) - _COUNTED
_POWER_WORDS: Final = {"square": "2", "cubic": "3"}
_UNKNOWN_UNIT: Final = re.compile(r" ([a-z]{3,})(?<!not)(?<!and)(?<!more)(?<!less)(?<!fewer)(?<!plus)(?<!minus)")
"""`12 marbles`: any word after a blank."""
_BEFORE_BARE_UNIT: Final = (*string.digits, "}", ")")
_GUESSED_BARE: Final = frozenset({"m", "g", "s", "h"})
"""Units that are variables unless they stand in \\text{} or \\mathrm{}."""


def _pattern(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


_DIGIT_GROUPS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"(?<=\d)(?:\{,\}|,\\! ?|\\[,!;: ])(?=\d{3}(?!\d))"), ""),
    (_pattern(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])"), lambda match: match.group().replace(" ", "")),
)
_COMMANDS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"\\\\(?=(?:begin|end|[dtc]?frac|sqrt|left|right|cdot|text)(?![a-z]))"), r"\\"),
    (_pattern(r"√\s*(\w+)"), r"\\sqrt{\1}"),
    (_pattern(r"√"), r"\\sqrt"),
    (_pattern(r"\\\$|\\?\""), ""),
    (_pattern(r"\$|(?<!\\)\\[()\[\]]"), " "),
    (_pattern(r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits)(?![a-z])\.?"), ""),
    (_pattern(r"\\l?angle(?![a-z])\s*(?=[-\d\\a-z(][^<>]*\\rangle)"), "("),
    (_pattern(r"\\rangle(?![a-z])"), ")"),
    (_pattern(r"\\(?:text)?color\s*\{\w*\}"), ""),
    (_pattern(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (_pattern(r"\{?\s*(\w+)\s*\\choose(?![a-z])\s*(\w+)\s*\}?"), r"\\binom{\1}{\2}"),
    (_pattern(r"\\root\s*(\w+)\s*\\of\s*\{?\s*(\w+)\s*\}?"), r"\\sqrt[\1]{\2}"),
    (_pattern(r"(\\(?:pi|alpha|beta|delta|theta|lambda|mu|phi|omega))\s*\("), r"\1\\cdot ("),  # no functions
    (_pattern(r"\{:\}"), ":"),
    (_pattern(r"\\log\s*_\s*(\w|\\[a-z]+)"), r"\\log_{\1}"),
    (_pattern(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (_pattern(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (_pattern(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![a-z])"), " "),
    (_pattern(r"\\gamma(?![a-z])"), r"g_{9}"),  # the library reads \gamma as a function
    (_pattern(r"\\varnothing(?![a-z])|\\\{\s*\\\}"), r"\\emptyset"),
    (_pattern(r"\\le(?:q|qslant)(?![a-z])"), r"\\le"),
    (_pattern(r"\\ge(?:q|qslant)(?![a-z])"), r"\\ge"),
    (_pattern(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))"), r"\\text{degree}"),
    (_pattern(r"\\?%"), r"\\text{percent}"),
)
_NUMBERS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)"), r"\1\\times 10^{\2}"),
    (_pattern(r"\*\*"), "^"),
    (_pattern(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (_pattern(r"\s*\*\s*"), r"\\cdot "),
    (_pattern(r"(?<![a-zA-Z\\_^{])i(?=\()"), r"i\\cdot "),
    (_pattern(r"(?<=[_^])\s*" + _TEXT + r"\s*\{\s*(\w+)\s*\}"), r"{\1}"),
    (_pattern(r"(?<=[_^])\s*\{\s*" + _TEXT + r"\s*\{\s*(\w+)\s*\}\s*\}"), r"{\1}"),
    (_pattern(r"(?<=_)\s*(?:\{\s*\\odot\s*\}|\\odot(?![a-z]))"), r"{o}"),
    (_pattern(_TEXT + r"\s*\{\s*([a-fi-kn-rt-zA-Z])\s*\}"), r"\1"),
    (_pattern(_TEXT + r"\s*\{\s*([-+]?[\d.,/]+)\s*\}"), r"\1"),
    (_pattern(r"(?:" + _TEXT + r"\s*\{\s*,?\s*(?:and|or)\s*\}|(?<=[\d)} ]),? +(?:and|or) +(?=[-\d(\\]))"), ","),
    (_pattern(r",(?:\s*,)+"), ","),
)
_LEAD: Final = _pattern(r"(?i)^(?:" + _TEXT + r"\s*\{)?\s*(?:the |final )*answer(?: is)?\s*:?\s*\}?\s*")
_LEFT_EDGE: Final = " ,;:"
_RIGHT_EDGE: Final = " .,;:"
_WHOLE_TEXT: Final = _pattern(_TEXT + r"\s*\{([^{}]*)\}")
_NOTHING: Final = _pattern(
    r"(?i)(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?|(?:the )?(?:empty|null) set"
)
_TRAILING_POWER: Final = _pattern(r"\^ ?\{? ?\d ?\}?\Z")
_UNIT_TEXT: Final = _pattern(_TEXT + r" ?\{([a-zA-Z ./]*)\}\Z")


@dataclass(frozen=True)
class Normalised:
    """An answer in normal form, its trailing unit apart."""

    text: str
    unit: str = ""
    """Canonical unit with its power, `%`, or empty."""


def normalise(answer: str) -> Normalised:
    """Bring an answer or gold into normal form."""
    text = answer.translate(_CHARACTERS)
    text = unicodedata.normalize("NFKC", text).strip().removeprefix("**").removesuffix("**")
    text = _rewrite(text, (*_DIGIT_GROUPS, *_COMMANDS, *_NUMBERS))
    text = _trim(_LEAD.sub("", _trim(text), count=1))
    whole = _WHOLE_TEXT.fullmatch(text)
    words = _trim(whole.group(1)) if whole else text
    if _NOTHING.fullmatch(words):
        return Normalised(r"\emptyset")
    return Normalised(words) if whole else _split_unit(text)


def _rewrite(text: str, rewrites: tuple[Rewrite, ...]) -> str:
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


def _trim(text: str) -> str:
    """Blanks collapsed; trailing punctuation, stray backslashes and one pair of enclosing braces gone."""
    text = re.sub(r"\s+", " ", text).lstrip(_LEFT_EDGE).rstrip(_RIGHT_EDGE + "\\")
    if text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        return _trim(text[1:-1])
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _split_unit(text: str) -> Normalised:
    power = _TRAILING_POWER.search(text)
    stem = text[: power.start()].rstrip() if power else text
    words = _UNIT_TEXT.search(stem)
    if words:
        body, names = stem[: words.start()], words.group(1)
    else:
        body = stem.rstrip(string.ascii_letters + " .")
        names = stem[len(body) :]
        known = _UNKNOWN_UNIT.fullmatch(names) or all(_is_bare_unit(name) for name in names.split())
        if not known or not body.endswith(_BEFORE_BARE_UNIT):
            return Normalised(_restore(text))
    if not body.strip() or not names.strip():
        return Normalised(_restore(text))
    return Normalised(_restore(_trim(body)), _unit(names, power.group() if power else ""))


def _restore(text: str) -> str:
    """Degrees and percents that are no trailing unit, as the library spells them."""
    return text.replace(r"\text{degree}", r"^{\circ}").replace(r"\text{percent}", r"\%")


def _is_bare_unit(word: str) -> bool:
    return _canonical(word) is not None and word not in _GUESSED_BARE


def _canonical(word: str) -> str | None:
    lower = word.strip(".").lower()
    return _UNITS.get(lower) or _UNITS.get(lower.removesuffix("s"))


def units_conflict(first: str, second: str) -> bool:
    """Whether both units are known measures and differ; a missing or unknown unit is no contradiction."""
    return bool(first and second) and first != second and _is_measure(first) and _is_measure(second)


def _is_measure(unit: str) -> bool:
    return unit.partition("^")[0] in _MEASURES


def _unit(words: str, power: str) -> str:
    names = [_canonical(word) or word.strip(".").lower() for word in words.split()]
    exponent = re.sub(r"\D", "", power)
    if len(names) > 1 and names[0] in _POWER_WORDS:
        exponent = _POWER_WORDS[names.pop(0)]
    return " ".join(names) + (f"^{exponent}" if exponent else "")
