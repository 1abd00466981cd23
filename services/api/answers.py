"""Answers of the REST API, as its client returns them. Written by scripts/gen_answers.py."""

from typing import Any, Literal, TypedDict


class FailureView(TypedDict):
    """Why something failed."""

    code: str
    message: str


class AttemptView(TypedDict):
    """One execution of a job."""

    id: str
    object: Literal["job.attempt"]
    job_id: str
    number: int
    state: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    trainer: str
    replicas: list[str]
    resumed_from: int | None
    error: FailureView | None


class CertificateView(TypedDict):
    """What the learner proved about its ledger when it took up the work of an earlier attempt."""

    object: Literal["job.certificate"]
    attempt: int
    certificate: dict[str, Any]


class CheckpointView(TypedDict):
    """A checkpoint."""

    id: str
    object: Literal["job.checkpoint"]
    created_at: int
    job_id: str
    attempt: int
    step: int
    stage: str
    path: str
    weight_version: int
    weight_digest: str
    bytes: int
    deleted_at: int | None


class DeletedCheckpoint(TypedDict):
    """A checkpoint that is gone."""

    id: str
    object: Literal["job.checkpoint"]
    deleted: bool


class DeletedJob(TypedDict):
    """A job that is gone."""

    id: str
    object: Literal["job"]
    deleted: bool


class DiagnosisView(TypedDict):
    """What holds a job up."""

    object: Literal["job.diagnosis"]
    job_id: str
    code: str
    sentence: str
    suggestion: dict[str, Any]


class EvaluationView(TypedDict):
    """Results of one evaluation."""

    id: str
    object: Literal["job.evaluation"]
    created_at: int
    job_id: str
    attempt: int
    step: int
    stage: str
    dataset: str
    results: dict[str, Any]


class EventView(TypedDict):
    """One fact about a job."""

    id: str
    object: Literal["job.event"]
    job_id: str
    attempt: int
    type: str
    created_at: int
    time: float
    data: dict[str, Any]


class ExportView(TypedDict):
    """The writing of a checkpoint as a model directory."""

    id: str
    object: Literal["export"]
    created_at: int
    finished_at: int | None
    checkpoint_id: str
    state: str
    model_id: str | None
    path: str
    error: FailureView | None


class GoldProblem(TypedDict):
    """A gold that cannot be used as it is."""

    row: int
    gold: str
    type: str
    reason: str


class GoldSummary(TypedDict):
    """The gold answers of a file."""

    types: dict[str, int]
    audited: int
    num_invalid: int
    num_flagged: int
    invalid: list[GoldProblem]
    flagged: list[GoldProblem]


class FileView(TypedDict):
    """An uploaded file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    rows: int
    sha256: str
    golds: GoldSummary | None


class ProblemBody(TypedDict):
    """One of several faults, with its place."""

    path: str
    message: str


class FileForecast(TypedDict):
    """What a file holds."""

    rows: int
    sft_rows: int
    rl_rows: int
    longest_prompt_chars: int
    longest_completion_chars: int
    longest_prompt_tokens: int | None
    longest_sample_tokens: int | None
    rows_too_long: int | None


class ProbeForecast(TypedDict):
    """What the base model did with some of the prompts."""

    prompts: int
    generations: int
    zero_variance_rate: float
    all_correct: int
    all_wrong: int


class JobForecast(TypedDict):
    """What can be said of a job before it runs."""

    object: Literal["job.forecast"]
    accepted: bool
    problems: list[ProblemBody]
    spec: dict[str, Any]
    files: dict[str, FileForecast]
    steps: dict[str, int]
    parameters: int
    memory_bytes: int
    activation_bytes: int | None
    disk_bytes: int
    disk_free_bytes: int
    seconds: float | None
    seconds_from: str | None
    seconds_are_rough: bool
    probe: ProbeForecast | None
    probe_skipped: str | None


JobState = Literal[
    "validating_files",
    "queued",
    "provisioning",
    "running",
    "pausing",
    "paused",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
]


class ProgressView(TypedDict):
    """How far a job is."""

    stage: str
    stage_step: int
    stage_steps: int
    step: int
    total_steps: int
    fraction: float


class StallView(TypedDict):
    """Which phase waits, for what, since when."""

    phase: str
    waiting_for: str | None
    since: float
    budget_s: float


class ShortageView(TypedDict):
    """Room that is running out."""

    of: Literal["quota", "disk"]
    used_bytes: int
    limit_bytes: int


class JobView(TypedDict):
    """A job."""

    id: str
    object: Literal["job"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    state: JobState
    status: JobState
    method: str
    model: str
    suffix: str | None
    metadata: dict[str, str]
    attempt: int
    phase: str | None
    stage: str | None
    waiting_for: str | None
    progress: ProgressView | None
    estimated_finish: int | None
    latest_metrics: dict[str, float]
    error: FailureView | None
    result_checkpoint: str | None
    priority: int
    revision: int
    forked_from: str | None
    stalled: StallView | None
    shortage: ShortageView | None
    last_event_id: str | None
    spec_hash: str
    spec: dict[str, Any]


class KeyView(TypedDict):
    """A key without its secret."""

    id: str
    object: Literal["api_key"]
    name: str
    project: str
    scopes: list[str]
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None


class LogLineView(TypedDict):
    """One line of a log."""

    id: str
    object: Literal["job.log_line"]
    service: str
    attempt: int
    time: float | None
    level: str
    message: str
    fields: dict[str, Any]


class ModelView(TypedDict):
    """A model directory that a job may start from."""

    id: str
    object: Literal["model"]
    created: int
    name: str
    path: str
    checkpoint_id: str | None
    card: dict[str, Any]


class NewKeyView(TypedDict):
    """A key that was just made."""

    id: str
    object: Literal["api_key"]
    name: str
    project: str
    scopes: list[str]
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    key: str


class NewWebhookView(TypedDict):
    """A webhook that was just made."""

    id: str
    object: Literal["webhook"]
    created_at: int
    project: str
    url: str
    events: list[str]
    secret: str


class Judgement(TypedDict):
    """One side of the comparison."""

    outcome: str | None
    reason: str
    reward: float | None
    advantage: float | None
    verifier_version: str


class Flip(TypedDict):
    """A trajectory whose outcome changed."""

    trajectory_id: str
    group_id: str
    step: int
    gold: str
    extracted: str
    before: Judgement
    now: Judgement


class RescoreReport(TypedDict):
    """What a second judgement changes."""

    object: Literal["rescore"]
    job_id: str
    groups: int
    trajectories: int
    flipped: int
    unverifiable: int
    rewards_changed: int
    advantages_changed: int
    mean_abs_advantage_change: float | None
    flips: list[Flip]


class UsageView(TypedDict):
    """What the caller's project keeps; bytes."""

    object: Literal["usage"]
    project: str
    files_bytes: int
    checkpoints_bytes: int
    models_bytes: int
    total_bytes: int
    quota_bytes: int | None
    disk_free_bytes: int
    disk_total_bytes: int
