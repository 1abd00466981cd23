"""The job spec: what a user asks for, as frozen data. Read from TOML or JSON, unknown keys refused,
hashed.

Defaults are practical ones for a small model; docs/algorithm.md says which of them bias the
gradient.
"""

from services.common.job_spec.data import DataSpec, FieldsSpec
from services.common.job_spec.decoding import DiffusionSpec, PromptSpec, SamplingSpec
from services.common.job_spec.grading import EvalSpec, RewardSpec
from services.common.job_spec.job import (
    JobSpec,
    MixturePart,
    list_file_places,
    load_spec,
    parse_section,
    parse_spec,
    read_spec_file,
    schema_digest,
)
from services.common.job_spec.method import Method, MethodType, Stage
from services.common.job_spec.resources import CheckpointSpec, ResourcesSpec, TrainerSpec
from services.common.job_spec.rl import CurriculumSpec, RlSpec
from services.common.job_spec.training import LoraSpec, OptimSpec, SftSpec

__all__ = [
    "CheckpointSpec",
    "CurriculumSpec",
    "DataSpec",
    "DiffusionSpec",
    "EvalSpec",
    "FieldsSpec",
    "JobSpec",
    "LoraSpec",
    "Method",
    "MethodType",
    "MixturePart",
    "OptimSpec",
    "PromptSpec",
    "ResourcesSpec",
    "RewardSpec",
    "RlSpec",
    "SamplingSpec",
    "SftSpec",
    "Stage",
    "TrainerSpec",
    "list_file_places",
    "load_spec",
    "parse_section",
    "parse_spec",
    "read_spec_file",
    "schema_digest",
]
