"""What can be said of a job before it runs: its length, its room, and whether its prompts can teach
anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.errors import Problem
from services.common.job_spec import JobSpec

_WEIGHT_BYTES: Final = 4
_TRAINED_BYTES: Final = 16
"""fp32 weights, gradients, and the two moments of AdamW."""
_CHECKPOINT_BYTES: Final = 12
"""fp32 weights and moments."""


@dataclass(frozen=True)
class Room:
    """What a job takes, and what there is; bytes."""

    parameters: int
    memory_bytes: int
    """At least: weights, gradients and optimizer state."""
    activation_bytes: int | None
    """What a training pass takes on top, about; None where the model's shape or the samples' length
    is not known.
    """
    memory_total_bytes: int | None
    """Of the trainer's machine; None when it is another one."""
    disk_bytes: int
    """Of the checkpoints that are kept at once."""
    disk_free_bytes: int


@dataclass(frozen=True)
class Probe:
    """What the base model did with some of the prompts."""

    prompts: int
    generations: int
    """Of each prompt."""
    correct: int
    """Groups in which every response was correct."""
    wrong: int
    """Groups in which none was."""

    @property
    def zero_variance_rate(self) -> float:
        """Share of groups that would teach nothing."""
        return (self.correct + self.wrong) / self.prompts


def room(
    parameters: int,
    activations: int | None,
    spec: JobSpec,
    memory_total: int | None,
    disk_free: int,
) -> Room:
    """What the job takes."""
    trains = spec.method.stages != ("eval",)
    kept = (
        spec.checkpoint.keep_last + 1 if trains else 0
    )  # the new one is written before the oldest is removed
    # Of a job with adapters, gradients and moments are theirs: next to nothing beside the weights.
    whole = trains and spec.lora is None
    return Room(
        parameters=parameters,
        memory_bytes=parameters * (_TRAINED_BYTES if whole else _WEIGHT_BYTES),
        activation_bytes=activations,
        memory_total_bytes=memory_total,
        disk_bytes=parameters * (_CHECKPOINT_BYTES if whole else _WEIGHT_BYTES) * kept,
        disk_free_bytes=disk_free,
    )


def steps_of(spec: JobSpec, sft_rows: int) -> dict[str, int]:
    """Optimizer steps by stage."""
    steps: dict[str, int] = {}
    if "sft" in spec.method.stages:
        whole = -(-sft_rows * spec.sft.epochs // spec.sft.batch_size)
        steps["sft"] = whole if spec.sft.max_steps is None else min(whole, spec.sft.max_steps)
    if "rl" in spec.method.stages:
        steps["rl"] = spec.rl.steps
    return steps


def seconds_of(spec: JobSpec, steps: int, earlier: JobSpec, step_s: float) -> float:
    """Time of `steps` at the pace of an earlier job of the same model and method, by the work that
    a step has.
    """
    return steps * step_s * _work(spec) / _work(earlier)


def _work(spec: JobSpec) -> int:
    """Responses' tokens of a step, at most; of supervised training, rows."""
    if spec.method.type == "sft":
        return spec.sft.batch_size
    return spec.rl.prompts_per_step * spec.rl.num_generations * spec.sampling.max_new_tokens


def does_not_fit(room: Room, spec: JobSpec) -> Sequence[Problem]:
    """What of the job exceeds the machines; empty when nothing does."""
    found: list[Problem] = []
    if room.memory_total_bytes is not None and room.memory_bytes > room.memory_total_bytes:
        needs = f"{room.parameters} parameters take {room.memory_bytes} bytes to train"
        found.append(
            Problem(
                "model",
                f"does not fit: {needs}, the trainer's machine has {room.memory_total_bytes}",
            )
        )
    if room.disk_bytes > room.disk_free_bytes:
        needs = (
            f"{spec.checkpoint.keep_last} checkpoints and a new one take {room.disk_bytes} bytes"
        )
        found.append(
            Problem(
                "checkpoint.keep_last", f"does not fit: {needs}, {room.disk_free_bytes} are free"
            )
        )
    return found


def _passes_do_not_fit(room: Room) -> Iterator[Problem]:
    if room.memory_total_bytes is None or room.activation_bytes is None:
        return
    if room.memory_bytes <= room.memory_total_bytes < room.memory_bytes + room.activation_bytes:
        needs = f"about {room.activation_bytes} bytes of a pass beside {room.memory_bytes} of weights and optimizer"
        what = f"does not fit: {needs}, the trainer's machine has {room.memory_total_bytes}"
        yield Problem(
            "trainer.max_tokens_per_microbatch",
            f"{what}; lower it, or set trainer.gradient_checkpointing",
        )


def objections(room: Room, probe: Probe | None, spec: JobSpec) -> Sequence[Problem]:
    """Why the job cannot fit or cannot learn; empty when nothing speaks against it."""
    found = [*does_not_fit(room, spec), *_passes_do_not_fit(room)]
    if probe is not None and probe.zero_variance_rate == 1.0 and spec.rl.dynamic_sampling:
        counts = f"{probe.correct} all correct, {probe.wrong} all wrong"
        what = f"all {probe.prompts} groups of a probe had equal rewards ({counts})"
        found.append(
            Problem("rl", f"cannot learn: {what}; choose other prompts or another initial model")
        )
    return found
