"""The registry of graders: what each kind of services.common.grader_spec does. A new kind gets a
row here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from services.common.formula import Formula
from services.common.grader_spec import (
    VARIABLES,
    MultiGrader,
    PythonGrader,
    StringCheckGrader,
    fill_in,
    parse_graders,
)
from services.reward.sandbox import python_scorer
from services.reward.scores import Failure, GradingLimits, JudgedResponse, Score, Scorer
from services.reward.shaping import (
    accuracy,
    boxed,
    cosine,
    format_,
    repetition,
    soft_overlong,
    speed,
)


@dataclass(frozen=True)
class Grader:
    """A grader ready to score."""

    name: str
    score: Scorer


def string_check(spec: StringCheckGrader, judged: JudgedResponse) -> Score:
    """1 when the comparison holds, else 0."""
    values = dict(
        zip(VARIABLES, (judged.response, judged.extraction.text, judged.gold), strict=True)
    )
    left, right = fill_in(spec.input, values), fill_in(spec.reference, values)
    holds = {
        "eq": left == right,
        "ne": left != right,
        "like": right in left,
        "ilike": right.casefold() in left.casefold(),
    }
    return float(holds[spec.operation])


def _multi(spec: MultiGrader) -> Scorer:
    formula = Formula(spec.calculate_output, set(spec.graders))
    parts = {key: scorer(part) for key, part in spec.graders.items()}

    def score(batch: Sequence[JudgedResponse], limits: GradingLimits) -> list[Score]:
        columns = [part(batch, limits) for part in parts.values()]
        return [
            _combined(formula, dict(zip(parts, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]

    return score


def _combined(formula: Formula, scores: Mapping[str, Score]) -> Score:
    failure = next((score for score in scores.values() if isinstance(score, Failure)), None)
    if failure is not None:
        return failure
    try:
        return formula.evaluate(
            {name: score for name, score in scores.items() if isinstance(score, float)}
        )
    except (ArithmeticError, ValueError, TypeError) as error:
        return Failure("formula", str(error))


def _each(grade: Callable[[JudgedResponse], Score]) -> Scorer:
    """A scorer from a function of one response."""
    return lambda batch, _limits: [grade(judged) for judged in batch]


_ONE_BY_ONE: Final[Mapping[str, Callable[..., Score]]] = {
    "cosine": cosine, "soft_overlong": soft_overlong, "repetition": repetition, "speed": speed,
    "string_check": string_check,
    "accuracy": lambda _spec, judged: accuracy(judged), "boxed": lambda _spec, judged: boxed(judged),
    "format": lambda _spec, judged: format_(judged),
}  # fmt: skip


def scorer(spec: Any) -> Scorer:
    """What a grader of services.common.grader_spec does."""
    if isinstance(spec, MultiGrader):
        return _multi(spec)
    if isinstance(spec, PythonGrader):
        return python_scorer(spec)
    return _each(partial(_ONE_BY_ONE[spec.type], spec))


def resolve(texts: Sequence[str]) -> list[Grader]:
    """The graders, as they travel; raises PlatformError("invalid_request") for unknown, faulty and
    repeated ones.
    """
    return [Grader(spec.name, scorer(spec)) for spec in parse_graders(texts)]


def score_all(
    graders: Sequence[Grader], batch: Sequence[JudgedResponse], limits: GradingLimits
) -> list[dict[str, Score]]:
    """Every grader's score of every response, by name."""
    columns = {grader.name: grader.score(batch, limits) for grader in graders} if batch else {}
    return [
        {name: column[place] for name, column in columns.items()} for place in range(len(batch))
    ]
