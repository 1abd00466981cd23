"""Metric series as they are shown, thinned by the database: a browser wants a thousand points, not a million.

Of a series that is too long the first and the last point stay, and of each stretch in between its least and its
greatest value, so that no spike is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on
from sqlalchemy.orm import Session

from services.api.db.record_tables import Metric


@dataclass(frozen=True)
class Series:
    """One metric over the steps of the surviving lineage."""

    name: str
    num_points: int
    """Before thinning."""
    steps: list[int]
    values: list[float]
    attempts: list[int]


@dataclass(frozen=True)
class Wanted:
    """Which points of a job."""

    job_id: str
    names: Sequence[str]
    """All when empty."""
    from_step: int | None
    to_step: int | None
    limit: int | None
    """Points of each series, at least 4; None is all."""


def read_series(session: Session, wanted: Wanted, resumed_from: Mapping[int, int]) -> list[Series]:
    """Series by name. `resumed_from` gives, per attempt, the step it started from.

    What earlier attempts did after that step was undone; of several attempts that did a step the newest counts.
    """
    points = _thinned(_surviving(wanted, resumed_from), wanted.limit).subquery()
    columns = (points.c.step, points.c.value, points.c.attempt)
    # A row for each series and not for each point: a thousand rows cost this process more than the query does.
    arrays = (func.array_agg(aggregate_order_by(column, points.c.step)) for column in columns)
    rows = (
        select(points.c.name, points.c.total, *arrays).group_by(points.c.name, points.c.total).order_by(points.c.name)
    )
    return [Series(*row) for row in session.execute(rows)]


def _surviving(wanted: Wanted, resumed_from: Mapping[int, int]) -> Select[*tuple[Any, ...]]:
    """One row per name and step."""
    conditions: list[ColumnElement[bool]] = [Metric.job_id == wanted.job_id, _not_undone(resumed_from)]
    if wanted.names:
        conditions.append(Metric.name.in_(wanted.names))
    if wanted.from_step is not None:
        conditions.append(Metric.step >= wanted.from_step)
    if wanted.to_step is not None:
        conditions.append(Metric.step <= wanted.to_step)
    rows = select(Metric.name, Metric.step, Metric.value, Metric.attempt).where(*conditions)
    newest = rows.ext(distinct_on(Metric.name, Metric.step))
    return newest.order_by(Metric.name, Metric.step, Metric.attempt.desc())


def _not_undone(resumed_from: Mapping[int, int]) -> ColumnElement[bool]:
    """An attempt's steps count up to where the earliest resume among the later attempts began."""
    attempts = range(1, max(resumed_from, default=1))
    limits = {a: min(step for later, step in resumed_from.items() if later > a) for a in attempts}
    bounded = [and_(Metric.attempt == attempt, Metric.step <= limit) for attempt, limit in limits.items()]
    return or_(Metric.attempt > max(limits, default=0), *bounded) if limits else true()


def _thinned(rows: Select[*tuple[Any, ...]], limit: int | None) -> Select[*tuple[Any, ...]]:
    points = rows.subquery()
    place = func.row_number().over(partition_by=points.c.name, order_by=points.c.step)
    total = func.count().over(partition_by=points.c.name)
    counted = select(points, place.label("place"), total.label("total")).subquery()
    columns = (counted.c.name, counted.c.step, counted.c.value, counted.c.attempt, counted.c.total)
    if limit is None:
        return select(*columns)
    stretches = (limit - 2) // 2
    inner = func.greatest(counted.c.total - 2, 1)
    stretch = (((counted.c.place - 1) * stretches - 1) / inner).label("stretch")
    cut = select(counted, func.floor(stretch).label("bucket")).subquery()
    among = (cut.c.name, cut.c.bucket)
    least = func.row_number().over(partition_by=among, order_by=(cut.c.value, cut.c.step))
    greatest = func.row_number().over(partition_by=among, order_by=(cut.c.value.desc(), cut.c.step))
    ranked = select(cut, least.label("least"), greatest.label("greatest")).subquery()
    ends = ranked.c.place.in_((1, ranked.c.total))
    kept = or_(ranked.c.total <= limit, ends, ranked.c.least == 1, ranked.c.greatest == 1)
    shown = (ranked.c.name, ranked.c.step, ranked.c.value, ranked.c.attempt, ranked.c.total)
    return select(*shown).where(kept)
