"""What steps took in earlier jobs: the ground for saying how long another one will take."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.api.db.job_tables import Job
from services.api.db.series import Metric
from services.common.job_metrics import JobMetric

_STEP_TIME: Final = JobMetric.TIME_STEP_S
_LOOKED_AT: Final = 20
_FEWEST_STEPS: Final = 3


@dataclass(frozen=True)
class Pace:
    """Of an earlier job."""

    job_id: str
    spec: dict[str, Any]
    step_s: float
    """Median."""
    model_path: str


def earlier_pace(session: Session, project: str, model_path: str, method: str) -> Pace | None:
    """Of the project's newest job with this model and method that did a few steps; else with
    another model, or None.
    """
    nearest = ((Job.model_path == model_path).desc(), Job.created_at.desc())
    alike = select(Job.id).where(Job.project == project, Job.method == method)
    newest = alike.order_by(*nearest).limit(_LOOKED_AT).subquery()
    middle = func.percentile_cont(0.5).within_group(Metric.value)
    timed = (
        select(Metric.job_id, middle)
        .where(Metric.job_id.in_(select(newest)), Metric.name == _STEP_TIME)
        .group_by(Metric.job_id)
        .having(func.count() >= _FEWEST_STEPS)
        .subquery()
    )
    found = session.execute(
        select(Job, timed.c[1]).join(timed, timed.c.job_id == Job.id).order_by(*nearest)
    )
    row = found.first()
    return None if row is None else Pace(row[0].id, row[0].spec, row[1], row[0].model_path)
