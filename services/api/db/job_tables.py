"""Tables of what is to be done: jobs, their attempts, the services leased to them, and the keys of
their requests.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from services.api.db.base import Base, Created, Failable, Lockable
from services.api.db.clock import utc_now
from services.api.domain.access import DEFAULT_PROJECT
from services.api.domain.event_ids import to_event_id
from services.api.domain.job_state import JobState
from services.api.domain.progress import Progress
from services.common.attempt_result import AttemptState


class Job(Lockable, Failable, Base):
    """One submitted job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_created_at_id", "created_at", "id"),
        Index("ix_jobs_open", "state", postgresql_where=text("finished_at IS NULL")),
        Index("ix_jobs_labels", "labels", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    project: Mapped[str] = mapped_column(default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    key_id: Mapped[str | None]
    """Key that submitted it; None for a local user without a key."""
    spec: Mapped[dict[str, Any]]
    """The job spec with all defaults."""
    spec_hash: Mapped[str]
    method: Mapped[str]
    labels: Mapped[dict[str, str]]
    """`metadata` of the spec; the attribute's name is taken by SQLAlchemy."""
    model_path: Mapped[str]
    """Directory of the initial model."""
    files: Mapped[dict[str, str]]
    """Path of every file that the spec names."""
    max_sequence_tokens: Mapped[int]
    """Longest prompt + response."""
    rollout_replicas: Mapped[int]
    """Replicas that the job needs; 0 when it decodes nothing."""

    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """Jobs of a higher priority are placed first within their project."""
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    """Number of changes of the spec since the submission."""
    forked_from: Mapped[str | None]
    """Checkpoint of another job that the job started from."""

    state: Mapped[str] = mapped_column(default=JobState.VALIDATING_FILES)
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the newest attempt; 0 before the first."""
    excluded_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    """Attempts up to this number are excluded from the retry budget: the user queued the job again
    after them, or a later one wrote a checkpoint.
    """
    retry_at: Mapped[datetime | None]
    """When the next attempt may start, after several that failed."""
    retry_reason: Mapped[str | None]
    """Failure that the next attempt waits after."""
    certificate: Mapped[dict[str, Any] | None]
    """The worst certificate of all attempts."""
    phase: Mapped[str | None]
    stage: Mapped[str | None]
    waiting_for: Mapped[str | None]
    """Service that the scheduler sees missing."""
    waiting_reason: Mapped[str | None]
    """Why the job cannot be placed however long it waits."""
    shortage: Mapped[dict[str, Any] | None]
    """services.api.domain.space.Shortage, while the job is short of storage space."""
    learner_waiting_for: Mapped[str | None]
    """Service that the learner reports to wait for."""
    last_heartbeat_at: Mapped[datetime | None]
    """When the learner's newest event was recorded, or the attempt started."""
    stalled: Mapped[dict[str, Any] | None]
    """services.api.domain.stall.Stall, while the job makes no progress."""
    progress: Mapped[dict[str, Any] | None]
    """services.api.domain.progress.Progress"""
    latest_metrics: Mapped[dict[str, float]] = mapped_column(default=dict)
    result_checkpoint: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    event_count: Mapped[int] = mapped_column(default=0)
    """Position of the newest event; advanced only under the row's lock, so positions are dense and
    in commit order.
    """

    @property
    def job_state(self) -> JobState:
        """The state as a member of the enum."""
        return JobState(self.state)

    @property
    def model(self) -> str:
        """The model as the spec names it."""
        return str(self.spec["model"])

    @property
    def suffix(self) -> str | None:
        """The suffix that the spec gives."""
        suffix: str | None = self.spec["suffix"]
        return suffix

    @property
    def awaited_service(self) -> str | None:
        """Service that the job waits for, as seen by the scheduler or reported by the learner."""
        return self.waiting_for or self.learner_waiting_for

    @property
    def last_event_id(self) -> str | None:
        """Id of the newest event."""
        return to_event_id(self.id, self.event_count) if self.event_count else None

    @property
    def estimated_finish(self) -> int | None:
        """Unix seconds of the end at the pace of the current stage; None when nothing runs."""
        if self.progress is None or self.job_state is not JobState.RUNNING:
            return None
        progress = Progress(**self.progress)
        eta_s = progress.eta_seconds()
        if eta_s is None or progress.attempt != self.attempt:
            return None
        return int(progress.time + eta_s)


class Attempt(Created, Failable, Base):
    """One execution of a job."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    """From 1."""
    state: Mapped[str] = mapped_column(default=AttemptState.PROVISIONING)
    trainer_address: Mapped[str]
    rollout_addresses: Mapped[list[str]]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    last_event_seq: Mapped[int] = mapped_column(default=0)
    """Every event up to this sequence number is applied."""
    events_complete: Mapped[bool] = mapped_column(default=False)
    """Whether the journal was read to its end after the attempt's."""
    reported_event_seq: Mapped[int] = mapped_column(default=0)
    """Last sequence number that the trainer reported at the previous look."""
    unreachable_since: Mapped[datetime | None]
    """When the trainer stopped answering."""
    stop_requested_at: Mapped[datetime | None]
    resumed_from: Mapped[int | None]
    """Global step that the attempt started from; None when it did not say."""
    certificate: Mapped[dict[str, Any] | None]
    """The worst of the attempt's certificates."""


class ServiceLease(Created, Base):
    """A trainer or rollout replica that belongs to an attempt; the primary key lets only one have
    it.
    """

    __tablename__ = "service_leases"

    address: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """trainer | rollout"""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]


class IdempotencyKey(Created, Base):
    """A key that a client gave with a submission, and what came of it."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    """sha256 of the canonical request body."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))


class Heartbeat(Base):
    """Newest heartbeat of a process without a port."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(primary_key=True)
    """scheduler | recorder"""
    seen_at: Mapped[datetime]
    version: Mapped[str | None]
    rss_bytes: Mapped[int | None]
    clock_skew_s: Mapped[float | None]
    """Seconds by which the clock of its host is ahead of the database's."""
    error: Mapped[str | None]
    """Last error that it logged, of an earlier process when the present one had none."""
    error_at: Mapped[datetime | None]
