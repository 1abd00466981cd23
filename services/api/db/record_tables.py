"""Tables of what is and was: events and what is read from them, files, models, exports."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from services.api.db.base import Base, Created, Failable, Lockable
from services.api.domain.access import DEFAULT_PROJECT
from services.api.domain.event_ids import to_event_id


def make_job_id(*, primary_key: bool = False) -> Mapped[str]:
    return mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=primary_key)


class JobEvent(Base):
    """One fact about a job, in the order in which it was learned."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "attempt", "seq"),)

    job_id: Mapped[str] = make_job_id(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 1, dense per job."""
    attempt: Mapped[int]
    """0 for what happened before the first attempt."""
    seq: Mapped[int | None]
    """The learner's number; None for the control plane's own events."""
    type: Mapped[str]
    time: Mapped[datetime]
    data: Mapped[dict[str, Any]]

    @property
    def id(self) -> str:
        """Id that the API shows."""
        return to_event_id(self.job_id, self.position)


class Evaluation(Created, Base):
    """Results of one evaluation."""

    __tablename__ = "evaluations"

    job_id: Mapped[str] = make_job_id(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """Sequence number of the event that brought it."""
    step: Mapped[int]
    stage: Mapped[str]
    dataset: Mapped[str]
    results: Mapped[dict[str, Any]]

    @property
    def id(self) -> str:
        """Id that the API shows."""
        return f"eval_{self.job_id.removeprefix('job_')}_{self.attempt}_{self.seq}"


class Checkpoint(Created, Base):
    """A checkpoint directory."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "path"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = make_job_id()
    attempt: Mapped[int]
    step: Mapped[int]
    stage: Mapped[str]
    path: Mapped[str]
    weight_version: Mapped[int]
    weight_digest: Mapped[str]
    num_bytes: Mapped[int]
    deleted_at: Mapped[datetime | None]
    """When the learner removed it to keep within checkpoint.keep_last."""


class TrajectoryGroup(Created, Base):
    """One group with its trajectories in full."""

    __tablename__ = "trajectory_groups"
    __table_args__ = (Index("ix_trajectory_groups_job", "job_id", "step", "group_id"),)

    group_id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = make_job_id()
    attempt: Mapped[int]
    step: Mapped[int]
    purpose: Mapped[str]
    disposition: Mapped[str]
    outcomes: Mapped[list[str]]
    """Of every trajectory, in order."""
    max_reward: Mapped[float | None]
    """Greatest reward of its trajectories; None when none was scored."""
    payload: Mapped[dict[str, Any]]
    """The event's data: {step, purpose, disposition, group, rewards, advantages}."""


class StoredFile(Created, Base):
    """An uploaded file."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    filename: Mapped[str]
    purpose: Mapped[str]
    num_bytes: Mapped[int]
    num_rows: Mapped[int]
    sha256: Mapped[str]
    path: Mapped[str]


class RegisteredModel(Created, Base):
    """A model directory that a job may start from."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    name: Mapped[str]
    path: Mapped[str] = mapped_column(unique=True)
    card: Mapped[dict[str, Any]]
    """services.common.model_card.ModelCard"""
    num_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of an exported model; 0 for a directory that is the user's."""
    checkpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("checkpoints.id", ondelete="SET NULL")
    )
    """What it was exported from; None for a registered directory."""


class PendingDeletion(Created, Base):
    """A directory that is to be removed; what its rows described is deleted already."""

    __tablename__ = "pending_deletions"

    path: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None] = mapped_column(index=True)
    """Job that it belongs to, which may be deleted itself."""
    is_archived: Mapped[bool] = mapped_column(default=False, server_default="false")
    """Whether the job's copy in the object store goes, too."""


class Export(Created, Lockable, Failable, Base):
    """The writing of a checkpoint as a model directory."""

    __tablename__ = "exports"

    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"))
    model_id: Mapped[str]
    """Id that the model gets once the export succeeded."""
    output_path: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    """queued | running | succeeded | failed"""
    trainer_address: Mapped[str | None]
    """Trainer that writes it."""
    starts: Mapped[int] = mapped_column(default=0)
    """How often a trainer was asked to begin."""
    finished_at: Mapped[datetime | None]

    @property
    def exported_model_id(self) -> str | None:
        """Id of the model, once it exists."""
        return self.model_id if self.state == "succeeded" else None
