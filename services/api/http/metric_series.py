"""Metric series read from the table: the surviving lineage of each job, thinned for showing."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.job_tables import Attempt
from services.api.db.record_tables import Metric
from services.api.domain.series import Point, downsample, surviving

Names = Annotated[list[str] | None, Query(description="Metrics, repeated or comma-separated; all by default.")]
Downsample = Annotated[int | None, Query(ge=4, description="At most this many points of each metric.")]


class MetricSeries(BaseModel):
    """One metric over the steps of the surviving lineage."""

    object: Literal["metric_series"] = "metric_series"
    job_id: str
    name: str
    steps: list[int]
    values: list[float]
    attempts: list[int]
    """Attempt that made each step."""
    num_points: int
    """Before thinning."""


@dataclass(frozen=True)
class SeriesQuery:
    """Which metrics, and how many points of each."""

    names: Sequence[str] = ()
    """All when empty; each may hold several, separated by commas."""
    from_step: int | None = None
    to_step: int | None = None
    downsample: int | None = None


def read_series(session: Session, job_ids: Sequence[str], query: SeriesQuery) -> list[MetricSeries]:
    """Series of every job by job, in the order asked for, and name."""
    # Columns instead of objects: a hundred thousand points are read at once.
    statement = select(Metric.job_id, Metric.name, Metric.attempt, Metric.step, Metric.value)
    statement = statement.where(Metric.job_id.in_(job_ids))
    if wanted := [name for part in query.names for name in part.split(",") if name]:
        statement = statement.where(Metric.name.in_(wanted))
    if query.from_step is not None:
        statement = statement.where(Metric.step >= query.from_step)
    if query.to_step is not None:
        statement = statement.where(Metric.step <= query.to_step)
    points: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for job_id, name, attempt, step, value in session.execute(statement):
        points[job_id, name].append(Point(attempt, step, value))
    resumed_from = _resumed_from(session, job_ids)
    keys = sorted(points, key=lambda key: (job_ids.index(key[0]), key[1]))
    return [_series(*key, points[key], resumed_from.get(key[0], {}), query.downsample) for key in keys]


def _resumed_from(session: Session, job_ids: Sequence[str]) -> dict[str, dict[int, int]]:
    """Per job and attempt, the step it started from."""
    rows = session.scalars(select(Attempt).where(Attempt.job_id.in_(job_ids), Attempt.resumed_from.is_not(None)))
    starts: dict[str, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row.resumed_from is not None:
            starts[row.job_id][row.number] = row.resumed_from
    return starts


def _series(
    job_id: str, name: str, points: list[Point], resumed_from: Mapping[int, int], limit: int | None
) -> MetricSeries:
    lineage = surviving(points, resumed_from)
    shown = lineage if limit is None else downsample(lineage, limit)
    return MetricSeries(
        job_id=job_id,
        name=name,
        steps=[point.step for point in shown],
        values=[point.value for point in shown],
        attempts=[point.attempt for point in shown],
        num_points=len(lineage),
    )
