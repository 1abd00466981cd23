"""Configuration of decoding, shared by rollout, training and evaluation."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class UnmaskingStrategy(StrEnum):
    """Rule that selects the masked positions that a denoising step commits."""

    LOW_CONFIDENCE_STATIC = "low_confidence_static"
    """The B // denoising_steps most confident ones."""
    LOW_CONFIDENCE_DYNAMIC = "low_confidence_dynamic"
    """All with confidence >= threshold, and always the most confident one."""
    SEQUENTIAL = "sequential"
    """The leftmost B // denoising_steps."""
    ENTROPY_BOUNDED = "entropy_bounded"
    """The longest prefix, by ascending entropy, whose summed entropy stays within the bound; at
    least one.
    """

    @property
    def counts_steps(self) -> bool:
        """Whether denoising_steps has an effect on the rule."""
        return self in (self.LOW_CONFIDENCE_STATIC, self.SEQUENTIAL)


class Selection(StrEnum):
    """Definition of the confidence of a position."""

    MAX = "max"
    """Its largest probability: which positions are committed is a function of the state alone."""
    SAMPLED = "sampled"
    """The probability of the sampled candidate (SDAR, LMDeploy)."""


class Frozen(BaseModel):
    """Base of immutable models that reject unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # The docstring under a field is its description in the schema.
        use_attribute_docstrings=True,
    )


class DecodingConfig(Frozen):
    """Everything that determines how a prompt is decoded, with ids resolved from the model."""

    block_size: int = Field(gt=0)
    denoising_steps: int = Field(gt=0)
    unmasking_strategy: UnmaskingStrategy
    confidence_threshold: float = Field(ge=0, le=1)
    entropy_bound: float = Field(ge=0)
    selection: Selection
    mask_token_id: int = Field(ge=0)
    temperature: float = Field(ge=0)
    """0 is greedy: argmax, confidences at temperature 1."""
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    """0 is off."""
    max_new_tokens: int = Field(gt=0)
    stop_token_ids: tuple[int, ...]
    record_candidates: bool = False
    """Whether trajectories also contain the candidates that were sampled but not committed."""

    @property
    def tokens_per_step(self) -> int:
        """Positions committed per step by the static and sequential rules."""
        return max(1, self.block_size // self.denoising_steps)
