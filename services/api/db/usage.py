"""What a project keeps, by the tables."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.api.db.job_tables import Job
from services.api.db.record_tables import Checkpoint, RegisteredModel, StoredFile
from services.api.domain.space import StorageUsage


def usage_of(session: Session, project: str, quota: int | None) -> StorageUsage:
    """Bytes by kind."""
    kept = select(func.sum(Checkpoint.num_bytes)).join(Job, Job.id == Checkpoint.job_id)
    files = select(func.sum(StoredFile.num_bytes)).where(StoredFile.project == project)
    models = select(func.sum(RegisteredModel.num_bytes)).where(RegisteredModel.project == project)
    return StorageUsage(
        files=int(session.scalar(files) or 0),
        checkpoints=int(
            session.scalar(kept.where(Job.project == project, Checkpoint.deleted_at.is_(None))) or 0
        ),
        models=int(session.scalar(models) or 0),
        quota=quota,
    )


def newest_checkpoint_bytes(session: Session, job_id: str) -> int:
    """Size of the job's newest checkpoint; 0 before the first."""
    newest = (
        select(Checkpoint.num_bytes)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    return session.scalar(newest) or 0
