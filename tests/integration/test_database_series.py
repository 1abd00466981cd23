"""Thinned series from the database, compared with the obvious implementation on random attempts."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from services.api.db.database import Database
from services.api.db.series import Metric, SeriesQuery, read_job_series
from tests.support.control_plane import migrated_database, submit
from tests.support.series import Point, downsample, surviving
from tests.support.servers import Postgres


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[Database]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        database = Database(url)
        yield database
        database.dispose()


@pytest.mark.parametrize("limit", [None, 4, 7, 20, 10_000])
def test_the_database_gives_the_points_of_the_obvious_implementation(
    database: Database, tmp_path: Path, limit: int | None
) -> None:
    job_id, other = submit(database, tmp_path), submit(database, tmp_path)
    rng = random.Random(limit or 0)
    resumed_from = {
        3: 25,
        4: 90,
    }  # the second attempt began anew: it did steps of the first one again
    points: dict[str, list[Point]] = defaultdict(list)
    for name, longest in (("a", 200), ("b", 3), ("c", 9)):
        for attempt in range(1, 5):
            start = resumed_from.get(attempt, 0)
            steps = range(start + 1, start + 1 + rng.randint(1, longest))
            # Equal values would leave open which of two points stands for a stretch.
            points[name] += [Point(attempt, step, rng.random()) for step in steps]
    rows = [
        {
            "job_id": job,
            "name": name,
            "attempt": point.attempt,
            "step": point.step,
            "value": point.value,
        }
        for name, series in points.items()
        for point in series
        for job in (job_id, other)
    ]
    with database.begin() as session:
        session.execute(insert(Metric), rows)
        found = read_job_series(session, job_id, SeriesQuery(downsample=limit), resumed_from)

    for series in found:
        lineage = surviving(points[series.name], resumed_from)
        expected = lineage if limit is None else downsample(lineage, limit)
        assert series.num_points == len(lineage)
        assert list(zip(series.attempts, series.steps, series.values, strict=True)) == [
            (point.attempt, point.step, point.value) for point in expected
        ]
    assert [series.name for series in found] == ["a", "b", "c"]


def test_names_and_steps_are_selected(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)
    rows = [
        {"job_id": job_id, "name": name, "attempt": 1, "step": step, "value": float(step)}
        for name in ("a", "b")
        for step in range(10)
    ]
    with database.begin() as session:
        session.execute(insert(Metric), rows)
        (found,) = read_job_series(session, job_id, SeriesQuery(("b",), 3, 5), {})

    assert (found.name, found.steps, found.num_points) == ("b", [3, 4, 5], 3)


def test_of_equal_values_the_first_stands_for_its_stretch(
    database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)
    rows = [
        {"job_id": job_id, "name": "a", "attempt": 1, "step": step, "value": 1.0}
        for step in range(102)
    ]
    with database.begin() as session:
        session.execute(insert(Metric), rows)
        (found,) = read_job_series(session, job_id, SeriesQuery(downsample=12), {})

    assert found.steps == [0, 1, 21, 41, 61, 81, 101]
