"""Room: what a project keeps, a warning before its quota is full, a pause when it is, and ways to
make room.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from services.api.db.jobs import lock_job, transition
from services.api.db.record_tables import JobEvent
from services.api.domain.job_state import JobState
from services.api.domain.space import Disk, StorageUsage, find_shortage
from services.api.http.resources import Resources
from services.api.recorder.apply import apply_events
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.spaces import watch_space
from services.common.events import Event, EventType
from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    scheduler_context,
    write_rows,
)
from tests.support.servers import Postgres

QUOTA = 100_000


class World:
    """An API and a scheduler with a quota per project."""

    def __init__(
        self, http: httpx.Client, resources: Resources, context: SchedulerContext, directory: Path
    ) -> None:
        self.http, self.resources, self.context, self.directory = (
            http,
            resources,
            context,
            directory,
        )
        self._seq = 0

    def running(self) -> str:
        """A job whose learner runs."""
        job_id = str(self.http.post("/v1/jobs", json=job_body(self.directory)).json()["id"])
        run_attempt(self.resources.database, job_id)
        return job_id

    def checkpoint(self, job_id: str, num_bytes: int) -> Path:
        """The job writes a checkpoint."""
        self._seq += 1
        path = self.directory / "data" / "jobs" / job_id / "checkpoints" / f"step-{self._seq:06d}"
        path.mkdir(parents=True)
        data = {
            "step": self._seq,
            "stage": "sft",
            "path": str(path),
            "weight_version": self._seq,
            "weight_digest": "d",
            "bytes": num_bytes,
        }
        event = Event(
            job_id=job_id, attempt=1, seq=self._seq, type=EventType.CHECKPOINT, time=1e9, data=data
        )
        with self.resources.database.begin() as session:
            apply_events(session, job_id, 1, [event])
        return path

    def job(self, job_id: str) -> dict[str, Any]:
        """As the API shows it."""
        return dict(self.http.get(f"/v1/jobs/{job_id}").json())

    def move(self, job_id: str, *states: JobState) -> None:
        """Let the job pass through states."""
        with self.resources.database.begin() as session:
            for state in states:
                transition(session, lock_job(session, job_id), state)

    def shortages(self, job_id: str) -> list[Any]:
        """Data of the events about room."""
        events = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == "shortage")
        with self.resources.database.begin() as session:
            return [
                row.data["shortage"] for row in session.scalars(events.order_by(JobEvent.position))
            ]


@pytest.fixture
def world(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """No other service runs."""
    with migrated_database(postgres_server) as url:
        settings = make_settings(url, redis_url, tmp_path / "data", project_quota_bytes=QUOTA)
        with running_api(settings) as (http, resources), scheduler_context(settings) as context:
            yield World(http, resources, context, tmp_path)


def test_a_job_is_warned_before_its_projects_quota_is_full_and_once(world: World) -> None:
    job_id = world.running()
    world.checkpoint(job_id, QUOTA // 2)
    watch_space(world.context)
    calm = world.job(job_id)["shortage"]
    world.checkpoint(job_id, QUOTA // 3)
    watch_space(world.context)
    watch_space(world.context)

    warned = world.job(job_id)
    assert (calm, warned["state"]) == (None, "running")
    assert warned["shortage"] == {
        "of": "quota",
        "used_bytes": QUOTA // 2 + QUOTA // 3,
        "limit_bytes": QUOTA,
    }
    assert world.shortages(job_id) == [warned["shortage"]]


def test_a_full_project_has_its_jobs_paused_and_takes_nothing_more_until_room_is_made(
    world: World,
) -> None:
    job_id = world.running()
    kept = world.checkpoint(job_id, QUOTA)
    watch_space(world.context)
    pausing = world.job(job_id)
    world.move(job_id, JobState.PAUSED)
    content = write_rows(world.directory / "more.jsonl").read_bytes()
    refused = [
        world.http.post("/v1/jobs", json=job_body(world.directory)),
        world.http.post("/v1/files", files={"file": ("rows.jsonl", content)}),
        world.http.post(f"/v1/jobs/{job_id}/resume"),
    ]
    [checkpoint] = world.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    gone = world.http.delete(f"/v1/jobs/{job_id}/checkpoints/{checkpoint['id']}")

    assert (pausing["state"], pausing["error"]["code"]) == ("pausing", "quota_exceeded")
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [
        (403, "quota_exceeded")
    ] * 3
    assert (gone.json()["deleted"], kept.exists()) == (True, False)
    assert world.http.get("/v1/usage").json()["checkpoints_bytes"] == 0
    assert world.http.post(f"/v1/jobs/{job_id}/resume").json()["error"] is None


def test_an_upload_that_would_exceed_the_quota_is_refused(world: World) -> None:
    rows = b"".join(b'{"prompt": "%d?", "answer": "%d"}\n' % (n, n) for n in range(4000))

    answer = world.http.post("/v1/files", files={"file": ("rows.jsonl", rows)})
    usage = world.http.get("/v1/usage").json()

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "quota_exceeded")
    assert (usage["files_bytes"], usage["quota_bytes"], usage["disk_free_bytes"] > 0) == (
        0,
        QUOTA,
        True,
    )


def test_a_checkpoint_of_a_running_job_is_not_deleted(world: World) -> None:
    job_id = world.running()
    path = world.checkpoint(job_id, 10)
    [checkpoint] = world.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]

    answer = world.http.delete(f"/v1/jobs/{job_id}/checkpoints/{checkpoint['id']}")

    assert (answer.status_code, path.exists()) == (409, True)


def test_a_registered_directory_is_forgotten_and_not_deleted_once_no_job_needs_it(
    world: World,
) -> None:
    body = job_body(world.directory)
    model = world.http.post("/v1/models", json={"path": body["model"]}).json()["id"]
    job_id = world.http.post("/v1/jobs", json={**body, "model": model}).json()["id"]
    needed = world.http.delete(f"/v1/models/{model}")
    world.http.post(f"/v1/jobs/{job_id}/cancel")
    gone = world.http.delete(f"/v1/models/{model}")

    assert (needed.status_code, gone.json()["deleted"]) == (409, True)
    assert Path(body["model"]).is_dir()
    assert world.http.get(f"/v1/models/{model}").status_code == 404


GIB = 2**30


@pytest.mark.parametrize(
    ("usage", "disk", "checkpoint", "of"),
    [
        (StorageUsage(0, 79, 0, 100), Disk(50 * GIB, 100 * GIB), GIB, None),
        (StorageUsage(20, 40, 20, 100), Disk(50 * GIB, 100 * GIB), GIB, "quota"),
        (StorageUsage(0, 10**9, 0, None), Disk(50 * GIB, 100 * GIB), GIB, None),
        (StorageUsage(0, 0, 0, None), Disk(10 * GIB, 100 * GIB), GIB, "disk"),
        (StorageUsage(0, 0, 0, None), Disk(50 * GIB, 100 * GIB), 30 * GIB, "disk"),
    ],
    ids=["room", "quota", "no quota", "disk nearly full", "disk holds one more checkpoint"],
)
def test_a_warning_comes_before_there_is_no_room(
    usage: StorageUsage, disk: Disk, checkpoint: int, of: str | None
) -> None:
    shortage = find_shortage(usage, disk, checkpoint)
    assert (None if shortage is None else shortage.of) == of
