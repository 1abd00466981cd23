"""Specs of graders: one model per kind, distinguished by `type`.

A grader with the name of its kind needs no `type`: `{"name": "format"}`. Graders are sent as JSON, or
as the name of the kind if there are no other fields. A score is a number; a response for which a
grader returns none is unverifiable.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from services.common.data.program_tests import read_program_tests
from services.common.diffusion.config import Frozen
from services.common.environments.names import is_environment_name
from services.common.errors import PlatformError
from services.common.formula import FUNCTIONS, Formula
from services.common.grader_source import find_grade, find_item_fields, names_outcome
from services.common.templates import find_variables

_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
SAMPLE_FIELDS: Final = (
    "output_text",
    "output_json",
    "program",
    "answer",
    "outcome",
    "finish_reason",
    "num_tokens",
    "num_steps",
    "max_new_tokens",
    "unmask_step",
)
"""Fields of `sample`, of which templates and Python graders read; docs/rewards.md describes them."""
REFERENCE_ANSWER: Final = "reference_answer"
"""Field of `item` with the reference answer of the row."""
_MAX_SOURCE_CHARS: Final = 65_536
_MAX_PARTS: Final = 16
_START_S: Final = 10.0
"""Seconds that the start of a sandbox may take."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Named(Frozen):
    name: str = Field(pattern=_NAME)
    """Name under which the score is reported."""
    weight: Finite = 1.0
    """Factor of the score in the reward, which is the sum of weight · score."""
    only_if: str | None = None
    """Name of another grader, the gate: this one counts only where the gate scores above 0, and
    adds 0 elsewhere.
    """

    @property
    def is_binary(self) -> bool:
        """Whether the score is 1 for success and 0 for failure."""
        return False

    @property
    def needs_installation(self) -> bool:
        """Whether the installation must offer something that not every one does, e.g. an endpoint."""
        return False

    @property
    def uses_correctness(self) -> bool:
        """Whether the score depends on the comparison with the reference answer."""
        return False

    def max_seconds(self, count: int) -> float:
        """Largest wall time of a batch of so many responses, in seconds."""
        return 0.0

    @property
    def item_fields(self) -> frozenset[str]:
        """Fields that every row must have, as dotted paths."""
        return frozenset()

    def find_problem(self, item: Mapping[str, Any]) -> str:
        """Return what else of a row cannot be used, as "has …"; empty if nothing is wrong."""
        return ""


class _Correctness(_Named):
    """A grader that needs the comparison of the answer with the reference answer."""

    @property
    def uses_correctness(self) -> bool:
        """Always."""
        return True

    @property
    def item_fields(self) -> frozenset[str]:
        """The reference answer."""
        return frozenset({REFERENCE_ANSWER})


class _Templates(_Named):
    """A grader with templates."""

    def _templates(self) -> Iterable[str]:
        """All templates of the grader."""
        raise NotImplementedError

    def _variables(self) -> list[str]:
        return [name for template in self._templates() for name in find_variables(template)]

    @property
    def uses_correctness(self) -> bool:
        """Whether a template shows the outcome."""
        return "sample.outcome" in self._variables()

    @property
    def item_fields(self) -> frozenset[str]:
        """Fields of `item` that a template names."""
        return frozenset(
            name.removeprefix("item.") for name in self._variables() if name.startswith("item.")
        )

    @model_validator(mode="after")
    def _variables_are_known(self) -> Self:
        for name in self._variables():
            root, _, path = name.partition(".")
            known = root == "item" or path.split(".")[0] in SAMPLE_FIELDS
            if root not in ("item", "sample") or not path or not known:
                raise ValueError(
                    f"{{{{{name}}}}} is not a variable; the variables are item.<field of the row> and "
                    f"{', '.join(f'sample.{field}' for field in SAMPLE_FIELDS)}"
                )
        return self


class AccuracyGrader(_Correctness):
    """1 for a correct answer, else 0."""

    type: Literal["accuracy"]

    @property
    def is_binary(self) -> bool:
        """Always."""
        return True


class BoxedGrader(_Named):
    r"""1 if the graded answer was in a `\\boxed{}`, else 0."""

    type: Literal["boxed"]


class FormatGrader(_Named):
    """1 for at most one closed think block and exactly one box after it, else 0."""

    type: Literal["format"]


class CosineGrader(_Correctness):
    """Correct answers score less and wrong ones more, the longer they are (arXiv 2502.03373, eq.
    1).

    From `*_short` at length 0 to `*_long` at the token budget, along half a cosine; `exceeded` at
    the budget.
    """

    type: Literal["cosine"]
    correct_short: Finite = 1.0
    """Score of a correct response of length 0."""
    correct_long: Finite = 0.5
    """Score of a correct response at the token budget."""
    wrong_short: Finite = -0.5
    """Score of an incorrect response of length 0."""
    wrong_long: Finite = 0.0
    """Score of an incorrect response at the token budget."""
    exceeded: Finite = -0.5
    """Score of a response that reaches the token budget without an end token."""


class SoftOverlongGrader(_Named):
    """0 up to budget − buffer, then linearly down to −1 at the budget (DAPO, arXiv 2503.14476, eq.
    13).
    """

    type: Literal["soft_overlong"]
    buffer: float = Field(0.5, gt=0, le=1)
    """Share of the token budget over which the penalty grows."""


class RepetitionGrader(_Named):
    """−(1 − distinct / all) over the n-grams of words: 0 without repetition."""

    type: Literal["repetition"]
    ngram: int = Field(3, gt=0, le=64)
    """Words of an n-gram."""


class SpeedGrader(_Named):
    """Tokens per denoising step over `target`, at most 1. Without `only_if` it is 0 unless the answer
    is correct; with it the gate decides (LightningRL, arXiv 2603.13319).
    """

    type: Literal["speed"]
    target: float = Field(4.0, gt=0, allow_inf_nan=False)
    """Tokens per denoising step that score 1."""

    @property
    def uses_correctness(self) -> bool:
        """Unless another grader says what success is."""
        return self.only_if is None

    @property
    def item_fields(self) -> frozenset[str]:
        """The reference answer, where correctness decides."""
        return frozenset({REFERENCE_ANSWER}) if self.uses_correctness else frozenset()


class StringCheckGrader(_Templates):
    """1 when `input` and `reference`, filled in, compare as `operation` says, else 0 (OpenAI's
    grader).
    """

    type: Literal["string_check"]

    @property
    def is_binary(self) -> bool:
        """Always."""
        return True

    operation: Literal["eq", "ne", "like", "ilike"]
    """Comparison of `input` with `reference`: equal, not equal, contains, contains without regard
    to case.
    """
    input: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Template of the text to check, e.g. `{{ sample.output_text }}`."""
    reference: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Template of the text to compare with, e.g. `{{ item.reference_answer }}`."""

    def _templates(self) -> Iterable[str]:
        return self.input, self.reference


class PythonGrader(_Named):
    """`grade(sample, item) -> float` of your own, in a sandboxed process; docs/rewards.md says what
    it may do.
    """

    type: Literal["python"]
    source: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Python source that defines `grade(sample, item)`."""
    timeout_s: float = Field(2.0, gt=0, le=30)
    """Wall time of one call with the loading of the source, in seconds."""
    memory_mb: int = Field(256, ge=64, le=2048)
    """Address space beyond that of the interpreter, in MiB."""
    packages: tuple[Annotated[str, Field(pattern=_NAME)], ...] = Field((), max_length=16)
    """Packages beyond the standard library that the source imports; the installation allows them
    (`DIRL_REWARD_PYTHON_PACKAGES`).
    """

    @property
    def needs_installation(self) -> bool:
        """Whether packages are declared."""
        return bool(self.packages)

    def max_seconds(self, count: int) -> float:
        """Every call may take its whole time."""
        return _START_S + self.timeout_s * count

    @property
    def uses_correctness(self) -> bool:
        """Whether the source reads the outcome."""
        return names_outcome(self.source)

    @property
    def item_fields(self) -> frozenset[str]:
        """Fields of `item` that every call reads."""
        return find_item_fields(self.source)

    @model_validator(mode="after")
    def _defines_grade(self) -> Self:
        find_grade(self.source)
        return self


class CodeGrader(_Templates):
    """1 when the program in the response passes the tests of its row, in a sandbox; docs/rewards.md says
    which rows have tests.
    """

    type: Literal["code"]
    score: Literal["all", "share"] = "all"
    """`all` scores 1 or 0, `share` the share of the tests that pass."""
    program: str = Field("{{ sample.program }}", max_length=_MAX_SOURCE_CHARS)
    """Template of the program, e.g. `print({{ sample.output_text }})`."""
    timeout_s: float = Field(6.0, gt=0, le=60)
    """CPU time of one test, in seconds; its wall time may be three times that."""
    memory_mb: int = Field(512, ge=64, le=4096)
    """Address space of one test beyond that of the interpreter, in MiB."""
    max_tests: int | None = Field(None, gt=0)
    """Tests of a row that are run, from the first. None runs all."""

    @property
    def is_binary(self) -> bool:
        """Whether only a program that passes every test scores."""
        return self.score == "all"

    def max_seconds(self, count: int) -> float:
        """One test of each response may take its whole wall time; those of rows with more may not."""
        return _START_S + 3 * self.timeout_s * count

    def _templates(self) -> Iterable[str]:
        return (self.program,)

    def find_problem(self, item: Mapping[str, Any]) -> str:
        """Return why the tests of the row cannot be used."""
        try:
            read_program_tests(item)
        except ValueError as error:
            return str(error)
        return ""


class TextSimilarityGrader(_Templates):
    """Similarity of `input` and `reference`, filled in, from 0 to 1 (OpenAI's grader)."""

    type: Literal["text_similarity"]
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ]
    """`fuzzy_match` is 1 - edits / length (insertions and deletions), `bleu` the BLEU of the sentence,
    `rouge_*` the F1 of n-grams or of the longest common subsequence of words.
    """
    input: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Template of the text to grade, e.g. `{{ sample.output_text }}`."""
    reference: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Template of the text to compare with, e.g. `{{ item.reference_answer }}`."""

    def _templates(self) -> Iterable[str]:
        return self.input, self.reference


class JudgeMessage(Frozen):
    """One turn of the prompt of a judge."""

    role: Literal["system", "developer", "user", "assistant"] = "user"
    """Who speaks."""
    content: str = Field(max_length=_MAX_SOURCE_CHARS)
    """Template, e.g. `Question: {{ item.question }} Answer: {{ sample.output_text }}`."""

    @model_validator(mode="before")
    @classmethod
    def _read_openais_form(cls, data: Any) -> Any:
        """Read `{"type": "message", "content": {"type": "input_text", "text": …}}` as well."""
        if not isinstance(data, Mapping):
            return data
        content = data.get("content")
        text = content.get("text") if isinstance(content, Mapping) else content
        rest = {name: data[name] for name in data if name not in ("type", "content")}
        return {**rest, "content": text} if data.get("type", "message") == "message" else data


class JudgeSampling(Frozen):
    """How a judge samples; keys that are not set are not sent."""

    temperature: float | None = Field(None, ge=0)
    """Divisor of the logits. 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus sampling."""
    seed: int | None = None
    """Seed of the judge's sampling."""
    max_completion_tokens: int | None = Field(None, gt=0)
    """Longest reply, in tokens; `max_completions_tokens`, as OpenAI's graders write it, is read, too."""
    reasoning_effort: str | None = None
    """How long a reasoning model thinks, e.g. `low`."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "max_completions_tokens" in data:
            rest = {name: data[name] for name in data if name != "max_completions_tokens"}
            return {"max_completion_tokens": data["max_completions_tokens"], **rest}
        return data


class _Remote(_Named):
    """A grader that calls an endpoint of the installation."""

    timeout_s: float = Field(30.0, gt=0, le=600)
    """Wall time of one request, in seconds."""
    deadline_s: float = Field(120.0, gt=0, le=3600)
    """Wall time of a batch with all retries, in seconds. Responses without a score by then are
    unverifiable.
    """

    @property
    def needs_installation(self) -> bool:
        """Always."""
        return True

    def max_seconds(self, count: int) -> float:
        """The deadline, whatever the batch."""
        return self.deadline_s


class _Judge(_Remote, _Templates):
    """A grader that asks a model behind an OpenAI-compatible endpoint."""

    model: str = Field(min_length=1, max_length=256)
    """Model, as the endpoint names it."""
    input: tuple[JudgeMessage, ...] = Field(min_length=1, max_length=64)
    """Prompt of the judge; its last turn is extended by the form of the reply."""
    endpoint: str = Field("judge", pattern=_NAME)
    """Endpoint of the installation (`DIRL_REWARD_ENDPOINTS`)."""
    sampling_params: JudgeSampling = JudgeSampling()
    """How the judge samples."""

    def _templates(self) -> Iterable[str]:
        return (message.content for message in self.input)


class ScoreModelGrader(_Judge):
    """Number that a model gives, within `range` (OpenAI's grader)."""

    type: Literal["score_model"]
    range: tuple[Finite, Finite] = (0.0, 1.0)
    """Lowest and highest score. A score outside is none."""

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range is {list(self.range)}; the first must be the lower one")
        return self


class LabelModelGrader(_Judge):
    """1 when a model gives one of `passing_labels`, else 0 (OpenAI's grader)."""

    type: Literal["label_model"]
    labels: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Labels that the model may give."""
    passing_labels: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Labels that score 1."""

    @property
    def is_binary(self) -> bool:
        """Always."""
        return True

    @model_validator(mode="after")
    def _passing_labels_exist(self) -> Self:
        unknown = sorted(set(self.passing_labels) - set(self.labels))
        if unknown:
            raise ValueError(f"passing_labels {unknown} are not among labels {list(self.labels)}")
        return self


class EndpointGrader(_Remote):
    """Score of your own HTTP service, which gets a batch of responses and their rows."""

    type: Literal["endpoint"]
    endpoint: str = Field(pattern=_NAME)
    """Endpoint of the installation (`DIRL_REWARD_ENDPOINTS`)."""
    fields: tuple[str, ...] = Field((), max_length=64)
    """Fields of the row that the service needs, as dotted paths; every row is checked for them."""
    outcome: bool = False
    """Whether the service looks at `sample.outcome`, so that responses must be compared."""

    @property
    def uses_correctness(self) -> bool:
        """As `outcome` says."""
        return self.outcome

    @property
    def item_fields(self) -> frozenset[str]:
        """As `fields` says."""
        return frozenset(self.fields)


class EnvironmentGrader(_Named):
    """The score that the environment of the row gives the answer, e.g. reasoning-gym's own scorer."""

    type: Literal["environment"]
    timeout_s: float = Field(5.0, gt=0, le=60)
    """CPU time of one answer, in seconds; its wall time may be three times that."""
    memory_mb: int = Field(512, ge=64, le=4096)
    """Address space of one answer beyond that of the environment, in MiB."""

    def max_seconds(self, count: int) -> float:
        """The wall time of as many answers, one after the other, after the start of a sandbox."""
        return _START_S + 3 * self.timeout_s * count

    def find_problem(self, item: Mapping[str, Any]) -> str:
        """Return why the row is not one of an environment."""
        environment, index = item.get("environment"), item.get("index")
        if isinstance(environment, str) and type(index) is int and is_environment_name(environment):
            return ""
        return "is not a row of an environment: `environment` and `index` say which task it is"


class MultiGrader(_Named):
    """A formula over the scores of other graders, e.g. `0.9 * accuracy + 0.1 * format` (OpenAI's
    grader).
    """

    type: Literal["multi"]
    graders: dict[Annotated[str, Field(pattern=_NAME)], "GraderSpec"] = Field(
        min_length=1, max_length=_MAX_PARTS
    )
    """Graders of the formula, by the name it uses."""
    calculate_output: str
    """Formula over the names of `graders`, with + - * / and min, max, abs, floor, ceil, sqrt, exp,
    log.
    """

    @property
    def needs_installation(self) -> bool:
        """Whether a part does."""
        return any(part.needs_installation for part in self.graders.values())

    def max_seconds(self, count: int) -> float:
        """Parts score one after the other."""
        return sum(part.max_seconds(count) for part in self.graders.values())

    @property
    def uses_correctness(self) -> bool:
        """Whether a part does."""
        return any(part.uses_correctness for part in self.graders.values())

    @property
    def item_fields(self) -> frozenset[str]:
        """Fields of all parts."""
        return frozenset().union(*(part.item_fields for part in self.graders.values()))

    def find_problem(self, item: Mapping[str, Any]) -> str:
        """Return the first problem of a part."""
        problems = (part.find_problem(item) for part in self.graders.values())
        return next(filter(None, problems), "")

    @model_validator(mode="before")
    @classmethod
    def _name_parts_by_key(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("graders"), Mapping):
            return data
        parts = {
            key: {"name": key, **part} if isinstance(part, Mapping) else part
            for key, part in data["graders"].items()
        }
        return {**data, "graders": parts}

    @model_validator(mode="after")
    def _formula_fits(self) -> Self:
        for part in self.graders.values():
            if isinstance(part, MultiGrader):
                raise ValueError(
                    f"part {part.name!r} is a multi grader; move its parts to this one"
                )
            if part.weight != 1 or part.only_if is not None:
                raise ValueError(
                    f"part {part.name!r} has a weight or only_if; use calculate_output for both"
                )
        taken = set(self.graders) & set(FUNCTIONS)
        if taken:
            raise ValueError(f"{sorted(taken)} are names of functions; use other keys")
        Formula(self.calculate_output, set(self.graders))
        return self


_Kind = (
    AccuracyGrader | BoxedGrader | FormatGrader | CosineGrader | SoftOverlongGrader | RepetitionGrader | SpeedGrader
    | StringCheckGrader | PythonGrader | CodeGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader
    | EndpointGrader | EnvironmentGrader | MultiGrader
)  # fmt: skip


def _with_type(value: Any) -> Any:
    """Use the name as the type if no type is given."""
    if isinstance(value, str):
        return {"name": value, "type": value}
    if isinstance(value, Mapping) and "type" not in value and "name" in value:
        return {**value, "type": value["name"]}
    return value


GraderSpec = Annotated[Annotated[_Kind, Field(discriminator="type")], BeforeValidator(_with_type)]
"""Any grader."""
MultiGrader.model_rebuild()
_ADAPTER: Final[TypeAdapter[_Kind]] = TypeAdapter(GraderSpec)


def parse_grader(value: Any) -> _Kind:
    """Parse a grader from an object, JSON text or the name of its kind.

    Raises PlatformError("invalid_request") with all problems, and the known kinds for an unknown
    one.
    """
    is_json = isinstance(value, str) and value.lstrip().startswith("{")
    try:
        return _ADAPTER.validate_python(json.loads(value) if is_json else value)
    except ValidationError as error:
        problems = "; ".join(
            _describe_problem(item["loc"], item["msg"]) for item in error.errors(include_url=False)
        )
        raise PlatformError(
            "invalid_request", f"The grader cannot be used: {problems}.", param="grader"
        ) from None
    except ValueError as error:
        raise PlatformError(
            "invalid_request", f"The grader is not valid JSON: {error}.", param="grader"
        ) from None


def parse_graders(values: Sequence[Any]) -> tuple[_Kind, ...]:
    """Parse graders with distinct names; raises like parse_grader."""
    graders = tuple(parse_grader(value) for value in values)
    require_distinct_names(graders)
    return graders


def require_distinct_names(graders: Sequence[_Kind]) -> None:
    """Raise PlatformError("invalid_request") if two graders have the same name."""
    names = [grader.name for grader in graders]
    if len(set(names)) < len(names):
        raise PlatformError(
            "invalid_request",
            f"Graders must have distinct names, got {names}.",
            param="graders",
        )


def require_gates(graders: Sequence[_Kind]) -> None:
    """Raise PlatformError("invalid_request") if a grader names a gate that is not another ungated
    grader.
    """
    gates = {grader.name for grader in graders if grader.only_if is None}
    for grader in graders:
        if grader.only_if is not None and grader.only_if not in gates:
            raise PlatformError(
                "invalid_request",
                f"The grader {grader.name!r} has only_if {grader.only_if!r}; it must name another grader of the "
                f"reward that has no only_if itself: {', '.join(sorted(gates)) or 'there is none'}.",
                param="graders",
            )


def grader_text(grader: _Kind) -> str:
    """Encode a grader for the reward service, which scores and does not combine: the name of its kind
    if there are no other fields, else JSON without `weight`. Whether it has a gate stays: speed is
    compared with no reference answer where a gate says what success is.
    """
    fields = grader.model_dump(mode="json", exclude_defaults=True, exclude={"weight"})
    if set(fields) == {"name", "type"} and fields["name"] == fields["type"]:
        return grader.type
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def row_checks(graders: Sequence[_Kind]) -> list[Callable[[Mapping[str, Any]], str]]:
    """Return checks of a row, as graders see it: each says what is wrong, or returns ""."""

    def check(grader: _Kind, item: Mapping[str, Any]) -> str:
        problem = grader.find_problem(item)
        return problem and f"{problem} (grader {grader.name!r})"

    return [partial(check, grader) for grader in graders]


def required_fields(graders: Sequence[_Kind]) -> dict[str, str]:
    """Return the fields that every row must have, as dotted paths, with the grader that reads each."""
    return {path: grader.name for grader in graders for path in sorted(grader.item_fields)}


@lru_cache(maxsize=64)
def max_grading_seconds(texts: tuple[str, ...], count: int) -> float:
    """Return the largest wall time of graders (see grader_text) on a batch of `count` responses, apart
    from comparisons; they score one after the other.
    """
    return sum(grader.max_seconds(count) for grader in parse_graders(texts))


def uses_correctness(graders: Iterable[_Kind]) -> bool:
    """Whether any grader needs responses to be compared with reference answers."""
    return any(grader.uses_correctness for grader in graders)


def _describe_problem(location: tuple[int | str, ...], message: str) -> str:
    path = ".".join(str(part) for part in location)
    return f"{path}: {message}" if path else message
