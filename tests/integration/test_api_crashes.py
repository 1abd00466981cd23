"""A process that dies between the database and the files: what it leaves half done is finished by a
repeat of the request, or by the scheduler.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from services.api.adapters.job_files import adopt_checkpoint
from services.api.db.job_tables import Job
from services.api.db.record_tables import Checkpoint, PendingDeletion
from services.api.domain.job_state import JobState
from services.api.scheduler.prune import prune
from services.api.use_cases import change, create_job, deletion, requeue
from services.api.use_cases.change import write_missing_revisions
from services.common.errors import PlatformError
from services.common.steering import read_revisions
from tests.support.control_plane import read_job, scheduler_context, write_rows
from tests.support.job_api import Api, job_api
from tests.support.servers import Postgres

HOURS_7 = 7 * 3600


class Crash(BaseException):
    """The process dies here."""


def crash(*_: Any, **__: Any) -> None:
    raise Crash


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Iterator[None]:
    """The process dies in the block when it calls this function of the module."""
    with monkeypatch.context() as patch:
        patch.setattr(module, name, crash)
        with pytest.raises(Crash):
            yield


@pytest.fixture
def api(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """An API without any other service."""
    with job_api(postgres_server, redis_url, tmp_path) as api:
        yield api


def run_scheduler(api: Api) -> None:
    """What the scheduler does every minute."""
    with scheduler_context(api.resources.settings) as context:
        prune(context)


def pending(api: Api) -> list[str]:
    """Directories that are still to be removed."""
    with api.database.begin() as session:
        return list(session.scalars(select(PendingDeletion.path)))


def failed_job(api: Api, *steps: int) -> tuple[str, dict[int, str]]:
    """A failed job with checkpoints."""
    job_id = api.run()
    ids = api.add_checkpoints(job_id, *steps)
    api.move(job_id, JobState.FAILED)
    return job_id, ids


def checkpoint_names(api: Api, job_id: str) -> list[str]:
    """Directories of checkpoints as they are on the disk."""
    return sorted(path.name for path in (api.job_dir(job_id) / "checkpoints").iterdir())


def test_the_files_of_a_deleted_job_are_removed_by_the_scheduler_after_a_crash(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = failed_job(api, 2)
    with crashing(monkeypatch, deletion.shutil, "rmtree"):
        deletion.delete_job(api.resources, job_id)
    gone = api.http.get(f"/v1/jobs/{job_id}").status_code
    left = api.job_dir(job_id).exists()

    run_scheduler(api)

    assert (gone, left) == (404, True)
    assert not api.job_dir(job_id).exists()
    assert pending(api) == []


def test_a_job_is_deleted_while_the_object_store_is_away_and_its_copy_goes_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = failed_job(api, 2)
    deleted: list[str] = []

    class Store:
        def __init__(self, url: str | None, job: str, directory: Path) -> None:
            self.job = job

        def delete(self) -> None:
            if not deleted:
                deleted.append("away")
                raise PlatformError("store_unavailable", "The object store does not answer.")
            deleted.append(self.job)

    monkeypatch.setattr(deletion, "archive_of", Store)

    answer = api.http.delete(f"/v1/jobs/{job_id}")
    still_pending = pending(api)
    run_scheduler(api)

    assert answer.json() == {"id": job_id, "object": "job", "deleted": True}
    assert still_pending == [str(api.job_dir(job_id))]
    assert deleted == ["away", job_id]
    assert not api.job_dir(job_id).exists()
    assert pending(api) == []


def test_a_deleted_checkpoint_is_removed_before_its_job_is_queued_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next attempt writes a checkpoint of the same step, which a late removal would hit.
    job_id, ids = failed_job(api, 2, 4)
    with crashing(monkeypatch, deletion.shutil, "rmtree"):
        deletion.delete_checkpoint(api.resources, job_id, ids[4])

    answer = api.http.post(f"/v1/jobs/{job_id}/rerun")

    assert answer.json()["state"] == "queued"
    assert checkpoint_names(api, job_id) == ["step-000002"]
    assert pending(api) == []


@pytest.mark.parametrize("kind", ["file", "model"])
def test_the_content_of_a_deleted_file_or_model_is_removed_after_a_crash(
    api: Api, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    delete: Callable[..., None]
    if kind == "file":
        with write_rows(api.directory / "rows.jsonl").open("rb") as content:
            made = api.http.post("/v1/files", files={"file": ("rows.jsonl", content)}).json()
        directory, delete = api.resources.data_dir / "files" / made["id"], deletion.delete_file
    else:
        directory = api.resources.data_dir / "models" / "model_x"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(
            '{"model_type": "sdar", "block_size": 4, "mask_token_id": 7, "vocab_size": 64,'
            ' "max_position_embeddings": 2048}'
        )
        made = api.http.post("/v1/models", json={"path": str(directory)}).json()
        delete = deletion.delete_model
    with crashing(monkeypatch, deletion.shutil, "rmtree"):
        delete(api.resources, made["id"])
    left = directory.exists()

    run_scheduler(api)

    assert (left, directory.exists(), pending(api)) == (True, False, [])


@pytest.mark.parametrize("how", ["archive_checkpoints", "settle_job_files"])
def test_a_rewind_that_crashed_is_finished_by_its_repeat(
    api: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    job_id, ids = failed_job(api, 2, 4, 6)
    with crashing(monkeypatch, requeue, how):
        requeue.rewind_job(api.resources, job_id, ids[2])
    state = read_job(api.database, job_id).state

    answer = api.http.post(f"/v1/jobs/{job_id}/rewind", json={"checkpoint": ids[2]})

    assert (state, answer.json()["state"]) == ("failed", "queued")
    assert_rewound_to_2(api, job_id)
    assert api.kinds(job_id).count("rewound") == 1


def test_a_rewind_that_crashed_and_is_not_repeated_is_finished_by_the_scheduler(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, ids = failed_job(api, 2, 4, 6)
    with crashing(monkeypatch, requeue, "archive_checkpoints"):
        requeue.rewind_job(api.resources, job_id, ids[2])

    run_scheduler(api)

    assert_rewound_to_2(api, job_id)


def test_a_later_checkpoint_of_the_same_step_is_not_taken_for_an_archived_one(api: Api) -> None:
    job_id, ids = failed_job(api, 2, 4)
    api.http.post(f"/v1/jobs/{job_id}/rewind", json={"checkpoint": ids[2]})
    api.move(job_id, JobState.CANCELLING, JobState.CANCELLED)
    directory = api.job_dir(job_id) / "checkpoints"
    (directory / "archived-0001-step-000004").rename(api.directory / "moved away by hand")
    api.add_checkpoints(job_id, 4)

    run_scheduler(api)

    assert checkpoint_names(api, job_id) == ["step-000002", "step-000004"]
    assert api.http.post(f"/v1/jobs/{job_id}/rerun").json()["state"] == "queued"


def assert_rewound_to_2(api: Api, job_id: str) -> None:
    """Disk and database agree that the checkpoints of steps 4 and 6 are archived."""
    archived = ["archived-0001-step-000004", "archived-0001-step-000006"]
    assert checkpoint_names(api, job_id) == [*archived, "step-000002"]
    with api.database.begin() as session:
        paths = session.scalars(select(Checkpoint.path).where(Checkpoint.job_id == job_id))
        assert all(Path(path).is_dir() for path in paths)


def test_a_job_is_not_queued_while_its_checkpoints_are_being_archived(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, ids = failed_job(api, 2, 4)
    with crashing(monkeypatch, requeue, "archive_checkpoints"):
        requeue.rewind_job(api.resources, job_id, ids[2])
    monkeypatch.setattr(requeue, "settle_job_files", lambda *_: None)

    refused = api.http.post(f"/v1/jobs/{job_id}/rerun")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert read_job(api.database, job_id).state == "failed"


def test_a_fork_that_cannot_be_stored_leaves_no_directory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, _ = failed_job(api, 2)
    monkeypatch.setattr(create_job, "_store", crash)

    answer = api.http.post(f"/v1/jobs/{parent}/fork", json={})

    assert answer.status_code == 500
    assert [path.name for path in (api.resources.data_dir / "jobs").iterdir()] == [parent]
    assert list((api.job_dir(parent) / "checkpoints" / ".pins").iterdir()) == []


def test_a_fork_of_a_checkpoint_without_its_directory_is_a_conflict(api: Api) -> None:
    parent, ids = failed_job(api, 2)
    (api.job_dir(parent) / "checkpoints" / "step-000002").rename(api.directory / "elsewhere")

    refused = api.http.post(f"/v1/jobs/{parent}/fork", json={"checkpoint": ids[2]})

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "checkpoint_invalid")
    assert [path.name for path in (api.resources.data_dir / "jobs").iterdir()] == [parent]


def test_the_copy_of_a_fork_that_was_never_stored_is_pruned(api: Api) -> None:
    parent, _ = failed_job(api, 2)
    jobs = api.resources.data_dir / "jobs"
    for name in ("job_old", "job_young", "job_of_a_backup"):
        source = api.job_dir(parent) / "checkpoints" / "step-000002"
        adopt_checkpoint(source, api.job_dir(parent), jobs / name)
    (jobs / "job_of_a_backup" / "checkpoints").mkdir()
    long_ago = time.time() - HOURS_7
    for name in ("job_old", "job_of_a_backup", parent):
        os.utime(jobs / name, (long_ago, long_ago))

    run_scheduler(api)

    assert {path.name for path in jobs.iterdir()} == {"job_young", "job_of_a_backup", parent}


def test_a_revision_that_a_crash_left_unwritten_is_written_before_the_next_one(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = api.run()
    url = f"/v1/jobs/{job_id}"
    with monkeypatch.context() as patch:
        patch.setattr(change, "write_revision", crash)
        assert api.http.patch(url, json={"hyperparameters": {"optim.lr": 1e-6}}).status_code == 500
    unwritten = read_revisions(api.job_dir(job_id), 0)

    api.http.patch(url, json={"hyperparameters": {"rl.clip_high": 0.3}})

    assert unwritten == []
    assert [(item.number, item.changes) for item in read_revisions(api.job_dir(job_id), 0)] == [
        (1, {"optim.lr": 1e-6}),
        (2, {"rl.clip_high": 0.3}),
    ]


def test_a_revision_that_a_full_disk_left_unwritten_is_written_by_the_scheduler(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = api.run()

    def fill_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(change, "write_revision", fill_disk)
        answer = api.http.patch(f"/v1/jobs/{job_id}", json={"hyperparameters": {"optim.lr": 1e-6}})
    with api.database.begin() as session:
        job = session.get_one(Job, job_id)
    unwritten = read_revisions(api.job_dir(job_id), 0)

    write_missing_revisions(api.resources, job)

    assert (answer.status_code, answer.json()["revision"], unwritten) == (200, 1, [])
    assert [item.number for item in read_revisions(api.job_dir(job_id), 0)] == [1]
