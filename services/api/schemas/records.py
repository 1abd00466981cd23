"""What a job leaves behind: attempts, events, checkpoints, evaluations, metrics."""

from typing import Any, Literal

from pydantic import AliasChoices, Field

from services.api.schemas.base import FailureView, RequestBody, UnixSeconds, UnixTime, View

Level = Literal["info", "warning", "error"]


class AttemptView(View):
    """One execution of a job."""

    id: str
    object: Literal["job.attempt"] = "job.attempt"
    job_id: str
    number: int
    state: str
    """provisioning | running | succeeded | stopped | failed"""
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    trainer: str = Field(validation_alias=AliasChoices("trainer_address", "trainer"))
    replicas: list[str] = Field(validation_alias=AliasChoices("rollout_addresses", "replicas"))
    resumed_from: int | None
    """Global step that it started from; null until the learner reported it."""
    error: FailureView | None


class EventView(View):
    """One event of a job."""

    id: str
    object: Literal["job.event"] = "job.event"
    job_id: str
    attempt: int
    """0 before the first attempt."""
    type: str
    """state | waiting | attempt (the control plane's), or a type of services.common.events (the learner's)"""
    created_at: UnixSeconds = Field(validation_alias=AliasChoices("created_at", "time"))
    time: UnixTime
    """Unix seconds with fraction."""
    data: dict[str, Any]


class EventQuery(RequestBody):
    """Which events are wanted."""

    after: str | None = Field(None, description="Id of the last item of the previous page.")
    limit: int = Field(100, ge=1, le=1000, description="Items of a page.")
    type: list[str] = Field(default_factory=list, description="Only these types.")
    level: Level | None = Field(
        None, description="Of log events, only those of this level or a worse one."
    )
    order: Literal["asc", "desc"] = Field(
        "asc", description="Of a list; a stream always runs forward."
    )


class CheckpointView(View):
    """A checkpoint."""

    id: str
    object: Literal["job.checkpoint"] = "job.checkpoint"
    created_at: UnixSeconds
    job_id: str
    attempt: int
    step: int
    stage: str
    path: str
    weight_version: int
    weight_digest: str
    bytes: int = Field(validation_alias=AliasChoices("num_bytes", "bytes"))
    deleted_at: UnixSeconds | None
    """When it was removed to keep within checkpoint.keep_last."""


class DeletedCheckpoint(View):
    """A deleted checkpoint."""

    id: str
    object: Literal["job.checkpoint"] = "job.checkpoint"
    deleted: bool = True


class EvaluationView(View):
    """Results of one evaluation."""

    id: str
    object: Literal["job.evaluation"] = "job.evaluation"
    created_at: UnixSeconds
    job_id: str
    attempt: int
    step: int
    stage: str
    dataset: str
    results: dict[str, Any]


class CertificateView(View):
    """What the learner proved about its prompt ledger when it resumed an earlier attempt."""

    object: Literal["job.certificate"] = "job.certificate"
    attempt: int = Field(validation_alias=AliasChoices("number", "attempt"))
    certificate: dict[str, Any]
    """resumed_from, issued, trained, dropped, open, lost, trained_twice, miscounted, digest_before,
    digest_after; with a reinforcement stage sampler, prompts_seen, attempts, successes
    """


class PromptView(View):
    """Pass rate of one prompt over the steps that it was trained on or dropped in."""

    object: Literal["job.prompt"] = "job.prompt"
    id: str
    row: int
    """Place of the row in the stage's data set, from 0, without rows that were too long."""
    excerpt: str
    """Beginning of the prompt."""
    attempts: int
    """Responses with a reward."""
    successes: int
    """Responses whose reward exceeds `rl.curriculum.success_reward`."""
    pass_rate: float
    """successes / attempts; 0 without attempts."""
    steps: list[int]
    """Steps that the prompt was in."""
    pass_rates: list[float]
    """Pass rate in each of these steps."""


class MetricSeries(View):
    """One metric over the steps of the surviving lineage."""

    object: Literal["metric_series"] = "metric_series"
    job_id: str
    name: str
    steps: list[int]
    values: list[float]
    attempts: list[int]
    """Attempt that made each step."""
    num_points: int
    """Before downsampling."""
