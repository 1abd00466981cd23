"""The whole of a job spec, and the rules that join its sections."""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from services.common.data.reading import Reading, Split
from services.common.diffusion.config import Frozen, UnmaskingStrategy
from services.common.environments.names import is_environment_name
from services.common.errors import Problem, ProblemsError
from services.common.exactness import require_exact_estimator, require_policy_sampling
from services.common.grader_spec import uses_correctness
from services.common.job_metrics import is_evaluated
from services.common.job_spec.data import DataSpec
from services.common.job_spec.decoding import DiffusionSpec, PromptSpec, SamplingSpec
from services.common.job_spec.grading import EvalSpec, RewardSpec
from services.common.job_spec.method import Method, method_object
from services.common.job_spec.resources import CheckpointSpec, ResourcesSpec, TrainerSpec
from services.common.job_spec.rl import RlSpec
from services.common.job_spec.training import LoraSpec, OptimSpec, SftSpec

Section = TypeVar("Section", bound=Frozen)
_MAX_METADATA = 16
_MAX_MIXED = 32
_FILE_KEYS = (
    ("training_file",),
    ("validation_file",),
    ("sft", "training_file"),
    ("sft", "validation_file"),
    ("rl", "training_file"),
)
_PROSE = frozenset({"title", "description", "unit", "source"})
"""Keywords of the JSON schema that say nothing about which specs are valid."""


class MixturePart(Frozen):
    """One file of a mixture."""

    file: str = Field(min_length=1)
    """File id (`file_…`) or path."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """Share of the prompts relative to the other files, independent of their lengths."""


class JobSpec(Frozen):
    """A whole job."""

    model: str = Field(min_length=1)
    """Initial model: a directory, the id of a registered model (`model_…`), or a name on the
    Hugging Face hub.
    """
    model_revision: str | None = None
    """Commit, tag or branch of a model on the Hugging Face hub. None takes the default branch."""
    method: Annotated[Method, BeforeValidator(method_object)]
    """What the job does: `sft`, `rl`, `eval`, or `pipeline`, which runs the three in this order. A
    string, or an object with `type`.
    """
    training_file: str | None = None
    """Rows to train on: file id (`file_…`), path, or a split of a data set on the Hugging Face hub
    (`openai/gsm8k:main/train`, `OWNER/NAME@REVISION:SPLIT`). Required by a method that trains, unless
    `training_mixture` or the stage's own `training_file` is given.
    """
    training_mixture: tuple[MixturePart, ...] = Field((), max_length=_MAX_MIXED)
    """Several training files with weights, in place of `training_file`. An epoch has as many rows
    as all of them together.
    """
    validation_file: str | None = None
    """Rows to evaluate on: file id (`file_…`) or path. Required by `eval` and `pipeline`; with it,
    `sft` and `rl` evaluate at the end of the stage.
    """
    suffix: str | None = Field(None, max_length=64)
    """Short name of the job, shown in lists and found by their search."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the prompt order, the noise and the sampling. On-policy jobs of one spec and seed give
    the same weights on one machine.
    """
    priority: int = Field(0, ge=-100, le=100)
    """Order of waiting jobs: the scheduler starts jobs of higher priority first."""
    metadata: dict[str, str] = Field(default_factory=dict, max_length=_MAX_METADATA)
    """Labels of the job, free text. The platform stores and searches them."""
    data: DataSpec = DataSpec()
    validation_data: DataSpec | None = None
    """How the rows of validation files are read, in place of `data`. None reads them like training
    files.
    """
    diffusion: DiffusionSpec = DiffusionSpec()
    sampling: SamplingSpec = SamplingSpec()
    prompt: PromptSpec = PromptSpec()
    optim: OptimSpec = OptimSpec()
    sft: SftSpec = SftSpec()
    rl: RlSpec = RlSpec()
    lora: LoraSpec | None = None
    """Low-rank adapters. None trains all weights."""
    trainer: TrainerSpec = TrainerSpec()
    reward: RewardSpec = RewardSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    eval: EvalSpec = EvalSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="before")
    @classmethod
    def _environments_grade_their_rows(cls, data: Any) -> Any:
        """A job that trains on environments only is graded by them, unless it says how."""
        if not isinstance(data, Mapping) or data.get("training_mixture"):
            return data
        reward, rl = data.get("reward") or {}, data.get("rl") or {}
        if not isinstance(reward, Mapping) or not isinstance(rl, Mapping) or "graders" in reward:
            return data
        files = (rl.get("training_file") or data.get("training_file"), data.get("validation_file"))
        names = [name for name in files if isinstance(name, str)]
        if not names or not all(map(is_environment_name, names)):
            return data
        return {**data, "reward": {**reward, "graders": ["environment"]}}

    @model_validator(mode="before")
    @classmethod
    def _split_validates(cls, data: Any) -> Any:
        """The validation file of a split is the training file."""
        if not isinstance(data, Mapping) or not isinstance(reading := data.get("data"), Mapping):
            return data
        if reading.get("split_validation") is None or data.get("validation_file") is not None:
            return data
        return {**data, "validation_file": data.get("training_file")}

    @model_validator(mode="after")
    def _split_is_of_one_file(self) -> Self:
        if self.data.split_validation is None:
            return self
        if self.training_file is None:
            raise ValueError("data.split_validation divides training_file, which is missing")
        if self.validation_file != self.training_file or self.validation_data is not None:
            raise ValueError(
                "data.split_validation takes validation rows from training_file; remove it, or validation_file and "
                "validation_data"
            )
        return self

    @model_validator(mode="after")
    def _one_file_or_a_mixture(self) -> Self:
        if self.training_file is not None and self.training_mixture:
            raise ValueError(
                "training_file and training_mixture exclude each other; name the file in the mixture"
            )
        return self

    @model_validator(mode="after")
    def _files_for_stages(self) -> Self:
        for stage in self.method.stages:
            if stage == "eval" and self.validation_file is None:
                raise ValueError(
                    f"method {self.method.type!r} evaluates, so validation_file is required"
                )
            if stage != "eval" and not self.training_files_of(stage):
                others = f"training_mixture, or {stage}.training_file"
                raise ValueError(f"method {self.method.type!r} needs training_file (or {others})")
        return self

    @model_validator(mode="after")
    def _sft_validates(self) -> Self:
        if self.sft.validation_interval_steps is not None and self.sft_validation_file() is None:
            raise ValueError(
                "sft.validation_interval_steps needs sft.validation_file (or validation_file)"
            )
        return self

    @model_validator(mode="after")
    def _thresholds_have_a_rule(self) -> Self:
        rule = self.diffusion.unmasking_strategy
        if self.eval.confidence_thresholds and rule is not UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC:
            raise ValueError(
                "eval.confidence_thresholds need diffusion.unmasking_strategy 'low_confidence_dynamic'; "
                f"{rule.value!r} has no threshold"
            )
        return self

    @model_validator(mode="after")
    def _rl_samples(self) -> Self:
        if "rl" in self.method.stages and self.sampling.temperature == 0:
            raise ValueError(
                "sampling.temperature is 0, but greedy responses of one prompt are all equal and teach nothing; "
                "reinforcement learning needs a temperature above 0 (1 keeps importance ratios exact)"
            )
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        metric = self.checkpoint.keep_best
        if metric is not None and is_evaluated(metric) and self.validation_file is None:
            raise ValueError(f"checkpoint.keep_best {metric!r} needs validation_file")
        return self

    @model_validator(mode="after")
    def _correctness_is_graded(self) -> Self:
        if self.rl.dynamic_sampling == "correctness" and not uses_correctness(self.reward.graders):
            raise ValueError(
                "rl.dynamic_sampling 'correctness' drops every group, because no grader of the reward compares "
                "responses with reference answers; use 'reward'"
            )
        return self

    @model_validator(mode="after")
    def _taking_turns_is_on_policy(self) -> Self:
        if self.resources.colocate and self.rl.max_staleness > 0:
            raise ValueError(
                f"resources.colocate needs rl.max_staleness 0, got {self.rl.max_staleness}"
            )
        return self

    @model_validator(mode="after")
    def _exact_preset_fits(self) -> Self:
        if self.rl.preset == "exact" and "rl" in self.method.stages:
            sampling, diffusion = self.sampling, self.diffusion
            require_policy_sampling(sampling.temperature, sampling.top_p, sampling.top_k)
            require_exact_estimator(
                self.rl.estimator, diffusion.unmasking_strategy, diffusion.selection
            )
        return self

    def training_files_of(self, stage: Literal["sft", "rl"]) -> tuple[MixturePart, ...]:
        """The stage's own training file, else the job's mixture, which may be of one file."""
        own = self.sft.training_file if stage == "sft" else self.rl.training_file
        single = own or self.training_file
        return self.training_mixture if single is None else (MixturePart(file=single),)

    def reading_of(self, file: str, *, validates: bool) -> Reading:
        """How the rows of a file are read to train or to validate on."""
        data = self.data
        if validates and self.validation_data is not None:
            data = self.validation_data
        share, split = self.data.split_validation, None
        if share is not None and file == self.training_file:
            split = Split("validation" if validates else "train", share, self.seed)
        return data.reading(split)

    def sft_validation_file(self) -> str | None:
        """The supervised stage's own validation file, else the job's."""
        return self.sft.validation_file or self.validation_file

    def optim_of(self, stage: Literal["sft", "rl"]) -> OptimSpec:
        """The stage's own optimizer settings, else the job's."""
        return (self.sft.optim if stage == "sft" else self.rl.optim) or self.optim

    def files(self) -> tuple[str, ...]:
        """Every file the job reads, each once."""
        stages = (self.sft.training_file, self.sft.validation_file, self.rl.training_file)
        mixed = (part.file for part in self.training_mixture)
        named = (self.training_file, self.validation_file, *stages, *mixed)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def needs_rollout(self) -> bool:
        """Whether any stage decodes."""
        return self.method.type != "sft" or self.validation_file is not None

    def with_files(self, names: Mapping[str, str]) -> Self:
        """Return the spec with other names of its files."""
        data = self.model_dump(mode="json")
        for section, key in list_file_places(data):
            section[key] = names.get(section[key], section[key])
        return self.model_validate(data)

    def canonical_json(self) -> str:
        """The spec with all defaults, keys sorted; what is hashed, stored and sent."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def spec_hash(self) -> str:
        """sha256 of canonical_json, hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


@cache
def schema_digest() -> str:
    """sha256 of the job spec's JSON schema, hex: two releases with the same read the same specs.

    Descriptions, units and sources do not enter it: a reworded key must not keep a scheduler from
    giving jobs to trainers of the earlier release.
    """
    schema = strip_prose(JobSpec.model_json_schema())
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def strip_prose(schema: Any) -> Any:
    """Return a JSON schema without the texts that only explain it; keys that are named like one of
    them stay.
    """
    if isinstance(schema, list):
        return [strip_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: strip_prose(value) for name, value in inner.items()}
        if key in ("properties", "$defs")
        else strip_prose(inner)
        for key, inner in schema.items()
        if key not in _PROSE
    }


def parse_spec(data: Any) -> JobSpec:
    """Validate a mapping; raises ProblemsError naming every problem with its path."""
    return parse_section(JobSpec, data)


def parse_section(kind: type[Section], data: Any, path: str = "") -> Section:
    """Validate the section of a spec at a path; raises ProblemsError naming every problem."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        parents = (path,) if path else ()
        problems = [
            _problem((*parents, *item["loc"]), item["msg"], item.get("input"))
            for item in error.errors()
        ]
        raise ProblemsError("spec_invalid", "The job spec cannot be used", problems) from None


def _problem(location: tuple[int | str, ...], message: str, value: Any) -> Problem:
    path = ".".join(str(part) for part in location) or "spec"
    if message == "Extra inputs are not permitted":
        return Problem(path, "unknown key")
    shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
    return Problem(path, message.removeprefix("Value error, ") + shown)


def list_file_places(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (section, key) of every name of a file in a spec that is not parsed."""
    for *parents, last in _FILE_KEYS:
        section: Any = spec
        for parent in parents:
            section = section.get(parent) or {}
        if isinstance(section.get(last), str):
            yield section, last
    for part in spec.get("training_mixture") or ():
        yield part, "file"


def load_spec(path: Path) -> JobSpec:
    """Read a .toml or .json file; raises ProblemsError."""
    return parse_spec(read_spec_file(path))


def read_spec_file(path: Path) -> dict[str, Any]:
    """Read a .toml or .json file; raises ProblemsError for unreadable or malformed files."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ProblemsError(
            "spec_invalid", f"Cannot read the job spec {path}", [Problem(str(path), str(error))]
        ) from None
    if not isinstance(data, dict):
        raise ProblemsError(
            "spec_invalid",
            f"Cannot read the job spec {path}",
            [Problem("spec", "must be an object")],
        )
    return data
