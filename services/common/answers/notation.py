r"""Rewrite equivalent notations to one: Unicode, plain-text functions, binomials, bases, degrees.

Every rewrite keeps the meaning, and takes linear time, since answers may be hostile.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from services.common.answers.number_words import parse_words
from services.common.linear_patterns import LinearPattern, Match

Rewrite = tuple[LinearPattern, str | Callable[[Match], str]]

TEXT: Final = (
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mbox|mathrm|mathbf|mathit|mathsf|operatorname|bold"
    r"|boldsymbol|underline|emph|bm|pmb)\*?"
)
"""Commands that only style their argument."""

_CHARACTERS: Final = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/",
        "∗": "*", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "⩽": r"\le ", "⩾": r"\ge ", "≈": r"\approx ", "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "∅": r"\emptyset ", "∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
        "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "⟨": "(", "⟩": ")", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
        "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "α": r"\alpha ",
        "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ",
        "μ": r"\mu ", "µ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ω": r"\omega ",
        "Δ": r"\Delta ", "Ω": r"\Omega ", "€": "", "£": "", "₹": "", "¥": "", "¢": r"\text{ cents}",
        "“": '"', "”": '"', "‘": "'", "’": "'",
    }
)  # fmt: skip
_RAISED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙₖ", "0123456789nk")
_RAISED_RUN: Final = LinearPattern("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED_RUN: Final = LinearPattern("[₀₁₂₃₄₅₆₇₈₉ₙₖ]+")
_VULGAR_FRACTION: Final = LinearPattern("[¼-¾⅐-⅞]")
_FUNCTIONS: Final = r"arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log"
_NAMED: Final = r"gcd|lcm|max|min|exp"
_GREEK: Final = r"\\(?:pi|alpha|beta|delta|theta|lambda|mu|phi|omega)"
_NESTED: Final = r"\(((?:[^()]|\([^()]*\))*)\)"
_ARGUMENT: Final = (
    rf"(?:{_NESTED}|(\\frac\s*\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}"
    r"|(?:\d+|\\?[a-z]+)(?:\s*\\text\{degree\})?))"
)
_TOKEN: Final = r"(?:\{([^{}]*)\}|(\w))"
_SIZE: Final = r"\\(?:left|right|[bB]igg?[lrm]?)"
_TRIGONOMETRIC: Final = r"\\(?:sin|cos|tan|cot|sec|csc)"
_DEGREE: Final = r"\\text\{degree\}"
_END_OF_DEGREES: Final = rf"(?: ?\}})? ?{_DEGREE}"
_RADIANS: Final = r"\\cdot\\frac{\\pi}{180}"


def _pattern(expression: str) -> LinearPattern:
    return LinearPattern(expression, dotall=True)


def _rewrite_binomial(match: Match) -> str:
    above, below = (group for group in match.groups() if group is not None)
    return rf"\binom{{{above.strip()}}}{{{below.strip()}}}"


def _rewrite_indexed_binomial(match: Match) -> str:
    """Rewrite `C_n^k` and `C^k_n`; the larger number is n, and `C_1^2` is the square of a constant."""
    low, high = (group for group in match.groups() if group is not None)
    if match.group().lstrip("C ").startswith("^"):
        low, high = high, low
    if low.isdigit() and high.isdigit() and int(low[:9]) < int(high[:9]):
        return match.group()
    return rf"\binom{{{low}}}{{{high}}}"


def _rewrite_permutation(match: Match) -> str:
    of, some = (group for group in match.groups() if group is not None)
    return rf"\frac{{({of})!}}{{({of}-{some})!}}"


def _rewrite_base(match: Match) -> str:
    """Rewrite `52_{eight}` and `52 (base 8)` to `52_{8}`; other subscripts are not changed."""
    base = match.group("base")
    value = parse_words(base)
    return match.group() if value is None else f"{match.group('digits')}_{{{value}}}"


def _to_radians(match: Match) -> str:
    r"""Rewrite degrees in the argument of a trigonometric function to multiples of \pi."""

    def to_fraction(plain: Match) -> str:
        # The decimal places move to the denominator, so that the argument stays exact.
        number = next(group for group in plain.groups() if group)
        whole, _, digits = number.partition(".")
        return rf"\frac{{{whole}{digits}\pi}}{{{180 * 10 ** len(digits)}}}"

    text = _PLAIN_DEGREES.sub(to_fraction, match.group())
    return _OTHER_DEGREES.sub(rf"\1{_RADIANS}", text)


_PLAIN_DEGREES: Final = _pattern(
    rf"(?<=[a-z])\{{ ?(\d+(?:\.\d+)?|[a-zA-Z]|\\[a-z]+){_END_OF_DEGREES}"
    rf"|(?<![\w.])(\d+(?:\.\d+)?){_END_OF_DEGREES}"
    rf"|(?<![\\a-zA-Z])([a-zA-Z]){_END_OF_DEGREES}|(\\[a-z]+){_END_OF_DEGREES}"
)
_OTHER_DEGREES: Final = _pattern(rf"([)}}\w]) ?{_DEGREE}")

_OPENING_ANGLE: Final = _pattern(r"\\l?angle(?=[-\d\\(])|\\l?angle\s+(?=[-\d\\a-z(])")


def _open_angles(match: Match) -> str:
    r"""Rewrite the angle brackets that a later `\rangle` closes."""
    inside = match.group().removesuffix(r"\rangle")
    return _OPENING_ANGLE.sub("(", inside) + r"\rangle"


_DIGIT_GROUPS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"(?<=\d)(?: ?\{, ?\}|,\\! ?|\\[,!;: ])(?=\d{3}(?!\d))"), ""),
    (
        _pattern(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])"),
        lambda match: match.group().replace(" ", ""),
    ),
)
_LAYOUT: Final[tuple[Rewrite, ...]] = (
    (
        _pattern(r"(?<!\\)\\\\(?=(?:begin|end|[dtc]?frac|sqrt|left|right|cdot|text)(?![a-z]))"),
        r"\\",
    ),
    (
        _pattern(r"\A\s*\\\$\s*([-\d.,{}!\\ ]*\d)\s*\Z"),
        r"\1 \\text{dollars}",
    ),  # `\$` and `¢` are different units
    (_pattern(r"\\\$|\\?\""), ""),
    (_pattern(r"\$|(?<!\\)\\[()\[\]]"), " "),
    (_pattern(r"\\[hv]space\*?\s*\{[^{}]*\}"), " "),
    (_pattern(rf"{_SIZE}\.|{_SIZE}(?![a-z])"), ""),
    (
        _pattern(
            r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|sf|tt|normalfont|strut|hfill"
            r"|nobreak|allowbreak|ensuremath)(?![a-zA-Z])"
        ),
        "",
    ),
    (_pattern(r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|equation|split)\*?\}"), " "),
    (_pattern(r"\\\\\s*\[[\d. ]*[a-z]+\]|\\cr(?![a-z])"), r"\\\\"),
    (_pattern(r"\\\\\s*(?=\\end(?![a-z]))"), " "),
    (_pattern(r"\\lbrace(?![a-z])"), r"\\{"),
    (_pattern(r"\\rbrace(?![a-z])"), r"\\}"),
    (_pattern(r"[^<>]*\\rangle"), _open_angles),
    (_pattern(r"\\rangle(?![a-z])"), ")"),
    (_pattern(r"\\(?:text)?color\s*\{\w*\}"), ""),
    (_pattern(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![a-z])"), " "),
    (_pattern(r"\{:\}|" + TEXT + r"\{\s*:\s*\}"), ":"),
)
_COMMANDS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"\\(?:[dtcs]|nice)frac(?![a-z])"), r"\\frac"),
    (
        _pattern(r"\{\s*([^{}\\]+?)\s*\\over(?:\s+([^{}\\]+?)|([^{}\\a-z][^{}\\]*?))\s*\}"),
        r"\\frac{\1}{\2\3}",
    ),
    (_pattern(r"\{?\s*(\w+)\s*\\choose(?:\s+(\w+)|([A-Z\d_]\w*))\s*\}?"), r"\\binom{\1}{\2\3}"),
    (_pattern(r"\\root\s*(\w+)\s*\\of\s*\{?\s*(\w+)\s*\}?"), r"\\sqrt[\1]{\2}"),
    (_pattern(rf"({_GREEK})\s*\("), r"\1\\cdot ("),  # no functions
    (_pattern(r"\\log\s*_\s*(\w|\\[a-z]+)"), r"\\log_{\1}"),
    (_pattern(r"\\lg(?![a-z])"), r"\\log_{10}"),
    (_pattern(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (_pattern(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (_pattern(r"\\varnothing(?![a-z])|\\\{\s*\\\}"), r"\\emptyset"),
    (_pattern(r"\\le(?:q|qslant)(?![a-z])|<="), r"\\le"),
    (_pattern(r"\\ge(?:q|qslant)(?![a-z])|>="), r"\\ge"),
    (
        _pattern(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-z])|\\(?:degree|textdegree)(?![a-z])"),
        r"\\text{degree}",
    ),
    (
        _pattern(rf"{_DEGREE}\s*{TEXT}\s*\{{\s*C\s*\}}|{_DEGREE}\s*C(?![a-zA-Z])"),
        r"\\text{celsius}",
    ),
    (
        _pattern(rf"{_DEGREE}\s*{TEXT}\s*\{{\s*F\s*\}}|{_DEGREE}\s*F(?![a-zA-Z])"),
        r"\\text{fahrenheit}",
    ),
    (_pattern(r"\\?%"), r"\\text{percent}"),
)
_ROOTS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"∛"), "cbrt"),
    (_pattern(r"√\s*(\d+|\w)"), r"\\sqrt{\1}"),
    (_pattern(r"√"), r"\\sqrt"),
    (_pattern(rf"(?<![\\a-zA-Z])(?:np\.)?sqrt\s*{_NESTED}"), r"\\sqrt{\1}"),
    (
        _pattern(r"(?<![\\a-zA-Z])sqrt\s*(\d+)|(?<![\\a-zA-Z])sqrt\s*([a-z])(?![a-z])"),
        r"\\sqrt{\1\2}",
    ),
    (_pattern(rf"(?<![\\a-zA-Z])cbrt\s*{_NESTED}"), r"\\sqrt[3]{\1}"),
    (_pattern(r"(?<![\\a-zA-Z])cbrt\s*(\d+|\w)"), r"\\sqrt[3]{\1}"),
)
_PLAIN_NAMES: Final[tuple[Rewrite, ...]] = (
    (_pattern(TEXT + rf"\s*\{{\s*({_FUNCTIONS}|{_NAMED})\s*\}}"), r"\\\1 "),
    (
        _pattern(
            rf"(?<![\\a-zA-Z])(?:np\.|math\.)?({_FUNCTIONS})(?=\s*[(^_\d\\]|\s+[a-z](?![a-z]))"
        ),
        r"\\\1",
    ),
    (_pattern(rf"(?<![\\a-zA-Z])(?:np\.|math\.)?({_NAMED})(?=\s*(?:\(|\\\{{))"), r"\\\1"),
    (_pattern(rf"\\({_NAMED})\s*\\\{{([^{{}}]*)\\\}}"), r"\\\1(\2)"),
    (_pattern(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (_pattern(r"(?<![\\a-zA-Z])(?:infinity|infty)(?![a-zA-Z])"), r"\\infty "),
    (
        _pattern(rf"{TEXT}\s*\{{\s*cis\s*\}}\s*{_ARGUMENT}|(?<![\\a-zA-Z])cis\s*{_ARGUMENT}"),
        r"(\\cos(\1\2\3\4)+i\\sin(\1\2\3\4))",
    ),
)
_COUNTING: Final[tuple[Rewrite, ...]] = (
    (_pattern(rf"(?:\{{\s*\}})?\s*[_^]\s*{_TOKEN}\s*C\s*_\s*{_TOKEN}"), _rewrite_binomial),
    (_pattern(rf"(?:\{{\s*\}})?\s*[_^]\s*{_TOKEN}\s*P\s*_\s*{_TOKEN}"), _rewrite_permutation),
    (
        _pattern(rf"(?<![a-zA-Z\\}}])C\s*(?:_\s*{_TOKEN}\s*\^|\^\s*{_TOKEN}\s*_)\s*{_TOKEN}"),
        _rewrite_indexed_binomial,
    ),
)
_BASES: Final[tuple[Rewrite, ...]] = (
    (_pattern(TEXT + r"\s*\{\s*([0-9A-F]*\d[0-9A-F]*)\s*\}(?=\s*_)"), r"\1"),
    (_pattern(r"(?<=\d)" + TEXT + r"\s*\{\s*([A-F]+)\s*\}(?=\s*_)"), r"\1"),
    (_pattern(r"_\s*\{\s*(?:" + TEXT + r"\s*\{)?\s*base[\s-]*\}?\s*(\w+)\s*\}?\s*\}"), r"_{\1}"),
    (_pattern(r"(?P<digits>[\dA-F)])\s*_\s*\{(?P<base>[a-z]{3,9})\}"), _rewrite_base),
    (
        _pattern(
            r"(?P<digits>[\dA-F)])\s*,?\s*(?:"
            + TEXT
            + r"\s*\{)?[\s(]*(?:in\s+)?base[\s-]*\}?\s*(?P<base>\w+)[\s)}]*\Z"
        ),
        _rewrite_base,
    ),
)
_NUMBERS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)"), r"\1\\times 10^{\2}"),
    (_pattern(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)"), r"\\times "),
    (_pattern(r"(?<=\d)\.(?=\s*/)"), ""),
    (
        _pattern(r"(?<=[\w)}])!=(?!=)"),
        "! =",
    ),  # a factorial in an equation; ` !=` with a blank is the operator of programming languages
    (_pattern(r"\*\*"), "^"),
    (_pattern(r"\s*\*\s*"), r"\\cdot "),
    (_pattern(r"(?<![a-zA-Z\\_^{])i(?=\()"), r"i\\cdot "),
    (_pattern(r"(?<=_)\s*\{\s*\\odot\s*\}|(?<=_)\s*\\odot(?![a-z])"), r"{o}"),
    (_pattern(TEXT + r"\s*\{\s*([-+]?[\d.,/]+)\s*\}"), r"\1"),
    (_pattern(TEXT + r"\s*\{\s*((?i:[ap]\.? ?m\.?))\s*\}"), r" \1"),
)
_CONNECTIVES: Final[tuple[Rewrite, ...]] = (
    (
        _pattern(TEXT + r"\s*\{\s*,?\s*(?:and|or)\s*\}|(?<=[\d)} ]),? +(?:and|or) +(?=[-\d(\\])"),
        ",",
    ),
    (_pattern(r",(?:\s*,)+"), ","),
)
_CONDITION: Final = _pattern(r"[<>|]|\\(?:le|ge|ne|lt|gt)(?![a-z])")
_SUBSCRIPTS: Final[tuple[Rewrite, ...]] = (
    (_pattern(r"(?<=[_^])\s*" + TEXT + r"\s*\{\s*(\w+)\s*\}"), r"{\1}"),
    (_pattern(r"(?<=[_^])\s*\{\s*" + TEXT + r"\s*\{\s*(\w+)\s*\}\s*\}"), r"{\1}"),
)
_ANGLES: Final[tuple[Rewrite, ...]] = (
    (_pattern(TEXT + r"\s*\{\s*degrees?\s*\}|(?<=\d)\s*degrees?(?![a-z])"), r"\\text{degree}"),
    # The argument of an inverse function is no angle, so its start is matched and kept.
    (
        _pattern(rf"{_TRIGONOMETRIC}\s*\^\s*\{{?\s*-|{_TRIGONOMETRIC}(?:[^a-z=,][^=,]*)?"),
        _to_radians,
    ),
)
_LISTS: Final = _pattern(r"\[\s*\[([^\[\]]*)\](?:\s*,\s*\[[^\[\]]*\])*\s*\]")
_ROW: Final = _pattern(r"\[([^\[\]]+)\]")
_OUTWARD: Final = _pattern(r"([\[\]])([^\[\](){}]+[,;][^\[\](){}]+)([\[\]])")


def unify_notation(answer: str) -> str:
    """Apply every rewrite to an answer."""
    text = unicodedata.normalize("NFKC", _spell_out(_drop_invisible(answer))).translate(_CHARACTERS)
    text = text.strip()
    text = rewrite(
        _strip_quotes(text), (*_DIGIT_GROUPS, *_LAYOUT, *_COMMANDS, *_ROOTS, *_PLAIN_NAMES)
    )
    text = rewrite(text, (*_SUBSCRIPTS, *_COUNTING, *_BASES, *_ANGLES, *_NUMBERS))
    # Between conditions `and` differs from `or`; between values both only separate them.
    if not _CONDITION.search(text):
        text = rewrite(text, _CONNECTIVES)
    return _rewrite_brackets(text)


def closes_at_end(text: str, opening: str, closing: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in opening) - (char in closing)
        if depth == 0:
            return place == len(text) - 1
    return False


def rewrite(text: str, rewrites: Sequence[Rewrite]) -> str:
    """Apply the rewrites in order, at every match."""
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


def _drop_invisible(text: str) -> str:
    """Drop format characters: zero-width blanks, joiners, marks of the direction of writing."""
    if text.isascii():
        return text
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def _spell_out(text: str) -> str:
    """Characters that compatibility normalisation would change in meaning: `x²` to `x2`, `2⅗` to
    `23/5`.
    """

    def to_fraction(match: Match) -> str:
        above, _, below = unicodedata.normalize("NFKC", match.group()).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}"

    text = text.translate(_CHARACTERS)
    text = _RAISED_RUN.sub(lambda run: f"^{{{run.group().translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{run.group().translate(_LOWERED)}}}", text)
    return _VULGAR_FRACTION.sub(to_fraction, text)


def _strip_quotes(text: str) -> str:
    """Strip Markdown and quotation marks around the whole answer."""
    for mark in ("**", "*", "`", '"', "'"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return text.removeprefix("**").removesuffix("**")


def _rewrite_brackets(text: str) -> str:
    r"""Rewrite `[[1,2],[3,4]]` to a matrix and `]a,b[` to `(a,b)`."""
    if _LISTS.fullmatch(text):
        rows = r" \\ ".join(row.replace(",", " & ") for row in _ROW.findall(text[1:-1]))
        return rf"\begin{{pmatrix}} {rows} \end{{pmatrix}}"
    outward = _OUTWARD.fullmatch(text)
    if outward is None or (outward.group(1), outward.group(3)) == ("[", "]"):
        return text
    left, inside, right = outward.groups()
    return f"{'(' if left == ']' else '['}{inside.replace(';', ',')}{')' if right == '[' else ']'}"
