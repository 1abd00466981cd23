"""How responses are graded in training, and how a model is evaluated."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from services.common.diffusion.config import Frozen
from services.common.errors import PlatformError
from services.common.grader_spec import (
    GraderSpec,
    parse_grader,
    require_distinct_names,
    require_gates,
)
from services.common.job_spec.notes import notes


class RewardSpec(Frozen):
    """How responses are graded: the reward is the sum of weight · score over the graders
    (docs/rewards.md).
    """

    graders: tuple[GraderSpec, ...] = Field(
        (parse_grader("accuracy"),), min_length=1, max_length=16
    )
    """Graders of a response, each with a name of its own. A plain name stands for the grader of
    that type.
    """
    normalisation: Literal["none", "per_grader"] = "none"
    """What advantages are computed from: the rewards (`none`), or the weighted sum of scores that
    were standardised grader by grader within the group (`per_grader`, GDPO, arXiv 2601.05242), so
    that no grader outweighs the others by its scale.
    """
    timeout_s: float = Field(3.0, gt=0, le=60, json_schema_extra=notes(unit="seconds"))
    """Wall time of one comparison, from the moment a worker starts it."""
    max_unverifiable_rate: float = Field(0.05, ge=0, le=1)
    """Largest share of unverifiable responses in a step. Above it the job pauses with
    `reward_error_rate` and samples.
    """

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        try:
            require_distinct_names(self.graders)
            require_gates(self.graders)
        except PlatformError as error:
            raise ValueError(error.message) from None
        return self


class EvalSpec(Frozen):
    """Evaluation on the validation file."""

    interval_steps: int | None = Field(None, gt=0, json_schema_extra=notes(unit="steps"))
    """Optimizer steps between evaluations. None evaluates at the end of each stage only."""
    num_samples: int | None = Field(None, gt=0, json_schema_extra=notes(unit="rows"))
    """Rows of the validation file to evaluate, from its start. None evaluates all."""
    num_generations: int = Field(1, gt=0, json_schema_extra=notes(unit="responses"))
    """Responses per problem: the k of avg@k and pass@k."""
    temperature: float = Field(0.0, ge=0)
    """Divisor of the logits. 0 decodes greedily."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling in evaluation. 1 disables it."""
    top_k: int = Field(0, ge=0, json_schema_extra=notes(unit="tokens"))
    """Number of most likely tokens that sampling is limited to. 0 disables it."""
    max_new_tokens: int | None = Field(None, gt=0, json_schema_extra=notes(unit="tokens"))
    """Longest response in evaluation. None takes `sampling.max_new_tokens`."""
    confidence_thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), max_length=16
    )
    """Further values of `diffusion.confidence_threshold` to evaluate at the end of each stage:
    accuracy vs. speed.
    """
    denoising_steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (), max_length=16, json_schema_extra=notes(unit="steps")
    )
    """Further values of `diffusion.denoising_steps` to evaluate at the end of each stage. They use
    `low_confidence_static` where the job's own strategy has no number of steps.
    """
