"""Followers of events share what is read, and miss nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.db.database import Database
from services.api.db.jobs import append_event, lock_job
from services.api.use_cases.event_feed import BATCH, EVERYTHING, EventFeed, EventFilter
from tests.support.control_plane import migrated_database, submit
from tests.support.servers import Postgres


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[Database]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        database = Database(url)
        yield database
        database.dispose()


def add(database: Database, job_id: str, count: int, kind: str = "note") -> None:
    with database.begin() as session:
        job = lock_job(session, job_id)
        for number in range(count):
            append_event(session, job, kind, {"number": number})


def follow(feed: EventFeed, job_id: str, wanted: EventFilter = EVERYTHING) -> list[int]:
    """Positions of everything that a stream gets."""
    position, seen = 0, list[int]()
    head = feed.head(job_id)
    while position < head.position:
        batch = feed.batch(job_id, position, wanted, head)
        seen += [int(event.id.rpartition("_")[2]) for event in batch.events]
        position = batch.position
    return seen


def test_every_event_is_read_once_in_order_over_several_batches(
    database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)
    add(database, job_id, BATCH + 20)

    assert follow(EventFeed(database), job_id) == list(range(1, BATCH + 22))


def test_a_stream_of_one_type_gets_past_the_others(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)
    add(database, job_id, 3, "other")
    add(database, job_id, 2, "wanted")
    add(database, job_id, 3, "other")

    assert follow(EventFeed(database), job_id, EventFilter(("wanted",))) == [5, 6]


def test_a_level_selects_among_log_events_and_leaves_the_others(
    database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)
    with database.begin() as session:
        job = lock_job(session, job_id)
        for level in ("info", "error", "warning"):
            append_event(session, job, "log", {"level": level})

    assert follow(EventFeed(database), job_id, EventFilter(level="warning")) == [1, 3, 4]
    assert follow(EventFeed(database), job_id, EventFilter(("log",), "error")) == [3]


def test_a_head_is_read_again_after_a_quarter_of_a_second(
    database: Database, tmp_path: Path
) -> None:
    now = [100.0]
    feed = EventFeed(database, clock=lambda: now[0])
    job_id = submit(database, tmp_path)
    first = feed.head(job_id)
    add(database, job_id, 1)
    second = feed.head(job_id)
    now[0] += 0.3

    assert (first.position, second.position, feed.head(job_id).position) == (1, 1, 2)
