"""What can be said of a job before it runs."""

from typing import Any, Literal

from services.api.schemas.base import View
from services.api.schemas.envelope import ProblemBody


class FileEstimate(View):
    """What a file holds."""

    rows: int
    sft_rows: int
    """Rows with a completion."""
    rl_rows: int
    """Rows with a reference answer."""
    longest_prompt_chars: int
    longest_completion_chars: int
    longest_prompt_tokens: int | None
    """Without what a chat template adds; null when the model has no tokenizer to measure with."""
    longest_sample_tokens: int | None
    """Prompt with its completion, or with the longest response that rollouts may give."""
    rows_too_long: int | None
    """Of the file's 256 longest rows: beyond prompt.max_prompt_tokens or trainer.seq_len, so that
    they are dropped.
    """


class ProbeEstimate(View):
    """What the base model did with some of the prompts."""

    prompts: int
    generations: int
    zero_variance_rate: float
    """Share of prompts whose responses have equal rewards."""
    reward_mean: float | None
    """Null when no response could be graded."""
    all_correct: int | None
    """Like `all_wrong` null where no grader looks at correctness."""
    all_wrong: int | None


class JobEstimate(View):
    """What can be said of a job before it runs."""

    object: Literal["job.estimate"] = "job.estimate"
    accepted: bool
    """False when the job cannot fit or cannot learn; `problems` say why."""
    problems: list[ProblemBody]
    spec: dict[str, Any]
    """The job spec with all defaults."""
    files: dict[str, FileEstimate]
    steps: dict[str, int]
    """Optimizer steps by stage."""
    parameters: int
    memory_bytes: int
    """At least: weights, gradients and optimizer state."""
    activation_bytes: int | None
    """What a training pass takes on top, by an estimate; null when the model's shape or its
    tokenizer is not known.
    """
    disk_bytes: int
    """Of the checkpoints that are kept at once."""
    disk_free_bytes: int
    seconds: float | None
    """Of all steps, at the pace of an earlier job; null without one, and without reinforcement or
    supervised steps.
    """
    seconds_from: str | None
    """Job whose pace it is: the newest of this model and method that did a few steps, or else of
    another model.
    """
    seconds_are_rough: bool
    """That job had another model: its pace was scaled by the number of parameters, which small
    models do not follow.
    """
    probe: ProbeEstimate | None
    probe_skipped: str | None
    """Why the prompts were not tried."""
