"""How prompts are written and responses decoded."""

from pydantic import Field

from services.common.diffusion.config import Frozen, Selection, UnmaskingStrategy


class DiffusionSpec(Frozen):
    """Block diffusion; governs rollout, training and evaluation alike."""

    block_size: int | None = Field(None, gt=0)
    """Tokens per block; None takes the checkpoint's. A value that contradicts the checkpoint is
    refused.
    """
    denoising_steps: int | None = Field(None, gt=0)
    """Steps per block of the static and sequential rules; None is one token per step."""
    unmasking_strategy: UnmaskingStrategy = UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC
    confidence_threshold: float = Field(0.9, ge=0, le=1)
    entropy_bound: float = Field(0.5, ge=0)
    """Nats."""
    selection: Selection = Selection.MAX
    mask_token_id: int | None = Field(None, ge=0)
    """None takes the checkpoint's."""


class SamplingSpec(Frozen):
    """Sampling of training rollouts. Anything but temperature 1 without cuts makes importance
    ratios approximate.
    """

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(512, gt=0)


class PromptSpec(Frozen):
    """How a row becomes a prompt."""

    template: str = "{prompt}"
    """Text of the user turn; `{prompt}` is the row's problem."""
    system: str | None = None
    max_prompt_tokens: int = Field(1024, gt=0)
    """Longer prompts are dropped and counted, never cut."""
