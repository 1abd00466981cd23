"""What a job runs on, how it computes there, and which checkpoints it keeps."""

from typing import Literal

from pydantic import Field, field_validator

from services.common.diffusion.config import Frozen
from services.common.job_metrics import find_metric
from services.common.job_spec.notes import notes


class TrainerSpec(Frozen):
    """How the learner computes; none of it changes loss or gradient."""

    seq_len: int = Field(4096, gt=0, json_schema_extra=notes(unit="tokens"))
    """Longest prompt and response together. Longer rows are dropped and counted."""
    max_tokens_per_microbatch: int = Field(16384, gt=0, json_schema_extra=notes(unit="tokens"))
    """Row tokens, clean and noisy, of one forward pass. Lower it to use less memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Data type of the forward and backward passes. `bf16` needs a GPU and keeps weights, optimizer
    and log-softmax in fp32; a CPU trains in fp32.
    """
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class CheckpointSpec(Frozen):
    """When checkpoints are written, and which are kept. The last step of every stage is always
    written.
    """

    interval_steps: int = Field(50, gt=0, json_schema_extra=notes(unit="steps"))
    """Optimizer steps between checkpoints: the most that a failed attempt repeats."""
    keep_last: int = Field(3, gt=0, json_schema_extra=notes(unit="checkpoints"))
    """Number of newest checkpoints to keep; older ones are deleted."""
    keep_best: str | None = Field(None, max_length=128)
    """Metric whose best checkpoint is kept as well, e.g. `eval/validation/reward`: the lowest value
    of a loss, the highest of any other metric. None takes the validation loss of a supervised stage
    that measures it (`sft.validation_interval_steps`).
    """
    keep_every: int | None = Field(None, gt=0, json_schema_extra=notes(unit="steps"))
    """Keep the checkpoints of steps that are multiples of this number for good. None keeps the
    newest and the best only.
    """
    max_undone_steps: int | None = Field(None, ge=0, json_schema_extra=notes(unit="steps"))
    """Most steps that an attempt may undo because checkpoints do not verify; beyond it the job pauses
    with `checkpoint_lost`. None takes twice `interval_steps`. A rewind is not limited.
    """

    @property
    def undo_limit(self) -> int:
        """Most steps that an attempt may undo because checkpoints do not verify."""
        return 2 * self.interval_steps if self.max_undone_steps is None else self.max_undone_steps

    @field_validator("keep_best")
    @classmethod
    def _metric_exists(cls, name: str | None) -> str | None:
        if name is not None and find_metric(name) is None:
            raise ValueError(
                "is not a metric of a job; docs/reference/metrics.md lists them, e.g. eval/validation/reward"
            )
        return name


class ResourcesSpec(Frozen):
    """What the job asks the platform for."""

    trainer_ranks: int = Field(1, gt=0, json_schema_extra=notes(unit="processes"))
    """Processes of the learner. The weights are sharded over them; on GPUs each has one device."""
    rollout_replicas: int = Field(1, gt=0, json_schema_extra=notes(unit="replicas"))
    """Rollout replicas that the job uses. The job waits until so many are idle."""
    rollout_batch_size: int = Field(0, ge=0, json_schema_extra=notes(unit="responses"))
    """Responses that a replica decodes at a time. 0 lets the replica choose
    (`DIRL_ROLLOUT_BATCH_SIZE`).
    """
    colocate: bool = False
    """Time-share devices: replicas and learner use the same ones, and replicas release their memory
    while the learner trains. Needs `rl.max_staleness` 0.
    """
