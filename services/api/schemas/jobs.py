"""Jobs as the API shows them, and what a client may ask of one."""

from typing import Any, Literal

from pydantic import AliasChoices, Field, computed_field

from services.api.domain.job_state import JobState
from services.api.schemas.base import FailureView, RequestBody, UnixSeconds, View

Changes = dict[str, Any]
"""Values by dotted key of the job spec."""


class ProgressView(View):
    """How far a job is."""

    stage: str
    stage_step: int
    stage_steps: int
    step: int
    """Optimizer steps over all stages."""
    total_steps: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fraction(self) -> float:
        """step / total_steps; 1 for a job without steps."""
        return self.step / self.total_steps if self.total_steps else 1.0


class StallView(View):
    """Which phase makes no progress, what it waits for, and since when."""

    phase: str
    waiting_for: str | None
    since: float
    """Unix seconds of the learner's last heartbeat."""
    budget_s: float
    """Seconds that the phase may be silent (DIRL_STALL_BUDGETS_S)."""


class ShortageView(View):
    """Storage space that is running out."""

    of: Literal["quota", "disk"]
    """The project's quota, or the disk of the data directory."""
    used_bytes: int
    limit_bytes: int


class JobView(View):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None
    state: JobState
    method: str
    model: str
    suffix: str | None
    metadata: dict[str, str] = Field(validation_alias=AliasChoices("labels", "metadata"))
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    phase: str | None
    """loading | rollout | reward | train | weight_sync | eval | checkpoint | waiting"""
    stage: str | None
    waiting_for: str | None = Field(validation_alias=AliasChoices("awaited_service", "waiting_for"))
    """trainer | rollout | reward | redis, when the job waits for that service."""
    waiting_reason: str | None = None
    """Why the job cannot be placed however long it waits, e.g. fewer replicas respond than it needs; other
    jobs go ahead of it meanwhile.
    """
    progress: ProgressView | None
    estimated_finish: UnixSeconds | None
    """At the pace of the current stage."""
    latest_metrics: dict[str, float]
    error: FailureView | None
    result_checkpoint: str | None
    """Newest checkpoint of a finished job."""
    priority: int
    """Jobs of a higher priority are placed first within their project."""
    revision: int
    """Number of changes of the spec since the submission."""
    forked_from: str | None
    """Checkpoint of another job that this one started from."""
    retry_at: UnixSeconds | None = None
    """When the next attempt may start, while a job waits after failures of its environment."""
    retry_reason: str | None = None
    """Failure that it waits after."""
    certificate: dict[str, Any] | None = None
    """The worst certificate of all attempts; null before the first."""
    stalled: StallView | None
    """Set while a running job makes no progress."""
    shortage: ShortageView | None
    """Set while a running job is short of space for its checkpoints."""
    last_event_id: str | None
    """Newest event that this response includes: a stream that starts here misses and repeats
    nothing.
    """
    spec_hash: str
    spec: dict[str, Any]
    """The job spec with all defaults."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def status(self) -> JobState:
        """The state under OpenAI's name."""
        return self.state


class JobChanges(RequestBody):
    """What may be changed of a job; keys of `hyperparameters` are dotted, e.g. `optim.lr`."""

    metadata: dict[str, str] | None = Field(None, max_length=16)
    priority: int | None = Field(None, ge=-100, le=100)
    hyperparameters: Changes | None = Field(None, max_length=32)


class CheckpointRequest(View):
    """A requested checkpoint; it is listed once it is written."""

    object: Literal["job.checkpoint_request"] = "job.checkpoint_request"
    job_id: str
    after_step: int
    """The first step that it may be of."""


class RewindRequest(RequestBody):
    """The checkpoint that a job resumes from."""

    checkpoint: str = Field(
        min_length=1, max_length=64, description="Id of a checkpoint of the job."
    )


class ForkRequest(RequestBody):
    """A new job that starts from a checkpoint of another one."""

    checkpoint: str | None = Field(
        None, max_length=64, description="Id of a checkpoint; the job's newest by default."
    )
    changes: Changes = Field(
        default_factory=dict, max_length=64, description="Values by dotted key of the spec."
    )
    suffix: str | None = Field(None, max_length=64)
    metadata: dict[str, str] | None = Field(None, max_length=16)


class DeletedJob(View):
    """A deleted job."""

    id: str
    object: Literal["job"] = "job"
    deleted: bool = True


class DiagnosisView(View):
    """What limits a job or keeps it from running."""

    object: Literal["job.diagnosis"] = "job.diagnosis"
    job_id: str
    code: str
    """queued | waiting | retrying | certificate_broken | restarted |
    stuck | failed | starved | truncation_limited | verifier_failing | verifier_bound |
    rollout_bound | sync_bound | trainer_bound | balanced | finished | starting
    """
    sentence: str
    suggestion: dict[str, Any]
    """Values for keys of the job spec that would help; empty when no change would."""


class LogLineView(View):
    """One line of a log."""

    id: str
    object: Literal["job.log_line"] = "job.log_line"
    service: str
    attempt: int
    time: float | None
    """Unix seconds; null for a line of a traceback or stack dump."""
    level: str
    message: str
    fields: dict[str, Any]
