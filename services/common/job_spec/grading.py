"""How responses are graded in training, and how a model is evaluated."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from services.common.diffusion.config import Frozen
from services.common.errors import PlatformError
from services.common.grader_spec import GraderSpec, parse_grader, require_own_names


class RewardSpec(Frozen):
    """How responses are graded: the reward is the sum of weight · score over the graders
    (docs/rewards.md).
    """

    graders: tuple[GraderSpec, ...] = Field(
        (parse_grader("accuracy"),), min_length=1, max_length=16
    )
    timeout_s: float = Field(3.0, gt=0, le=60)
    """Wall time of one verification, from its dispatch."""
    max_unverifiable_rate: float = Field(0.05, ge=0, le=1)
    """Above this share of unverifiable responses in a step the job pauses, with `reward_error_rate`
    and samples.
    """

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        try:
            require_own_names(self.graders)
        except PlatformError as error:
            raise ValueError(error.message) from None
        return self


class EvalSpec(Frozen):
    """Evaluation on the validation file."""

    interval_steps: int | None = Field(None, gt=0)
    """None evaluates at the end of each stage only."""
    num_samples: int | None = Field(None, gt=0)
    """Rows of the validation file that are used; None is all."""
    num_generations: int = Field(1, gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int | None = Field(None, gt=0)
    """None is `sampling.max_new_tokens`."""
    confidence_thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), max_length=16
    )
    """Other thresholds at which the weights are evaluated too when a stage ends: accuracy against
    speed.
    """
    denoising_steps: tuple[Annotated[int, Field(gt=0)], ...] = Field((), max_length=16)
    """Other numbers of steps per block, likewise; by the static rule where the job's own rule
    counts no steps.
    """
