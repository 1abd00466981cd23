"""Changing, checkpointing, repeating, rewinding, forking, deleting a job, and looking at what holds
it up.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.db.job_tables import Job
from services.api.domain.job_state import JobState
from services.common.steering import checkpoint_requests, read_revisions
from tests.support.job_api import Api, job_api
from tests.support.servers import Postgres


@pytest.fixture
def api(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """An API without any other service."""
    with job_api(postgres_server, redis_url, tmp_path) as api:
        yield api


def test_a_change_of_hyperparameters_is_a_numbered_revision_that_the_learner_finds(
    api: Api,
) -> None:
    job_id = api.run()

    first = api.http.patch(
        f"/v1/jobs/{job_id}", json={"hyperparameters": {"optim.lr": 1e-6}, "priority": 7}
    ).json()
    second = api.http.patch(
        f"/v1/jobs/{job_id}", json={"hyperparameters": {"rl.clip_high": 0.3}}
    ).json()

    assert (first["revision"], first["priority"], first["spec"]["optim"]["lr"]) == (1, 7, 1e-6)
    assert (
        second["revision"],
        second["spec"]["rl"]["clip_high"],
        second["spec"]["optim"]["lr"],
    ) == (2, 0.3, 1e-6)
    assert first["spec_hash"] != second["spec_hash"]
    revisions = read_revisions(api.job_dir(job_id), 0)
    assert [(item.number, item.changes) for item in revisions] == [
        (1, {"optim.lr": 1e-6}),
        (2, {"rl.clip_high": 0.3}),
    ]
    assert [item.number for item in read_revisions(api.job_dir(job_id), 1)] == [2]
    assert api.kinds(job_id).count("changed") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1, "rl.steps": 3}, "cannot be changed while the job runs"),
        ({"optim.lr": -1}, "optim.lr"),
        ({"rl.clip_low": "wide"}, "rl.clip_low"),
    ],
)
def test_what_cannot_be_steered_is_refused_and_changes_nothing(
    api: Api, changes: dict[str, Any], message: str
) -> None:
    job_id = api.run()

    refused = api.http.patch(
        f"/v1/jobs/{job_id}", json={"hyperparameters": changes, "metadata": {"a": "b"}}
    )

    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]
    job = api.http.get(f"/v1/jobs/{job_id}").json()
    assert (job["revision"], job["metadata"]) == (0, {})


def test_a_change_that_a_stages_own_settings_would_override_is_refused(api: Api) -> None:
    job_id = api.run(method="rl", rl={"optim": {"lr": 1e-4}})

    refused = api.http.patch(f"/v1/jobs/{job_id}", json={"hyperparameters": {"optim.lr": 1e-6}})
    taken = api.http.patch(f"/v1/jobs/{job_id}", json={"hyperparameters": {"rl.optim.lr": 1e-6}})

    assert "change rl.optim.lr" in refused.json()["error"]["message"]
    assert taken.json()["spec"]["rl"]["optim"]["lr"] == 1e-6


def test_a_checkpoint_on_demand_is_a_request_that_the_learner_finds(api: Api) -> None:
    queued, running = api.submit(), api.run()

    refused = api.http.post(f"/v1/jobs/{queued}/checkpoints")
    asked = api.http.post(f"/v1/jobs/{running}/checkpoints")

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "illegal_transition")
    assert asked.status_code == 202
    assert len(checkpoint_requests(api.job_dir(running))) == 1


def test_a_failed_job_is_rerun_and_its_earlier_failures_are_excluded(api: Api) -> None:
    job_id = api.run()
    refused = api.http.post(f"/v1/jobs/{job_id}/rerun")
    api.move(job_id, JobState.FAILED)

    job = api.http.post(f"/v1/jobs/{job_id}/rerun").json()

    assert refused.status_code == 409
    assert (job["state"], job["error"], job["finished_at"]) == ("queued", None, None)
    with api.database.begin() as session:
        assert session.get_one(Job, job_id).excluded_attempts == 1


def test_a_rewound_job_resumes_from_the_checkpoint_and_the_newer_ones_are_archived(
    api: Api,
) -> None:
    job_id = api.run()
    ids = api.add_checkpoints(job_id, 2, 4, 6)
    refused = api.http.post(f"/v1/jobs/{job_id}/rewind", json={"checkpoint": ids[2]})
    api.move(job_id, JobState.SUCCEEDED)

    job = api.http.post(f"/v1/jobs/{job_id}/rewind", json={"checkpoint": ids[2]}).json()

    assert refused.status_code == 409
    assert job["state"] == "queued"
    names = sorted(path.name for path in (api.job_dir(job_id) / "checkpoints").iterdir())
    assert names == ["archived-0001-step-000004", "archived-0001-step-000006", "step-000002"]
    paths = {
        item["step"]: item["path"]
        for item in api.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    }
    assert all(Path(path).is_dir() for path in paths.values())
    assert "rewound" in api.kinds(job_id)


def test_a_fork_starts_from_a_checkpoint_with_another_spec_and_leaves_its_parent_alone(
    api: Api,
) -> None:
    parent = api.run()
    ids = api.add_checkpoints(parent, 2, 4)

    body = {"checkpoint": ids[2], "changes": {"optim.lr": 5e-6, "rl.steps": 7}, "suffix": "slow"}
    answer = api.http.post(f"/v1/jobs/{parent}/fork", json=body)
    newest = api.http.post(f"/v1/jobs/{parent}/fork", json={}).json()

    child = answer.json()
    assert answer.status_code == 201
    assert (child["state"], child["forked_from"], child["suffix"]) == ("queued", ids[2], "slow")
    assert (child["spec"]["optim"]["lr"], child["spec"]["rl"]["steps"]) == (5e-6, 7)
    origin = api.job_dir(child["id"]) / "origin"
    assert (origin / "checkpoints" / "step-000002" / "model.safetensors").read_text() == "2"
    assert (origin / "journal" / "steps-0001.jsonl").is_file()
    assert newest["forked_from"] == ids[4]
    assert api.http.get(f"/v1/jobs/{parent}").json()["state"] == "running"


def test_a_fork_with_other_rows_is_refused(api: Api) -> None:
    parent = api.run()
    ids = api.add_checkpoints(parent, 2)

    refused = [
        api.http.post(
            f"/v1/jobs/{parent}/fork", json={"checkpoint": ids[2], "changes": {key: value}}
        )
        for key, value in (("seed", 5), ("training_file", "file_x"), ("prompt.system", "Be brief."))
    ]
    unknown = api.http.post(f"/v1/jobs/{parent}/fork", json={"checkpoint": "ckpt_none"})

    assert [answer.status_code for answer in refused] == [400] * 3
    assert unknown.status_code == 404


def test_a_deleted_job_is_not_found_and_its_files_are_removed(api: Api) -> None:
    job_id = api.run()
    api.add_checkpoints(job_id, 2)
    refused = api.http.delete(f"/v1/jobs/{job_id}")
    api.move(job_id, JobState.FAILED)

    deleted = api.http.delete(f"/v1/jobs/{job_id}")

    assert refused.status_code == 409
    assert deleted.json() == {"id": job_id, "object": "job", "deleted": True}
    assert api.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert not api.job_dir(job_id).exists()


def test_logs_are_read_by_service_and_attempt_and_followed_to_the_jobs_end(api: Api) -> None:
    job_id = api.run()
    own = api.job_dir(job_id) / "logs" / "attempt-0001.log"
    own.parent.mkdir(parents=True)
    lines = [
        _line("model loaded", seconds=2.5),
        "Traceback (most recent call last):",
        _line("step done", step=1),
    ]
    own.write_text("\n".join(lines) + "\nunfinished")
    reward = api.directory / "data" / "logs" / "reward.log"
    reward.parent.mkdir(parents=True)
    reward.write_text(
        "\n".join([_line("verified", job_id=job_id), _line("verified", job_id="job_other")]) + "\n"
    )

    page = api.http.get(f"/v1/jobs/{job_id}/logs", params={"limit": 2}).json()
    rest = api.http.get(f"/v1/jobs/{job_id}/logs", params={"after": page["last_id"]}).json()
    others = api.http.get(f"/v1/jobs/{job_id}/logs", params={"service": "reward"}).json()
    unknown = api.http.get(f"/v1/jobs/{job_id}/logs", params={"service": "../../etc/passwd"})
    api.move(job_id, JobState.FAILED)
    followed = api.http.get(f"/v1/jobs/{job_id}/logs", params={"follow": True}).text

    assert [line["message"] for line in page["data"]] == ["model loaded", lines[1]]
    assert (page["has_more"], page["data"][0]["fields"], page["data"][1]["time"]) == (
        True,
        {"seconds": 2.5},
        None,
    )
    assert [line["message"] for line in rest["data"]] == ["step done"]
    assert len(others["data"]) == 1
    assert unknown.status_code == 404
    assert followed.count("event: line") == 3
    assert followed.endswith("event: done\ndata: [DONE]\n\n")


def _line(message: str, **fields: Any) -> str:
    return json.dumps(
        {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": message, **fields}
    )


def test_a_diagnosis_says_what_a_queued_job_waits_for(api: Api) -> None:
    job_id = api.submit()

    found = api.http.get(f"/v1/jobs/{job_id}/diagnosis").json()

    assert (found["object"], found["code"], found["suggestion"]) == (
        "job.diagnosis",
        "starting",
        {},
    )
