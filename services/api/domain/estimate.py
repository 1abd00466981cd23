"""Estimates of a job before it runs: its length, its memory and disk, and whether its prompts give a
learning signal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.common.errors import Problem
from services.common.job_spec import JobSpec

_WEIGHT_BYTES: Final = 4
_TRAINED_BYTES: Final = 16
"""fp32 weights, gradients, and the two moments of AdamW."""
_CHECKPOINT_BYTES: Final = 12
"""fp32 weights and moments."""


@dataclass(frozen=True)
class ResourceEstimate:
    """Memory and disk that a job needs, and how much of both exists; bytes."""

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
    """Results of the base model on some of the prompts."""

    prompts: int
    generations: int
    """Of each prompt."""
    zero_variance: int
    """Groups whose rewards are equal."""
    reward_mean: float | None
    """None when no response could be graded."""
    ungraded: tuple[str, ...] = ()
    """Reason of every response that could not be graded."""
    all_correct: int | None = None
    """Groups in which every response was correct; None where no grader looks at correctness."""
    all_wrong: int | None = None
    """Groups in which none was; None as above."""

    @property
    def zero_variance_rate(self) -> float:
        """Share of groups with equal rewards."""
        return self.zero_variance / self.prompts

    def has_signal(self, rule: Literal["reward", "correctness", "off"]) -> bool:
        """Whether dynamic sampling keeps any group."""
        if rule == "correctness":
            return (self.all_correct or 0) + (self.all_wrong or 0) < self.prompts
        return rule == "off" or self.zero_variance < self.prompts


def estimate_resources(
    parameters: int,
    activations: int | None,
    spec: JobSpec,
    memory_total: int | None,
    disk_free: int,
) -> ResourceEstimate:
    """Memory and disk that the job needs."""
    trains = spec.method.stages != ("eval",)
    kept = (
        spec.checkpoint.keep_last + 1 if trains else 0
    )  # the new one is written before the oldest is removed
    # With adapters, only they have gradients and moments: negligible compared with the weights.
    whole = trains and spec.lora is None
    return ResourceEstimate(
        parameters=parameters,
        memory_bytes=parameters * (_TRAINED_BYTES if whole else _WEIGHT_BYTES),
        activation_bytes=activations,
        memory_total_bytes=memory_total,
        disk_bytes=parameters * (_CHECKPOINT_BYTES if whole else _WEIGHT_BYTES) * kept,
        disk_free_bytes=disk_free,
    )


def count_steps(spec: JobSpec, sft_rows: int) -> dict[str, int]:
    """Optimizer steps by stage."""
    steps: dict[str, int] = {}
    if "sft" in spec.method.stages:
        whole = -(-sft_rows * spec.sft.epochs // spec.sft.batch_size)
        steps["sft"] = whole if spec.sft.max_steps is None else min(whole, spec.sft.max_steps)
    if "rl" in spec.method.stages:
        steps["rl"] = spec.rl.steps
    return steps


def estimate_seconds(spec: JobSpec, steps: int, earlier: JobSpec, step_s: float) -> float:
    """Seconds of `steps` at the pace of an earlier job of the same model and method, scaled by the
    work of a step.
    """
    return steps * step_s * _count_work(spec) / _count_work(earlier)


def _count_work(spec: JobSpec) -> int:
    """Response tokens of a step, at most; rows in supervised training."""
    if spec.method.type == "sft":
        return spec.sft.batch_size
    return spec.rl.prompts_per_step * spec.rl.num_generations * spec.sampling.max_new_tokens


def find_misfits(needed: ResourceEstimate, spec: JobSpec) -> Sequence[Problem]:
    """Demands of the job that exceed the machines."""
    found: list[Problem] = []
    if needed.memory_total_bytes is not None and needed.memory_bytes > needed.memory_total_bytes:
        needs = f"{needed.parameters} parameters take {needed.memory_bytes} bytes to train"
        found.append(
            Problem(
                "model",
                f"does not fit: {needs}, the trainer's machine has {needed.memory_total_bytes}",
            )
        )
    if needed.disk_bytes > needed.disk_free_bytes:
        needs = (
            f"{spec.checkpoint.keep_last} checkpoints and a new one take {needed.disk_bytes} bytes"
        )
        found.append(
            Problem(
                "checkpoint.keep_last", f"does not fit: {needs}, {needed.disk_free_bytes} are free"
            )
        )
    return found


def _find_pass_misfits(needed: ResourceEstimate) -> Iterator[Problem]:
    if needed.memory_total_bytes is None or needed.activation_bytes is None:
        return
    if (
        needed.memory_bytes
        <= needed.memory_total_bytes
        < needed.memory_bytes + needed.activation_bytes
    ):
        needs = f"about {needed.activation_bytes} bytes of a pass beside {needed.memory_bytes} of weights and optimizer"
        what = f"does not fit: {needs}, the trainer's machine has {needed.memory_total_bytes}"
        yield Problem(
            "trainer.max_tokens_per_microbatch",
            f"{what}; lower it, or set trainer.gradient_checkpointing",
        )


def find_objections(
    needed: ResourceEstimate, probe: Probe | None, spec: JobSpec
) -> Sequence[Problem]:
    """Why the job cannot fit or cannot learn; empty when no problem was found."""
    found = [*find_misfits(needed, spec), *_find_pass_misfits(needed)]
    if probe is None:
        return found
    responses = probe.prompts * probe.generations
    if len(probe.ungraded) > spec.reward.max_unverifiable_rate * responses:
        what = f"{len(probe.ungraded)} of {responses} responses of a probe could not be graded"
        reasons = ", ".join(sorted(set(probe.ungraded)))
        found.append(Problem("reward.graders", f"cannot train: {what} ({reasons})"))
    elif not probe.has_signal(spec.rl.dynamic_sampling):
        counts = (
            f"mean {probe.reward_mean:g}"
            if probe.all_correct is None
            else f"{probe.all_correct} all correct, {probe.all_wrong} all wrong"
        )
        what = f"all {probe.prompts} groups of a probe had equal rewards ({counts})"
        fix = "choose other prompts, other graders or another initial model"
        found.append(Problem("rl", f"cannot learn: {what}; {fix}"))
    return found
