r"""Split LaTeX and plain-text formulas into tokens, in one pass over the text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.reward.formulas.nodes import UnreadableError

_TEXT_COMMANDS: Final = frozenset(
    [
        r"\text",
        r"\textbf",
        r"\textit",
        r"\textrm",
        r"\textsf",
        r"\texttt",
        r"\textnormal",
        r"\mbox",
        r"\mathrm",
        r"\mathit",
        r"\mathsf",
        r"\operatorname",
    ]
)
_DIGITS: Final = frozenset("0123456789")
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DROPPED: Final = frozenset(
    {r"\left", r"\right", r"\,", r"\;", r"\:", r"\!", "\\ ", r"\quad", r"\qquad", r"\displaystyle"}
)
_RENAMED: Final = {
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\leq": r"\le", r"\geq":
    r"\ge",
    r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\neq": r"\ne", r"\lt": "<", r"\gt": ">", "<=": r"\le", ">=": r"\ge",
    "!=": r"\ne", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom",
    r"\tbinom": r"\binom", r"\ast": "*", r"\div": "/", r"\vee": r"\lor", r"\wedge": r"\land", r"\varphi": r"\phi",
    r"\varepsilon": r"\epsilon", r"\vartheta": r"\theta", r"\varrho": r"\rho", r"\varnothing": r"\emptyset",
    r"\mod": r"\pmod", r"\ln": "ln", r"\log": "log", r"\overrightarrow": r"\vec", r"\backslash": r"\setminus",
    r"\Vert": r"\|", r"\colon": ":", r"\lg": "lg", r"\mid": r"\mid",
}  # fmt: skip
_CONNECTIVES: Final = {"or": r"\lor", "and": r"\land", "mod": r"\pmod"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token. Commands and functions are spelt by their names, letters one by one."""

    kind: str
    """number | letter | function | command | text | environment | sign | end"""
    text: str
    tight: bool = False
    """Whether no blank stands before it."""


FUNCTIONS: Final = frozenset(
    {
        "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log",
        "lg",
        "exp", "gcd", "lcm", "max", "min", "det", "Re", "Im", "arg", "cis",
    }
)  # fmt: skip
_PLAIN_NAMES: Final = tuple(sorted(FUNCTIONS - {"Re", "Im", "arg", "det"}, key=len, reverse=True))
MIN_WORD: Final = 5
GREEK: Final = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
        "nabla",
    ]
)


def tokenize(text: str) -> list[Token]:
    """Return the tokens, closed by one of kind `end`; raises UnreadableError."""
    tokens: list[Token] = []
    last_end = 0
    for kind, value, start, end in _split(text):
        tight, last_end = start == last_end, end
        if kind == "text":
            tokens += _tokenize_text(value.strip(), tight)
        elif kind == "word":
            tokens += _tokenize_word(value, tight)
        elif kind in ("number", "environment"):
            tokens.append(Token(kind, value, tight))
        elif value not in _DROPPED:
            tokens.append(_tokenize_command(_RENAMED.get(value, value), tight))
    return [*tokens, Token("end", "")]


def _split(text: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield the kind, the text and the offsets of each token; of styled text, what is in its braces."""
    place = 0
    while place < len(text):
        start, char = place, text[place]
        if char.isspace():
            place += 1
            continue
        kind = "sign"
        if char == "\\":
            kind, place = "command", _run_end(text, place + 1, _LETTERS)
            place = max(place, min(len(text), start + 2))
            command = text[start:place]
            if command in (*_TEXT_COMMANDS, r"\begin", r"\end"):
                opened = _skip_blanks(text, place + (text[place : place + 1] == "*"))
                closed = text.find("}", opened)
                inside = text[opened + 1 : closed]
                if text[opened : opened + 1] == "{" and closed > 0 and "{" not in inside:
                    place = closed + 1
                    if command in _TEXT_COMMANDS:
                        yield "text", inside, start, place
                    else:
                        yield "environment", f"{command}{{{inside.strip()}}}", start, place
                    continue
        elif char in _DIGITS or (char == "." and text[place + 1 : place + 2] in _DIGITS):
            kind, place = "number", _run_end(text, place, _DIGITS)
            if text[place : place + 1] == ".":
                place = _run_end(text, place + 1, _DIGITS)
        elif char in _LETTERS:
            kind, place = "word", _run_end(text, place, _LETTERS)
        else:
            place += 2 if text[place : place + 2] in ("<=", ">=", "!=") else 1
        yield kind, text[start:place], start, place


def _run_end(text: str, place: int, characters: frozenset[str]) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place


def _skip_blanks(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def _tokenize_command(name: str, tight: bool) -> Token:
    bare = name.removeprefix("\\")
    if bare in FUNCTIONS:
        return Token("function", bare, tight)
    if bare in GREEK and name.startswith("\\"):
        return Token("letter", name, tight)
    return Token("command" if name.startswith("\\") else "sign", name, tight)


def _tokenize_text(inside: str, tight: bool) -> list[Token]:
    lower = inside.lower().strip(" ,")
    if lower in _CONNECTIVES:
        return [Token("command", _CONNECTIVES[lower], tight)]
    if inside in FUNCTIONS:
        return [Token("function", inside, tight)]
    if len(inside) == 1 and inside.isalpha():
        return [Token("letter", inside, tight)]
    if inside == "%" or lower in ("percent", r"\%"):
        return [Token("command", r"\%", tight)]
    return [Token("text", " ".join(inside.split()), tight)] if inside else []


def _tokenize_word(word: str, tight: bool) -> list[Token]:
    """Read a run of letters: a function, a connective, a product of letters, or a name.

    A product of letters is short and repeats none: `II` and `listen` are names.
    """
    if word in ("or", "and", "mod"):
        return [Token("command", _CONNECTIVES[word], tight)]
    if word in FUNCTIONS:
        return [Token("function", word, tight)]
    if word == "sqrt":
        return [Token("command", r"\sqrt", tight)]
    if word in ("pi", "infinity", "infty"):
        return [Token("command", r"\pi" if word == "pi" else r"\infty", tight)]
    named = next((name for name in _PLAIN_NAMES if word.startswith(name)), "")
    if named and len(word) == len(named) + 1:  # `sinx`, `lnx`
        return [Token("function", named, tight), *_letters(word[-1], True)]
    if len(word) >= MIN_WORD or (len(word) > 1 and len(set(word)) == 1 and word.isupper()):
        return [Token("text", word, tight)]
    return _letters(word, tight)


def _letters(word: str, tight: bool) -> list[Token]:
    return [Token("letter", letter, tight or place > 0) for place, letter in enumerate(word)]


def check_balance(tokens: list[Token]) -> None:
    """Raise UnreadableError for brackets nested deeper than the parser may recurse."""
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{", r"\{")) - (token.text in (")", "]", "}", r"\}"))
        if depth > MAX_DEPTH:
            raise UnreadableError("depth")


MAX_DEPTH: Final = 40
