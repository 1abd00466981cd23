"""Metric series as they are shown, thinned by the database: a browser wants a thousand points, not
a million.

Of a series that is too long the first and the last point stay, and of each stretch in between its
least and its greatest value, so that no spike is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    Subquery,
    Text,
    and_,
    case,
    cast,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, distinct_on
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

    What earlier attempts did after that step was undone; of several attempts that did a step the
    newest counts.
    """
    names = _names(wanted)
    # One series after the other: each is sorted in memory and by numbers alone, all together on
    # disk and by name.
    series = _as_arrays(
        _downsample(_surviving(wanted, names, resumed_from), wanted.limit)
    ).lateral()
    rows = select(names.c.name, *series.c).where(series.c.total.is_not(None)).order_by(names.c.name)
    return [Series(*row) for row in session.execute(rows)]


def _names(wanted: Wanted) -> Subquery:
    if wanted.names:
        return select(
            func.unnest(cast(sorted(set(wanted.names)), ARRAY(Text))).label("name")
        ).subquery()
    return select(Metric.name).where(Metric.job_id == wanted.job_id).distinct().subquery()


def _as_arrays(points: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
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


def _surviving(
    wanted: Wanted, names: Subquery, resumed_from: Mapping[int, int]
) -> Select[*tuple[Any, ...]]:
    """One row per step of the series of a name."""
    of_series = (Metric.job_id == wanted.job_id, Metric.name == names.c.name)
    conditions: list[ColumnElement[bool]] = [*of_series, _not_undone(resumed_from)]
    if wanted.from_step is not None:
        conditions.append(Metric.step >= wanted.from_step)
    if wanted.to_step is not None:
        conditions.append(Metric.step <= wanted.to_step)
    rows = select(Metric.step, Metric.value, Metric.attempt).where(*conditions).correlate(names)
    return rows.ext(distinct_on(Metric.step)).order_by(Metric.step, Metric.attempt.desc())


def _not_undone(resumed_from: Mapping[int, int]) -> ColumnElement[bool]:
    """An attempt's steps count up to where the earliest resume among the later attempts began."""
    attempts = range(1, max(resumed_from, default=1))
    limits = {a: min(step for later, step in resumed_from.items() if later > a) for a in attempts}
    bounded = [
        and_(Metric.attempt == attempt, Metric.step <= limit) for attempt, limit in limits.items()
    ]
    return or_(Metric.attempt > max(limits, default=0), *bounded) if limits else true()


def _downsample(rows: Select[*tuple[Any, ...]], limit: int | None) -> Select[*tuple[Any, ...]]:
    counted = _number_points(rows)
    columns = (counted.c.step, counted.c.value, counted.c.attempt, counted.c.total)
    if limit is None:
        return select(*columns)
    cut = select(*columns, _stretch(counted, limit).label("stretch")).subquery()
    least = func.min(cut.c.value).over(partition_by=cut.c.stretch).label("least")
    greatest = func.max(cut.c.value).over(partition_by=cut.c.stretch).label("greatest")
    ranged = select(cut, least, greatest).subquery()
    kept = select(ranged).where(ranged.c.value.in_((ranged.c.least, ranged.c.greatest)))
    # Of equal values the first.
    first = kept.ext(distinct_on(ranged.c.stretch, ranged.c.value))
    return first.order_by(ranged.c.stretch, ranged.c.value, ranged.c.step)


def _number_points(rows: Select[*tuple[Any, ...]]) -> Subquery:
    """The points with their places, from 1, and with how many there are."""
    points = rows.subquery()
    whole: dict[str, Any] = {
        "order_by": points.c.step,
        "rows": (None, None),
    }  # the same for both: made in one pass
    place, total = func.row_number().over(**whole), func.count().over(**whole)
    return select(points, place.label("place"), total.label("total")).subquery()


def _stretch(counted: Subquery, limit: int) -> ColumnElement[float]:
    """The stretch in which a point lies; the ends, and the points of a series that is short enough,
    have their own.
    """
    stretches = (limit - 2) // 2
    place, total = counted.c.place, counted.c.total
    among = cast((place - 1) * stretches - 1, Float) / func.greatest(total - 2, 1)
    return case((total <= limit, cast(place, Float)), else_=func.floor(among))
