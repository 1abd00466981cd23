"""What a job runs on, how it computes there, and which checkpoints it keeps."""

from typing import Literal

from pydantic import Field

from services.common.diffusion.config import Frozen


class TrainerSpec(Frozen):
    """How the learner computes; none of it changes loss or gradient."""

    seq_len: int = Field(4096, gt=0)
    """Longest prompt + response in tokens; longer rows are dropped and counted."""
    max_tokens_per_microbatch: int = Field(16384, gt=0)
    """Row tokens (clean and noisy) of one forward pass."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes passes in bf16 on a GPU; weights, optimizer and log-softmax stay fp32. A CPU
    trains in fp32.
    """
    gradient_checkpointing: bool = False


class CheckpointSpec(Frozen):
    """When state is written, and what is kept. The last step of every stage is always written."""

    interval_steps: int = Field(50, gt=0)
    keep_last: int = Field(3, gt=0)
    keep_every: int | None = Field(None, gt=0)
    """Multiples of this step are kept for good."""


class ResourcesSpec(Frozen):
    """What the job asks the platform for."""

    trainer_ranks: int = Field(1, gt=0)
    """Processes of the learner; the weights are sharded over them. On GPUs, one device each."""
    rollout_replicas: int = Field(1, gt=0)
    rollout_batch_size: int = Field(0, ge=0)
    """Responses decoded side by side per replica; 0 lets the replica choose."""
    colocate: bool = False
    """Replicas and learner share devices and take turns: replicas give their memory back while the
    learner trains.
    """
