"""The registry of graders: implementations of the kinds in services.common.grader_spec."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from services.common.errors import PlatformError
from services.common.formula import Formula
from services.common.grader_spec import (
    CodeGrader,
    EndpointGrader,
    EnvironmentGrader,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    parse_graders,
)
from services.common.telemetry.logs import get_logger
from services.common.templates import MissingFieldError, fill_in
from services.reward.code_grader import make_code_scorer
from services.reward.endpoints import Endpoints
from services.reward.environment_grader import make_environment_scorer
from services.reward.judges import make_endpoint_scorer, make_judge_scorer
from services.reward.python_grader import make_python_scorer
from services.reward.scores import (
    ExplainedScore,
    GradedResponse,
    GraderFailure,
    Grades,
    GradingLimits,
    Meter,
    Score,
    Scorer,
    drop_explanation,
)
from services.reward.shaping import (
    score_accuracy,
    score_boxed,
    score_cosine,
    score_format,
    score_repetition,
    score_soft_overlong,
    score_speed,
)
from services.reward.similarity import score_text_similarity

log = get_logger()


@dataclass(frozen=True)
class Installation:
    """What graders may use of this installation."""

    endpoints: Endpoints
    python_packages: frozenset[str]
    """Packages that Python graders may import."""


NOTHING_INSTALLED: Final = Installation(Endpoints({}), frozenset())


@dataclass(frozen=True)
class Grader:
    """A grader ready to score."""

    name: str
    score: Scorer
    uses_correctness: bool
    """Whether responses must have been compared with their reference answers."""


def score_string_check(spec: StringCheckGrader, graded: GradedResponse) -> Score:
    """Return 1 if the comparison holds, else 0."""
    values = {"sample": graded.to_sample(), "item": graded.to_item()}
    try:
        left, right = fill_in(spec.input, values), fill_in(spec.reference, values)
    except MissingFieldError as error:
        return GraderFailure("missing_field", f"the row has no {error}")
    holds = {
        "eq": left == right,
        "ne": left != right,
        "like": right in left,
        "ilike": right.casefold() in left.casefold(),
    }
    return float(holds[spec.operation])


def _make_multi_scorer(spec: MultiGrader, installation: Installation) -> Scorer:
    formula = Formula(spec.calculate_output, set(spec.graders))
    parts = {key: make_scorer(part, installation) for key, part in spec.graders.items()}

    def score(batch: Sequence[GradedResponse], limits: GradingLimits) -> list[Score]:
        columns = [
            [drop_explanation(each) for each in part(batch, limits)] for part in parts.values()
        ]
        return [
            _combine(formula, dict(zip(parts, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]

    return score


def _combine(formula: Formula, scores: Mapping[str, Score]) -> Score:
    failure = next((score for score in scores.values() if isinstance(score, GraderFailure)), None)
    if failure is not None:
        return failure
    try:
        return formula.evaluate(
            {name: score for name, score in scores.items() if isinstance(score, float)}
        )
    except (ArithmeticError, ValueError, TypeError) as error:
        return GraderFailure("formula", str(error))


_ONE_BY_ONE: Final[Mapping[str, Callable[..., Score]]] = {
    "cosine": score_cosine, "soft_overlong": score_soft_overlong, "repetition": score_repetition,
    "speed": score_speed, "string_check": score_string_check,
    "text_similarity": score_text_similarity,
    "accuracy": lambda _spec, graded: score_accuracy(graded),
    "boxed": lambda _spec, graded: score_boxed(graded),
    "format": lambda _spec, graded: score_format(graded),
}  # fmt: skip


def make_scorer(spec: Any, installation: Installation = NOTHING_INSTALLED) -> Scorer:
    """Return the implementation of a grader spec.

    Raises PlatformError("invalid_request") for one that needs what the installation does not have.
    """
    if isinstance(spec, MultiGrader):
        return _make_multi_scorer(spec, installation)
    if isinstance(spec, ScoreModelGrader | LabelModelGrader):
        return make_judge_scorer(spec, installation.endpoints.open(spec.endpoint))
    if isinstance(spec, EndpointGrader):
        return make_endpoint_scorer(spec, installation.endpoints.open(spec.endpoint))
    if isinstance(spec, CodeGrader):
        return make_code_scorer(spec)
    if isinstance(spec, EnvironmentGrader):
        return make_environment_scorer(spec)
    if isinstance(spec, PythonGrader):
        _require_allowed(spec.packages, installation.python_packages)
        return make_python_scorer(spec)
    grade = partial(_ONE_BY_ONE[spec.type], spec)
    return lambda batch, _limits: [_isolate(grade, graded) for graded in batch]


def _require_allowed(packages: Sequence[str], allowed: frozenset[str]) -> None:
    refused = sorted(set(packages) - allowed)
    if refused:
        raise PlatformError(
            "invalid_request",
            f"The installation does not allow Python graders to import {', '.join(refused)}; it allows: "
            f"{', '.join(sorted(allowed)) or 'no package'}.",
            hint="The operator allows packages in DIRL_REWARD_PYTHON_PACKAGES of the reward service.",
            param="graders",
        )


def _isolate(grade: Callable[[GradedResponse], Score], graded: GradedResponse) -> Score:
    """Grade one response, whose error must not fail its neighbours."""
    try:
        return grade(graded)
    except Exception as error:  # a defect of the grader, whatever it is
        log.exception("grader failed", response=graded.response)
        return GraderFailure("internal_error", repr(error))


def make_graders(
    texts: Sequence[str], installation: Installation = NOTHING_INSTALLED
) -> list[Grader]:
    """Parse graders in JSON.

    Raises PlatformError("invalid_request") for unknown, invalid and duplicate ones, and as make_scorer
    does.
    """
    return [
        Grader(spec.name, make_scorer(spec, installation), spec.uses_correctness)
        for spec in parse_graders(texts)
    ]


def score_all(
    graders: Sequence[Grader], batch: Sequence[GradedResponse], limits: GradingLimits
) -> list[Grades]:
    """Return what the graders make of each response; every number is finite.

    A grader that fails as a whole fails for every response; it never fails another grader.
    """
    if not batch:
        return []
    columns: dict[str, Sequence[Score | ExplainedScore]] = {}
    seconds: dict[str, float] = {}
    meter = Meter()
    for grader in graders:
        started = time.monotonic()
        columns[grader.name] = _score_batch(grader, batch, replace(limits, meter=meter))
        seconds[grader.name] = (time.monotonic() - started) / len(batch)
    return [
        Grades(
            scores={
                name: _require_finite(drop_explanation(column[place]))
                for name, column in columns.items()
            },
            explanations={
                name: explained.explanation
                for name, column in columns.items()
                if isinstance(explained := column[place], ExplainedScore)
            },
            seconds=seconds,
            judge_tokens=meter.judge_tokens / len(batch),
        )
        for place in range(len(batch))
    ]


def _score_batch(
    grader: Grader, batch: Sequence[GradedResponse], limits: GradingLimits
) -> Sequence[Score | ExplainedScore]:
    try:
        scores = grader.score(batch, limits)
    except Exception as error:  # a defect of the grader, whatever it is
        log.exception("grader failed", grader=grader.name)
        return [GraderFailure("internal_error", repr(error))] * len(batch)
    if len(scores) != len(batch):
        said = f"{len(scores)} scores for {len(batch)} responses"
        return [GraderFailure("internal_error", said)] * len(batch)
    return scores


def _require_finite(score: Score) -> Score:
    if isinstance(score, GraderFailure) or math.isfinite(score):
        return score
    return GraderFailure("not_finite", f"the score is {score}")
