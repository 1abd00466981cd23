"""Migrations, locks, leases, transitions: what the scheduler builds on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import time_machine
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from services.api.db.base import NEVER_LOCKED, Base
from services.api.db.clock import DatabaseClock, utc_now
from services.api.db.database import Database
from services.api.db.heartbeats import beat
from services.api.db.job_tables import Heartbeat, Job, ServiceLease
from services.api.db.jobs import lock_job, open_attempt, set_waiting, transition
from services.api.db.locks import StaleTokenError, claim, open_locked
from services.api.db.migrate import MIGRATIONS, downgrade, migrate, revision_of, wait_for_schema
from services.api.db.record_tables import JobEvent, TrajectoryGroup
from services.api.domain.job_state import JobState
from services.common.errors import PlatformError
from tests.support.control_plane import read_job, submit
from tests.support.servers import running_postgres


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database."""
    migrate(database_url)
    database = Database(database_url)
    yield database
    database.dispose()


def test_migrations_give_exactly_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)

    assert differences == []


def test_processes_that_start_together_migrate_one_after_another(database_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate, [database_url] * 3))

    database = Database(database_url)
    assert "jobs" in inspect(database.engine).get_table_names()
    database.dispose()


def test_every_migration_can_be_taken_back_and_done_again(
    database: Database, database_url: str
) -> None:
    with database.engine.connect() as connection:
        head = revision_of(connection)
    revisions = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]

    for revision in [*revisions[1:], "base"]:
        downgrade(database_url, revision)
        left = [
            table
            for table in inspect(database.engine).get_table_names()
            if table != "alembic_version"
        ]
    migrate(database_url)

    assert left == []
    with database.engine.connect() as connection:
        assert revision_of(connection) == head == revisions[0]
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_rows_survive_a_migration_that_is_taken_back_and_done_again(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)

    downgrade(database_url, "0002")
    migrate(database_url)

    assert read_job(database, job_id).state == JobState.QUEUED


def test_stored_trajectories_get_reference_answers_and_keep_their_texts(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)
    text_of_response = 'the key "gold": 1 and "gold_invalid"'
    former = {
        "group": {
            "gold": "72",
            "gold_type": "integer",
            "trajectories": [
                {
                    "text": text_of_response,
                    "verdict": {"reason": "gold_invalid", "normalized_gold": "72"},
                }
            ],
        }
    }
    renamed = {
        "group": {
            "reference_answer": "72",
            "answer_type": "integer",
            "trajectories": [
                {
                    "text": text_of_response,
                    "verdict": {
                        "reason": "reference_answer_invalid",
                        "normalized_reference_answer": "72",
                    },
                }
            ],
        }
    }
    downgrade(database_url, "0008")
    with database.begin() as session:
        session.add(
            TrajectoryGroup(
                group_id="grp_1", job_id=job_id, attempt=1, step=1, purpose="train",
                disposition="trained", outcomes=["unverifiable"], max_reward=None, payload=former,
            )
        )  # fmt: skip

    migrate(database_url)
    with database.begin() as session:
        assert session.get_one(TrajectoryGroup, "grp_1").payload == renamed

    downgrade(database_url, "0008")
    with database.begin() as session:
        assert session.get_one(TrajectoryGroup, "grp_1").payload == former


def test_a_schema_of_a_later_release_is_used_and_not_touched(
    database: Database, database_url: str
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    migrate(database_url)
    wait_for_schema(database_url)

    with pytest.raises(PlatformError, match="Cannot downgrade the schema to '0002'"):
        downgrade(database_url, "0002")
    with database.engine.connect() as connection:
        assert revision_of(connection) == "9999"


def test_a_process_waits_for_the_schema_and_says_so(database_url: str) -> None:
    with capture_logs() as said, ThreadPoolExecutor(1) as pool:
        ready = pool.submit(wait_for_schema, database_url)
        with pytest.raises(TimeoutError):
            ready.result(0.5)
        migrate(database_url)
        ready.result(10)

    assert [line["event"] for line in said] == [
        "waiting for the schema: run `python -m services.api.db`"
    ]


def test_a_unit_of_work_that_raises_changes_nothing(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)

    def provision_and_fail() -> None:
        with database.begin() as session:
            transition(session, lock_job(session, job_id), JobState.PROVISIONING)
            transition(session, lock_job(session, job_id), JobState.SUCCEEDED)

    with pytest.raises(PlatformError, match="cannot go from provisioning to succeeded"):
        provision_and_fail()

    assert read_job(database, job_id).state == "queued"


def test_times_come_back_in_utc(database: Database, tmp_path: Path) -> None:
    offset = read_job(database, submit(database, tmp_path)).created_at.utcoffset()

    assert offset is not None
    assert offset.total_seconds() == 0


def test_only_one_task_at_a_time_claims_a_job(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)

    with database.begin() as session:
        first = claim(session, Job, job_id, 60)
    with database.begin() as session:
        second = claim(session, Job, job_id, 60)

    assert first is not None
    assert second is None


def test_a_stale_token_changes_nothing(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)
    with database.begin() as session:
        slow = claim(session, Job, job_id, 60)
    with database.begin() as session:
        session.execute(update(Job).values(lock_expires_at=NEVER_LOCKED))
        quick = claim(session, Job, job_id, 60)
    assert slow is not None
    assert quick is not None

    with pytest.raises(StaleTokenError), database.begin() as session:
        transition(session, open_locked(session, Job, job_id, slow), JobState.PROVISIONING)
    after_slow = read_job(database, job_id)
    with database.begin() as session:
        transition(session, open_locked(session, Job, job_id, quick), JobState.PROVISIONING)

    assert (after_slow.state, after_slow.lock_token) == ("queued", quick)
    assert read_job(database, job_id).state == "provisioning"


def test_two_dispatchers_race_for_one_trainer_and_one_wins(
    database: Database, tmp_path: Path
) -> None:
    jobs = [submit(database, tmp_path) for _ in range(2)]
    together = threading.Barrier(2)

    def take(job_id: str) -> bool:
        with database.begin() as session:
            job = lock_job(session, job_id)
            together.wait(10)
            return open_attempt(session, job, "trainer:1", ["replica:1"]) is not None

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(take, jobs))

    winner, loser = jobs if won[0] else jobs[::-1]
    assert sorted(won) == [False, True]
    assert (read_job(database, winner).state, read_job(database, loser).state) == (
        "provisioning",
        "queued",
    )
    assert read_job(database, loser).attempt == 0
    with database.begin() as session:
        assert {lease.job_id for lease in session.scalars(select(ServiceLease))} == {winner}


def test_a_lease_that_is_taken_leaves_the_other_services_of_the_attempt_free(
    database: Database, tmp_path: Path
) -> None:
    first, second = submit(database, tmp_path), submit(database, tmp_path)
    with database.begin() as session:
        open_attempt(session, lock_job(session, first), "trainer:1", ["replica:1"])

    with database.begin() as session:
        taken = open_attempt(
            session, lock_job(session, second), "trainer:2", ["replica:2", "replica:1"]
        )

    assert taken is None
    with database.begin() as session:
        assert {lease.address for lease in session.scalars(select(ServiceLease))} == {
            "trainer:1",
            "replica:1",
        }


def test_events_of_a_job_are_numbered_without_gaps_however_many_write(
    database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path)

    def write(number: int) -> None:
        with database.begin() as session:
            set_waiting(session, lock_job(session, job_id), f"service {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(20)))

    with database.begin() as session:
        positions = list(session.scalars(select(JobEvent.position).order_by(JobEvent.position)))
    assert positions == list(range(1, 22))  # the first says that the job was queued


def test_waiting_for_the_same_service_is_said_once(database: Database, tmp_path: Path) -> None:
    job_id = submit(database, tmp_path)

    for service in ("trainer", "trainer", None):
        with database.begin() as session:
            set_waiting(session, lock_job(session, job_id), service)

    with database.begin() as session:
        said = session.scalars(
            select(JobEvent.data).where(JobEvent.type == "waiting").order_by(JobEvent.position)
        )
        assert [data["waiting_for"] for data in said] == ["trainer", None]


def test_the_server_ends_statements_locks_and_forgotten_transactions(database_url: str) -> None:
    database = Database(database_url, statement_s=0.5)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="statement timeout"), database.begin() as session:
        session.execute(text("SELECT pg_sleep(20)"))
    with database.begin() as session:
        limits = [
            session.scalar(text(f"SHOW {name}"))
            for name in ("lock_timeout", "idle_in_transaction_session_timeout")
        ]
    database.dispose()

    assert limits == ["500ms", "30s"]
    assert time.monotonic() - began < 10


def test_a_server_that_is_stopped_is_waited_for_so_long_and_no_longer() -> None:
    with running_postgres() as server:
        database = Database(server.url("postgres"), statement_s=0.2)
        with database.begin() as session:
            (pid,) = session.execute(text("SELECT pg_backend_pid()")).one()
        processes = [psutil.Process(pid).parent(), *psutil.Process(pid).parent().children()]
        for process in processes:
            process.suspend()
        try:
            began = time.monotonic()
            assert not database.is_up()
            probed_s = time.monotonic() - began
            with pytest.raises(OperationalError), database.begin() as session:
                session.execute(text("SELECT 1"))
            waited_s = time.monotonic() - began - probed_s
        finally:
            for process in processes:
                process.resume()
        with database.begin() as session:
            assert session.scalar(text("SELECT 1")) == 1
        assert database.is_up()
        database.dispose()

    assert probed_s < 4
    # The ping of a pooled connection, then a new one.
    assert waited_s < 0.2 + 5 + 5 + 2


def test_time_is_the_databases_whatever_the_clock_of_the_host_says(database_url: str) -> None:
    migrate(database_url)
    ahead = datetime.now(UTC) + timedelta(minutes=10)
    with time_machine.travel(ahead, tick=True):
        database = Database(database_url)
        with database.begin() as session:
            beat(session, "scheduler")
            now = utc_now()
            seen_at, true_now = session.execute(
                text("SELECT seen_at, clock_timestamp() FROM heartbeats")
            ).one()
            skew_s = session.scalar(select(Heartbeat.clock_skew_s))
        database.dispose()

    assert abs((seen_at - true_now).total_seconds()) < 5
    assert abs((now - true_now).total_seconds()) < 5
    assert 590 < skew_s < 605


def test_a_correction_of_the_hosts_clock_moves_no_deadline() -> None:
    clock = DatabaseClock()
    clock.set(1_000_000.0, time.monotonic(), time.monotonic())
    with time_machine.travel(datetime(2001, 1, 1, tzinfo=UTC), tick=True):
        assert abs(clock.now() - 1_000_000.0) < 5
        assert clock.skew_s() > 1e8
    slow = time.monotonic()
    clock.set(5.0, slow - 30, slow)
    assert abs(clock.now() - 1_000_000.0) < 5, "a reading that took half a minute says too little"
