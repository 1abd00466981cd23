"""Reinforcement learning."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from services.common.diffusion.config import Frozen
from services.common.exactness import with_exact_settings
from services.common.job_spec.training import OptimSpec


class RlSpec(Frozen):
    """DiPO: policy gradient on the denoising steps that really happened."""

    training_file: str | None = None
    """Overrides the job's."""
    steps: int = Field(100, gt=0)
    prompts_per_step: int = Field(32, gt=0)
    num_generations: int = Field(8, gt=1)
    preset: Literal["exact"] | None = None
    """`exact` sets what EXACT says, and refuses what contradicts it."""
    estimator: Literal["accepted", "all_candidates"] = "accepted"
    """Whose log-probabilities are differentiated: committed tokens, or rejected candidates as well."""
    advantage: Literal["std", "mean", "leave_one_out"] = "std"
    normaliser: Literal["token", "response", "constant"] = "token"
    clip_low: float = Field(0.2, ge=0, le=1)
    clip_high: float = Field(0.28, ge=0)
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """What the clipped ratio is relative to: the recorded log-probs, or those of the weights before
    the step.
    """
    importance_cap: float = Field(2.0, gt=0)
    """With ratio = proximal, the largest weight π_prox / π_b of a token (truncated importance
    sampling).
    """
    num_iterations: int = Field(1, gt=0)
    """Passes over a step's batch."""
    minibatches: int = Field(1, gt=0)
    """Parts of whole groups that a pass is split into; each is one update of the weights."""
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the weights that the stage began with; 0 keeps no copy of
    them.
    """
    kl_estimator: Literal["k3", "k2"] = "k3"
    max_staleness: int = Field(0, ge=0)
    """Weight versions that a trajectory may be older than those it trains. 0 is strictly on-policy
    and reproducible; above, replicas decode while the learner trains.
    """
    dynamic_sampling: bool = True
    """Drop groups whose correctness does not vary, and refill."""
    max_resample_rounds: int = Field(2, ge=0)
    min_groups_per_step: int = Field(1, gt=0)
    parity_tolerance: float | None = Field(None, gt=0)
    """Largest |engine - trainer| / max(1, |trainer|) of a log-probability on the parity probe; a replica beyond it does
    not use a weight version. None takes 1e-4 in fp32, where the two agree to 1e-5 but for a tail, and 0.1 in bf16.
    """
    logged_groups_per_step: int = Field(8, ge=0)
    """Groups whose trajectories are kept in full for inspection."""
    optim: OptimSpec | None = None
    """Overrides the job's."""

    @property
    def off_policy(self) -> bool:
        """Whether weights train on trajectories that other weights sampled."""
        return self.num_iterations * self.minibatches > 1 or self.max_staleness > 0

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return (
            with_exact_settings(data)
            if isinstance(data, dict) and data.get("preset") == "exact"
            else data
        )

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.min_groups_per_step > self.prompts_per_step:
            raise ValueError(
                f"min_groups_per_step={self.min_groups_per_step} exceeds prompts_per_step={self.prompts_per_step}"
            )
        if self.minibatches > self.min_groups_per_step:
            raise ValueError(
                f"minibatches={self.minibatches} exceeds min_groups_per_step={self.min_groups_per_step}; every "
                "mini-batch needs a whole group, also in a step that gathered the fewest"
            )
        return self
