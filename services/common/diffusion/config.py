"""How a block is denoised: the one description that rollout, training and evaluation share."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class UnmaskingStrategy(StrEnum):
    """Which masked positions a denoising step commits."""

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
        """Whether denoising_steps governs it."""
        return self in (self.LOW_CONFIDENCE_STATIC, self.SEQUENTIAL)


class Selection(StrEnum):
    """What the confidence of a position is."""

    MAX = "max"
    """Its largest probability: which positions are committed is a function of the state alone."""
    SAMPLED = "sampled"
    """The probability of the sampled candidate (SDAR, LMDeploy)."""


class Frozen(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # The schema says what a key means in the words that stand under it.
        use_attribute_docstrings=True,
    )


class DecodingConfig(Frozen):
    """Everything that decides how one prompt is decoded, with ids resolved from the model."""

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
    """Whether a trajectory also carries what its steps sampled and did not commit."""

    @property
    def tokens_per_step(self) -> int:
        """Positions committed per step by the static and sequential rules."""
        return max(1, self.block_size // self.denoising_steps)
