"""Optimizer, supervised fine-tuning and adapters."""

from typing import Annotated, Literal

from pydantic import Field

from services.common.diffusion.config import Frozen


class OptimSpec(Frozen):
    """AdamW."""

    lr: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    warmup_steps: int = Field(0, ge=0)
    """Linear; the first step already moves."""
    scheduler: Literal["constant", "cosine", "linear"] = "constant"
    """Decay from the end of the warm-up to the last step of the stage."""
    max_grad_norm: float = Field(1.0, gt=0)


class SftSpec(Frozen):
    """Supervised fine-tuning with random masking."""

    training_file: str | None = None
    """Overrides the job's."""
    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Ends the stage earlier than `epochs` would."""
    batch_size: int = Field(64, gt=0)
    """Rows per optimizer step."""
    validation_file: str | None = None
    """Rows whose loss is reported; None takes those of the job's validation_file that have a
    completion.
    """
    validation_interval_steps: int | None = Field(None, gt=0)
    """Steps between validations, with one after the last; the checkpoint of the lowest loss is
    kept. None is never.
    """
    noise: Literal["document", "block", "trace"] = "document"
    """Whether a document or each of its blocks draws its own mask rate, or a row's own
    `unmask_step` is followed.
    """
    min_noise: float = Field(1e-3, gt=0, lt=1)
    """Lower end of the mask rate."""
    optim: OptimSpec | None = None
    """Overrides the job's."""


class LoraSpec(Frozen):
    """Low-rank adapters beside frozen weights, for SFT and RL alike; what is served and exported is
    merged.
    """

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    """The adapter's product is scaled by alpha / rank."""
    dropout: Literal[0] = 0
    """Must be 0: dropout would make the trained policy another one than the one that decodes, and
    resuming inexact.
    """
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1
    )
    """Last names of linear layers, such as q_proj; None takes all of the decoder's blocks."""
