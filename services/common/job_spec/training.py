"""Optimizer, supervised fine-tuning and adapters."""

from typing import Annotated, Literal

from pydantic import Field

from services.common.diffusion.config import Frozen
from services.common.job_spec.notes import CONFIGURATION, PAPER, notes


class OptimSpec(Frozen):
    """AdamW and its learning rate."""

    lr: float = Field(
        1e-5, gt=0, json_schema_extra=notes(source=f"{PAPER}, SFT stage; its RL stage has 1e-6")
    )
    """Peak learning rate."""
    weight_decay: float = Field(0.0, ge=0, json_schema_extra=notes(source=PAPER))
    """Decoupled weight decay of AdamW; norms and biases do not decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), json_schema_extra=notes(source=CONFIGURATION)
    )
    """Decay rates of AdamW's first and second moments."""
    warmup_steps: int = Field(0, ge=0, json_schema_extra=notes(unit="steps"))
    """Steps of linear warm-up. The first step has the rate lr / warmup_steps, not 0."""
    scheduler: Literal["constant", "cosine", "linear"] = Field(
        "constant", json_schema_extra=notes(source=f"{CONFIGURATION}, RL stage")
    )
    """Learning rate from the end of the warm-up to the last step of the stage."""
    max_grad_norm: float = Field(1.0, gt=0, json_schema_extra=notes(source=CONFIGURATION))
    """Largest norm of the gradient of an optimizer step; a larger one is scaled down."""


class SftSpec(Frozen):
    """Supervised fine-tuning with random masking."""

    training_file: str | None = None
    """Rows of this stage: file id (`file_…`) or path. None takes the job's `training_file`."""
    epochs: int = Field(1, gt=0, json_schema_extra=notes(unit="epochs"))
    """Passes over the training rows."""
    max_steps: int | None = Field(None, gt=0, json_schema_extra=notes(unit="steps"))
    """Largest number of optimizer steps. None trains all `epochs`."""
    batch_size: int = Field(64, gt=0, json_schema_extra=notes(unit="rows"))
    """Rows per optimizer step."""
    validation_file: str | None = None
    """Rows whose loss is reported: file id (`file_…`) or path. None takes the rows of the job's
    `validation_file` that have a completion.
    """
    validation_interval_steps: int | None = Field(None, gt=0, json_schema_extra=notes(unit="steps"))
    """Optimizer steps between validations, with one after the last step. The checkpoint of the
    lowest loss is kept. None disables validation.
    """
    noise: Literal["document", "block", "trace"] = Field(
        "document", json_schema_extra=notes(source=PAPER)
    )
    """What draws a mask rate: the whole document, or each of its blocks. `trace` draws nothing and
    follows the `unmask_step` of the row.
    """
    min_noise: float = Field(1e-3, gt=0, lt=1, json_schema_extra=notes(source=CONFIGURATION))
    """Smallest mask rate. The loss of a masked token is divided by the rate, so this bounds it."""
    optim: OptimSpec | None = None
    """Optimizer of this stage. None takes the job's `optim`."""


class LoraSpec(Frozen):
    """Low-rank adapters on frozen weights, for SFT and RL. Published and exported weights are
    merged.
    """

    rank: int = Field(16, gt=0)
    """Inner dimension of the adapter's two matrices."""
    alpha: int = Field(32, gt=0)
    """Scale of the adapter: its product is multiplied by alpha / rank."""
    dropout: Literal[0] = 0
    """Must be 0. With dropout the trained policy would differ from the policy that decodes, and a
    resume would not be exact.
    """
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1
    )
    """Names of the linear layers that get an adapter, such as `q_proj`. None takes every linear
    layer of the decoder's blocks.
    """
