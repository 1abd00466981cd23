"""The table of metrics, and its series of the surviving lineage, downsampled by the database: a
browser wants a thousand points, not a million.

Of a series that is too long the first and the last point stay, and of each stretch in between its
minimum and its maximum, so that no spike is lost.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    PrimaryKeyConstraint,
    Select,
    Subquery,
    Text,
    and_,
    case,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, distinct_on
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.api.db.base import Base
from services.api.db.job_tables import Attempt
from services.api.db.record_tables import make_job_id
from services.api.schemas.records import MetricSeries


class Metric(Base):
    """One value of one metric."""

    __tablename__ = "metrics"
    # With the value in its index a series is read from a few pages; its rows lie scattered among
    # those of other jobs.
    __table_args__ = (
        PrimaryKeyConstraint(
            "job_id", "name", "attempt", "step", name="pk_metrics", postgresql_include=["value"]
        ),
    )

    job_id: Mapped[str] = make_job_id(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


@dataclass(frozen=True)
class SeriesQuery:
    """Which metrics, which of their steps, and how many points of each."""

    names: Sequence[str] = ()
    """All when empty; each may hold several, separated by commas."""
    from_step: int | None = None
    to_step: int | None = None
    downsample: int | None = None
    """Points of each series, at least 4; None is all."""


def read_series(session: Session, job_ids: Sequence[str], query: SeriesQuery) -> list[MetricSeries]:
    """Read the series of every job, job by job in the given order, then by name."""
    resumed = session.scalars(
        select(Attempt).where(Attempt.job_id.in_(job_ids), Attempt.resumed_from.is_not(None))
    )
    starts: dict[str, dict[int, int]] = defaultdict(dict)
    for attempt in resumed:
        if attempt.resumed_from is not None:
            starts[attempt.job_id][attempt.number] = attempt.resumed_from
    return [
        series
        for job_id in job_ids
        for series in read_job_series(session, job_id, query, starts.get(job_id, {}))
    ]


def read_job_series(
    session: Session, job_id: str, query: SeriesQuery, resumed_from: Mapping[int, int]
) -> list[MetricSeries]:
    """Read the series of one job by name. `resumed_from` gives, per attempt, the step it started from.

    What earlier attempts did after that step was undone; of several attempts that did a step the
    newest counts.
    """
    names = _select_names(job_id, query)
    # One series after the other: each is sorted in memory and by numbers alone, all together on
    # disk and by name.
    points = _downsample(_select_surviving(job_id, query, names, resumed_from), query.downsample)
    series = _to_arrays(points).lateral()
    rows = select(names.c.name, *series.c).where(series.c.total.is_not(None)).order_by(names.c.name)
    return [
        MetricSeries(
            job_id=job_id,
            name=name,
            num_points=total,
            steps=steps,
            values=values,
            attempts=attempts,
        )
        for name, total, steps, values, attempts in session.execute(rows)
    ]


def _select_names(job_id: str, query: SeriesQuery) -> Subquery:
    given = {name for part in query.names for name in part.split(",") if name}
    if given:
        return select(func.unnest(cast(sorted(given), ARRAY(Text))).label("name")).subquery()
    return select(Metric.name).where(Metric.job_id == job_id).distinct().subquery()


def _to_arrays(points: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """A row for the series and not for each point: a thousand rows cost this process more than the
    query does.
    """
    kept = points.subquery()
    columns = (kept.c.step, kept.c.value, kept.c.attempt)
    return select(
        func.max(kept.c.total).label("total"),
        *(
            func.array_agg(aggregate_order_by(column, kept.c.step)).label(column.name)
            for column in columns
        ),
    )


def _select_surviving(
    job_id: str, query: SeriesQuery, names: Subquery, resumed_from: Mapping[int, int]
) -> Select[*tuple[Any, ...]]:
    """One row per step of the series of a name."""
    of_series = (Metric.job_id == job_id, Metric.name == names.c.name)
    # An attempt's steps count up to where the earliest resume among the later attempts began.
    attempts = range(1, max(resumed_from, default=1))
    limits = {a: min(step for later, step in resumed_from.items() if later > a) for a in attempts}
    conditions: list[ColumnElement[bool]] = [*of_series]
    if limits:
        bounded = (and_(Metric.attempt == a, Metric.step <= limit) for a, limit in limits.items())
        conditions.append(or_(Metric.attempt > max(limits), *bounded))
    if query.from_step is not None:
        conditions.append(Metric.step >= query.from_step)
    if query.to_step is not None:
        conditions.append(Metric.step <= query.to_step)
    rows = select(Metric.step, Metric.value, Metric.attempt).where(*conditions).correlate(names)
    return rows.ext(distinct_on(Metric.step)).order_by(Metric.step, Metric.attempt.desc())


def _downsample(rows: Select[*tuple[Any, ...]], limit: int | None) -> Select[*tuple[Any, ...]]:
    points = rows.subquery()
    # The same window for both, so that the database makes them in one pass.
    whole: dict[str, Any] = {"order_by": points.c.step, "rows": (None, None)}
    counted = select(
        points,
        func.row_number().over(**whole).label("place"),
        func.count().over(**whole).label("total"),
    ).subquery()
    columns = (counted.c.step, counted.c.value, counted.c.attempt, counted.c.total)
    if limit is None:
        return select(*columns)
    # The ends, and the points of a series that is short enough, have a stretch of their own.
    stretches = (limit - 2) // 2
    place, total = counted.c.place, counted.c.total
    among = cast((place - 1) * stretches - 1, Float) / func.greatest(total - 2, 1)
    cut = select(
        *columns,
        case((total <= limit, cast(place, Float)), else_=func.floor(among)).label("stretch"),
    ).subquery()
    least = func.min(cut.c.value).over(partition_by=cut.c.stretch).label("least")
    greatest = func.max(cut.c.value).over(partition_by=cut.c.stretch).label("greatest")
    ranged = select(cut, least, greatest).subquery()
    kept = select(ranged).where(ranged.c.value.in_((ranged.c.least, ranged.c.greatest)))
    # Of equal values the first.
    first = kept.ext(distinct_on(ranged.c.stretch, ranged.c.value))
    return first.order_by(ranged.c.stretch, ranged.c.value, ranged.c.step)
