r"""Letter case of identifiers: `R` is not `r`, unless the problem itself uses only one of the two.

A problem about the radius $r$ has one such quantity, so an answer may write it `R`. Where the
problem uses both cases, or neither, or no problem is known, case distinguishes.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from services.common.answers.statements import find_formulas
from services.common.linear_patterns import LinearPattern, Match
from services.reward.formulas.tokens import FUNCTIONS, GREEK, MIN_WORD

_NAMES: Final = LinearPattern(
    r"\\(?:text\w*|mathrm|mbox|operatorname) ?\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Z]+"
)
_IN_PROSE: Final = LinearPattern(r"[a-zA-Z]+")
_MAX_POINTS: Final = 4
"""Longest run of capitals in prose that may name points, as in `triangle ABC`."""
_CONSTANTS: Final = frozenset("eEiI")
_ARTICLES: Final = frozenset("aA")
_MAX_PROBLEM_CHARS: Final = 20_000


def read_problem(row: Mapping[str, Any]) -> str:
    """Return the text of the problem of a row: its turns without system messages, or its `prompt`."""
    turns = row.get("messages")
    if not isinstance(turns, list):
        prompt = row.get("prompt")
        return prompt if isinstance(prompt, str) else ""
    contents = (
        turn.get("content")
        for turn in turns
        if isinstance(turn, dict) and turn.get("role") != "system"
    )
    return "\n".join(content for content in contents if isinstance(content, str))


def adopt_case(answer: str, reference: str, problem: str) -> str:
    """Return the answer with the letter case of the reference where the problem uses one case only.

    A letter that either side uses in both cases keeps its case: `T-t` is not 0.
    """
    if not problem:
        return answer
    ours, theirs = set(_iterate_names(answer)), set(_iterate_names(reference))
    differing = {
        name
        for name in ours - theirs
        if (other := swap_case(name)) in theirs and other not in ours and name not in theirs
    }
    adopted = differing & _find_single_case(problem[-_MAX_PROBLEM_CHARS:]) if differing else set()
    if not adopted:
        return answer
    return _NAMES.sub(lambda match: _swap_names(match, adopted), answer)


def swap_case(name: str) -> str:
    r"""Return the identifier in its other case: `R` for `r`, `\Lambda` for `\lambda`."""
    if name.startswith("\\"):
        return f"\\{name[1].swapcase()}{name[2:]}"
    return name.swapcase()


@lru_cache(maxsize=512)
def _find_single_case(problem: str) -> frozenset[str]:
    """Return, in both cases, the identifiers that the problem uses in one case only."""
    names: set[str] = set()
    prose, done = [], 0
    for formula in find_formulas(problem):
        names.update(_iterate_names(formula.content))
        prose.append(problem[done : formula.start])
        done = formula.end
    for word in _IN_PROSE.findall(" ".join([*prose, problem[done:]])):
        if len(word) == 1:
            names.update({word} - _ARTICLES - _CONSTANTS)
        elif len(word) <= _MAX_POINTS and word.isupper():
            names.update(set(word) - _CONSTANTS)
    single = {name for name in names if swap_case(name) not in names}
    return frozenset(single | {swap_case(name) for name in single})


def _iterate_names(formula: str) -> Iterator[str]:
    for match in _NAMES.finditer(formula):
        yield from _split_names(match.group())


def _split_names(run: str) -> list[str]:
    """Return the identifiers in a run of letters or a command: none in words and functions."""
    if run.startswith("\\"):
        return [run] if run[1:] in GREEK and swap_case(run)[1:] in GREEK else []
    if len(run) >= MIN_WORD or run in FUNCTIONS:
        return []
    return [letter for letter in run if letter not in _CONSTANTS]


def _swap_names(match: Match, adopted: set[str]) -> str:
    run = match.group()
    names = _split_names(run)
    if run.startswith("\\"):
        return swap_case(run) if names and run in adopted else run
    return "".join(swap_case(letter) if names and letter in adopted else letter for letter in run)
