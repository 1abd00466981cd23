r"""Regular expressions for hostile text: a match takes time linear in the length of the text.

Syntax and results are those of `re`, but RE2 does the matching, so no pattern can backtrack. RE2 has
no lookaround; one that stands at the edge of a pattern, or of an alternative at its top level, is
translated into characters that are matched outside the result:

* at the start `(?<!C)` and `(?<=C)`, where C is one character or class,
* at the end `(?!C)` and `(?=X)`, where X may itself end in such a lookahead.

Any other lookaround is an error at import. An import contract forbids `re` in the packages that read
the text of a model.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import re2

_CLASSES: Final = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": r"\s\v\x1c-\x1f\x85\p{Z}"}
"""Content of the classes that RE2 limits to ASCII."""
_ANY: Final = "(?s:.)"
_SENTINEL: Final = "\0"
"""Stands before the text of a pattern that looks behind, so that every match has a character before it."""

PATTERNS: Final[list["LinearPattern"]] = []
"""Every pattern that was compiled, for the tests of their cost."""


class Match:
    """A match, with those methods of `re.Match` that are needed. Offsets count characters."""

    __slots__ = ("_names", "_spans", "_text")

    def __init__(self, text: str, spans: list[tuple[int, int]], names: dict[str, int]) -> None:
        self._text = text
        self._spans = spans
        self._names = names

    def group(self, key: int | str = 0) -> str | Any:
        """Return the text of a group; None if it has no part in the match."""
        start, end = self._spans[self._names[key] if isinstance(key, str) else key]
        return None if start < 0 else self._text[start:end]

    def groups(self) -> tuple[str | Any, ...]:
        """Return the texts of all groups."""
        return tuple(self.group(key) for key in range(1, len(self._spans)))

    def start(self) -> int:
        """Return the offset of the first character."""
        return self._spans[0][0]

    def end(self) -> int:
        """Return the offset after the last character."""
        return self._spans[0][1]


class LinearPattern:
    """A compiled pattern, with those methods of `re.Pattern` that are needed."""

    def __init__(
        self,
        expression: str,
        *,
        dotall: bool = False,
        ignore_case: bool = False,
        multiline: bool = False,
    ) -> None:
        if any(f"(?{flag})" in expression for flag in "aiLmsux"):
            raise ValueError(
                f"{expression!r}: inline flags have no translation; pass ignore_case and others."
            )
        self.expression = expression
        self.dotall = dotall
        self.ignore_case = ignore_case
        self.multiline = multiline
        flags = "(?s)" * dotall + "(?i)" * ignore_case + "(?m)" * multiline
        branches = [_parse_branch(branch) for branch in _split_branches(_to_re2(expression))]
        # Texts of which every match contains one, as far as they are known.
        self.literals: Final = [] if ignore_case else _required_literals(branches)
        self._looks_behind = any(branch.before for branch in branches)
        self._looks_ahead = any(branch.after for branch in branches)
        if not (self._looks_behind or self._looks_ahead):
            branches = [_Branch("", _to_re2(expression), "")]
        options = re2.Options()
        options.log_errors = False
        self._compiled = re2.compile(
            flags + "|".join(branch.with_context(self._looks_behind) for branch in branches),
            options,
        )
        self._names: dict[str, int] = {}
        self._bodies: list[int] = []
        self._groups: list[int] = []
        place = 1
        for branch in branches:
            inner = re2.compile(flags + branch.body, options)
            self._names |= {
                name: len(self._groups) + number for name, number in inner.groupindex.items()
            }
            self._bodies.append(place)
            self._groups += range(place + 1, place + 1 + inner.groups)
            place += 1 + inner.groups
        PATTERNS.append(self)

    def __repr__(self) -> str:
        return f"LinearPattern({self.expression!r})"

    def search(self, text: str) -> Match | None:
        """Return the first match."""
        return self._find(self._compiled.search, text)

    def match(self, text: str) -> Match | None:
        """Return the match at the start of the text."""
        return self._find(self._compiled.match, text)

    def fullmatch(self, text: str) -> Match | None:
        """Return the match of the whole text; not for patterns that look ahead."""
        if self._looks_ahead:
            raise TypeError(f"{self} looks ahead, so it cannot match a whole text.")
        return self._find(self._compiled.fullmatch, text)

    def finditer(self, text: str) -> Iterator[Match]:
        """Yield the matches from left to right."""
        return self._iterate(self._compiled.search, text) if self._may_match(text) else iter(())

    def findall(self, text: str) -> list[Any]:
        """Return the texts of the matches, or of their groups: tuples if there are several."""
        matches = self.finditer(text)
        if not self._groups:
            return [match.group() for match in matches]
        found = [tuple(group or "" for group in match.groups()) for match in matches]
        return found if len(self._groups) > 1 else [group for (group,) in found]

    def sub(self, replacement: str | Callable[[Match], str], text: str) -> str:
        r"""Replace the matches; in a string `\1` stands for a group and `\\` for a backslash."""
        if not self._may_match(text):
            return text
        replace = replacement if callable(replacement) else _parse_template(replacement)
        parts, done = [], 0
        for match in self.finditer(text):
            parts += [text[done : match.start()], replace(match)]
            done = match.end()
        return "".join([*parts, text[done:]])

    def text_before(self, text: str) -> str:
        """Return the text before the first match, or all of it if there is none."""
        first = self.search(text)
        return text[: first.start()] if first else text

    def _find(self, find: Callable[..., Any], text: str) -> Match | None:
        return next(self._iterate(find, text), None) if self._may_match(text) else None

    def _may_match(self, text: str) -> bool:
        # Most patterns do not occur in most texts, and a call of RE2 is dear.
        return not self.literals or any(literal in text for literal in self.literals)

    def _iterate(self, find: Callable[..., Any], text: str) -> Iterator[Match]:
        """Yield matches; `find` searches encoded text from an offset in bytes."""
        encoded = (_SENTINEL * self._looks_behind + text).encode("utf-8", "replace")
        is_ascii = len(encoded) == len(text) + self._looks_behind
        place = 0
        # The same offset in bytes and in characters, from which later ones are counted.
        known_byte = int(self._looks_behind)
        known_char = 0
        while (found := find(encoded, place)) is not None:
            body = next(body for body in self._bodies if found.start(body) >= 0)
            spans = [found.span(group) for group in (body, *self._groups)]
            start, end = spans[0]
            if is_ascii:
                shift = int(self._looks_behind)
                spans = [(first - shift, last - shift) for first, last in spans]
            else:
                known_char += len(encoded[known_byte:start].decode())
                known_byte = start
                spans = [
                    (-1, -1)
                    if first < 0
                    else (
                        known_char + len(encoded[start:first].decode()),
                        known_char + len(encoded[start:last].decode()),
                    )
                    for first, last in spans
                ]
            yield Match(text, spans, self._names)
            # After an empty match the search continues one character later.
            if start == end == len(encoded):
                return
            steps = int(start == end) - self._looks_behind
            place = _step(encoded, end, steps)


class _Branch(NamedTuple):
    """An alternative at the top level of a pattern, in the syntax of RE2."""

    before: str
    """The character before the match; "" for any or none."""
    body: str
    after: str
    """What follows the match; "" for anything."""

    def with_context(self, looks_behind: bool) -> str:
        """Return the pattern whose first group is the body."""
        if not looks_behind:
            return f"({self.body}){self.after}"
        if self.body.startswith("^"):
            return rf"\A{_ANY}({self.body[1:]}){self.after}"
        return f"{self.before or _ANY}({self.body}){self.after}"


def _step(encoded: bytes, place: int, steps: int) -> int:
    """Return the offset one character later (1), earlier (-1), or the same (0)."""
    place += steps
    while steps and place < len(encoded) and encoded[place] & 0xC0 == 0x80:
        place += steps
    return place


def _tokens(expression: str) -> Iterator[tuple[str, bool]]:
    """Yield the characters and escapes of a pattern, and whether they stand in a class."""
    place, in_class = 0, False
    while place < len(expression):
        token = expression[place : place + 1 + (expression[place] == "\\")]
        yield token, in_class
        place += len(token)
        if token == "[":
            in_class = True
        elif token == "]":
            in_class = False


def _to_re2(expression: str) -> str:
    """Return the pattern with the classes of Unicode and the end of the text as RE2 spells them."""
    parts = []
    for token, in_class in _tokens(expression):
        content = _CLASSES.get(token[1:].lower()) if token.startswith("\\") else None
        if token == r"\Z":
            parts.append(r"\z")
        elif content is None:
            parts.append(token)
        elif in_class and token[1].isupper():
            raise ValueError(f"{token} in brackets has no translation; spell the class out.")
        elif in_class:
            parts.append(content)
        else:
            parts.append(f"[{'^' * token[1].isupper()}{content}]")
    return "".join(parts)


def _split_branches(expression: str) -> list[str]:
    """Split at `|` outside groups and classes."""
    branches, depth = [""], 0
    for token, in_class in _tokens(expression):
        if not in_class:
            depth += (token == "(") - (token == ")")
            if token == "|" and depth == 0:
                branches.append("")
                continue
        branches[-1] += token
    return branches


def _parse_branch(branch: str) -> _Branch:
    before = after = ""
    groups = _outer_groups(branch)
    if groups and branch.startswith(("(?<!", "(?<=")):
        start, end = groups[0]
        one = _one_character(branch[4 : end - 1])
        before = _negate(one) if branch[3] == "!" else one
        branch = branch[end:]
        groups = [(first - end, last - end) for first, last in groups[1:]]
    if groups and groups[-1][1] == len(branch):
        start, end = groups[-1]
        if branch.startswith("(?!", start):
            after = rf"(?:{_negate(_one_character(branch[start + 3 : -1]))}|\z)"
            branch = branch[:start]
        elif branch.startswith("(?=", start):
            inner = map(_parse_branch, _split_branches(branch[start + 3 : -1]))
            after = f"(?:{'|'.join(part.body + part.after for part in inner)})"
            branch = branch[:start]
    return _Branch(before, branch, after)


def _required_literals(branches: list[_Branch]) -> list[str]:
    """Return texts of which every match contains one; [] if a match may contain none of them."""
    literals = [_longest_literal(branch.body) for branch in branches]
    return literals if all(literals) else []


def _longest_literal(body: str) -> str:
    """Return the longest text that every match contains, "" if it is not found."""
    if len(_split_branches(body)) > 1:
        return ""
    runs, depth, in_count = [""], 0, False
    for token, in_class in _tokens(body):
        in_count = not in_class and (token == "{" or (in_count and token != "}"))
        depth += (token == "(" and not in_class) - (token == ")" and not in_class)
        if token[0] == "\\":
            literal = "" if token[1].isalnum() else token[1]
        else:
            literal = "" if token in ".^$*+?{}()[]|" else token
        if depth or in_class or in_count or not literal:
            # A quantifier belongs to the character before it.
            if token in ("?", "*", "{") and not in_class:
                runs[-1] = runs[-1][:-1]
            runs.append("")
        else:
            runs[-1] += literal
    return max(runs, key=len)


def _outer_groups(branch: str) -> list[tuple[int, int]]:
    """Return the spans of the outermost groups that are not repeated."""
    spans, depth, place, start = [], 0, 0, 0
    for token, in_class in _tokens(branch):
        place += len(token)
        if in_class:
            continue
        if token == "(":
            start = place - 1 if depth == 0 else start
            depth += 1
        elif token == ")":
            depth -= 1
            if depth == 0:
                spans.append((start, place))
    return spans


def _one_character(expression: str) -> str:
    """Return the expression; ValueError if it is not one character or class."""
    tokens = [token for token, in_class in _tokens(expression) if not in_class]
    if len(tokens) == 1:
        return expression
    raise ValueError(
        f"The lookaround {expression!r} is not one character or class, which is all that RE2 can be given."
    )


def _negate(one: str) -> str:
    """Return the class of all other characters."""
    if one.startswith("[^"):
        return f"[{one[2:]}"
    return f"[^{one[1:]}" if one.startswith("[") else f"[^{one}]"


@cache
def _parse_template(template: str) -> Callable[[Match], str]:
    pieces = [
        int(token[1:]) if token[1:].isdigit() else token[-1] for token, _ in _tokens(template)
    ]
    return lambda match: "".join(
        piece if isinstance(piece, str) else match.group(piece) or "" for piece in pieces
    )
