"""An API without any other service, with jobs in every state and with checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.api.adapters.job_files import job_directory
from services.api.db.database import Database
from services.api.db.jobs import lock_job, transition
from services.api.db.record_tables import Checkpoint
from services.api.domain.job_state import JobState
from services.api.http.resources import Resources
from services.common.ids import new_id
from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
)
from tests.support.servers import Postgres


@dataclass
class Api:
    """A client, the database behind it, and where jobs have their files."""

    http: httpx.Client
    resources: Resources
    directory: Path

    @property
    def database(self) -> Database:
        """Where the jobs are stored."""
        return self.resources.database

    def submit(self, **values: Any) -> str:
        """Id of a queued job."""
        answer = self.http.post("/v1/jobs", json=job_body(self.directory, **values))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, **values: Any) -> str:
        """Id of a running job."""
        job_id = self.submit(**values)
        run_attempt(self.database, job_id)
        return job_id

    def move(self, job_id: str, *states: JobState) -> None:
        """Let the job pass through states; its attempt has ended."""
        with self.database.begin() as session:
            job = lock_job(session, job_id)
            for state in states:
                transition(session, job, state)

    def job_dir(self, job_id: str) -> Path:
        """Where the job's files are."""
        return job_directory(self.directory / "data", job_id)

    def add_checkpoints(self, job_id: str, *steps: int) -> dict[int, str]:
        """Ids of checkpoints by step, with directories."""
        ids = {}
        for step in steps:
            path = self.job_dir(job_id) / "checkpoints" / f"step-{step:06d}"
            path.mkdir(parents=True)
            (path / "model.safetensors").write_text(str(step))
            ids[step] = new_id("ckpt")
            row = Checkpoint(
                id=ids[step], job_id=job_id, attempt=1, step=step, stage="rl", path=str(path),
                weight_version=step, weight_digest="d", num_bytes=9,
            )  # fmt: skip
            with self.database.begin() as session:
                session.add(row)
        (self.job_dir(job_id) / "journal").mkdir(exist_ok=True)
        (self.job_dir(job_id) / "journal" / "steps-0001.jsonl").write_text(
            '{"attempt":1,"resumed_from":0}\n'
        )
        return ids

    def kinds(self, job_id: str) -> list[str]:
        """Types of the job's events."""
        return [
            event["type"] for event in self.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
        ]


@contextmanager
def job_api(server: Postgres, redis_url: str, directory: Path, **settings: Any) -> Iterator[Api]:
    """An API on a fresh database."""
    with migrated_database(server) as url:
        made = make_settings(url, redis_url, directory / "data", **settings)
        with running_api(made) as (client, resources):
            yield Api(client, resources, directory)
