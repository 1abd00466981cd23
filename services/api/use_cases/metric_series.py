"""Metric series read from the table: the surviving lineage of each job, thinned for showing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.job_tables import Attempt
from services.api.db.series import Wanted
from services.api.db.series import read_series as read_rows
from services.api.schemas.records import MetricSeries


@dataclass(frozen=True)
class SeriesQuery:
    """Which metrics, and how many points of each."""

    names: Sequence[str] = ()
    """All when empty; each may hold several, separated by commas."""
    from_step: int | None = None
    to_step: int | None = None
    downsample: int | None = None


def read_series(session: Session, job_ids: Sequence[str], query: SeriesQuery) -> list[MetricSeries]:
    """Series of every job by job, in the order asked for, and name; thinned by the database."""
    names = [name for part in query.names for name in part.split(",") if name]
    starts = _resumed_from(session, job_ids)
    return [
        MetricSeries(job_id=job_id, **vars(series))
        for job_id in job_ids
        for series in read_rows(
            session,
            Wanted(job_id, names, query.from_step, query.to_step, query.downsample),
            starts.get(job_id, {}),
        )
    ]


def _resumed_from(session: Session, job_ids: Sequence[str]) -> dict[str, dict[int, int]]:
    """Per job and attempt, the step it started from."""
    rows = session.scalars(
        select(Attempt).where(Attempt.job_id.in_(job_ids), Attempt.resumed_from.is_not(None))
    )
    starts: dict[str, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row.resumed_from is not None:
            starts[row.job_id][row.number] = row.resumed_from
    return starts
