"""Submitting, listing and steering jobs over HTTP."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.pagination import SyncCursorPage
from openai.types import FileObject
from sqlalchemy import func, select

from services.api.db.database import Database
from services.api.db.job_tables import Job
from services.api.db.jobs import lock_job, transition
from services.api.domain.job_state import JobState
from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    openai_client,
    read_job,
    run_attempt,
    running_api,
    write_model,
    write_rows,
)
from tests.support.servers import Postgres


@dataclass
class Api:
    """A client, the database behind it, and a directory with a model and data."""

    http: httpx.Client
    database: Database
    directory: Path

    def submit(self, **values: Any) -> dict[str, Any]:
        """An accepted job."""
        answer = self.http.post("/v1/jobs", json=job_body(self.directory, **values))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def refusal(self, **values: Any) -> dict[str, Any]:
        """The error that a spec gets."""
        answer = self.http.post("/v1/jobs", json=job_body(self.directory, **values))
        assert answer.status_code == 400, answer.text
        return dict(answer.json()["error"])

    def count(self) -> int:
        """Jobs in the database."""
        with self.database.begin() as session:
            return session.scalar(select(func.count()).select_from(Job)) or 0


@pytest.fixture
def api(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """An API without any other service."""
    with migrated_database(postgres_server) as url:
        settings = make_settings(
            url, redis_url, tmp_path / "data", rollout_addresses=("127.0.0.1:9", "127.0.0.1:10")
        )
        with running_api(settings) as (client, resources):
            yield Api(client, resources.database, tmp_path)


def test_a_submitted_job_is_queued_and_shows_its_spec_with_all_defaults(api: Api) -> None:
    job = api.submit(suffix="mine", metadata={"team": "a"})

    assert api.http.get(f"/v1/jobs/{job['id']}").json() == job
    assert (job["object"], job["state"], job["status"], job["method"]) == (
        "job",
        "queued",
        "queued",
        "pipeline",
    )
    assert (job["suffix"], job["metadata"], job["attempt"]) == ("mine", {"team": "a"}, 0)
    assert job["spec"]["rl"]["num_generations"] == 8
    assert len(job["spec_hash"]) == 64
    assert (job["error"], job["progress"], job["phase"], job["result_checkpoint"]) == (
        None,
        None,
        None,
        None,
    )
    [event] = api.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert event["data"] == {"from": "validating_files", "to": "queued", "error": None}


def test_every_problem_of_a_spec_is_said_at_once_with_its_place(api: Api) -> None:
    error = api.refusal(model="", method="grpo", rl={"steps": 0, "nonsense": 1}, seed=-1)

    assert (error["type"], error["code"]) == ("invalid_request_error", "spec_invalid")
    assert {problem["path"] for problem in error["problems"]} >= {
        "model",
        "method.type",
        "rl.steps",
        "rl.nonsense",
        "seed",
    }
    assert error["request_id"]
    assert api.count() == 0


def test_everything_that_contradicts_the_installation_is_said_at_once(api: Api) -> None:
    without_answers = api.directory / "sft_only.jsonl"
    without_answers.write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
    )
    error = api.refusal(
        validation_file=str(without_answers),
        training_file="file_unknown",
        rl={"training_file": "relative.jsonl"},
        diffusion={"block_size": 8, "mask_token_id": 9},
        resources={"rollout_replicas": 3},
        model_revision="main",
    )

    assert {problem["path"] for problem in error["problems"]} == {
        "training_file",
        "rl.training_file",
        "validation_file",
        "diffusion.block_size",
        "diffusion.mask_token_id",
        "resources.rollout_replicas",
        "model_revision",
    }
    assert "validation_file: row 2: has no reference answer" in error["message"]
    assert api.count() == 0


def test_every_file_of_a_mixture_is_checked(api: Api) -> None:
    good, bad = write_rows(api.directory / "good.jsonl"), api.directory / "bad.jsonl"
    bad.write_text('{"prompt": "no answer"}\n')

    def mixture(*parts: Path) -> dict[str, Any]:
        return {
            "training_file": None,
            "training_mixture": [{"file": str(part), "weight": 2} for part in parts],
        }

    error = api.refusal(method="rl", **mixture(good, bad))
    job = api.submit(method="rl", **mixture(good, write_rows(api.directory / "more.jsonl")))

    assert [problem["path"] for problem in error["problems"]] == ["training_mixture"]
    assert "has no reference answer" in error["problems"][0]["message"]
    assert [part["weight"] for part in job["spec"]["training_mixture"]] == [2.0, 2.0]


@pytest.mark.parametrize(
    "model", ["model_unknown", "relative/model", "/nowhere", "org/name-on-the-hub"]
)
def test_a_model_that_is_not_there_is_refused(api: Api, model: str) -> None:
    error = api.refusal(model=model)

    assert (error["code"], error["param"]) == ("spec_invalid", "model")
    assert model in error["message"]


def test_a_directory_that_is_not_a_block_diffusion_model_is_refused(api: Api) -> None:
    model = write_model(api.directory / "other")
    (model / "config.json").write_text('{"model_type": "qwen3"}')

    error = api.refusal(model=str(model))

    assert error["param"] == "model"
    assert "block_size is missing" in error["message"]


def test_a_response_that_cannot_fit_the_model_is_refused(api: Api) -> None:
    model = write_model(api.directory / "short", max_position_embeddings=256)

    assert (
        api.refusal(model=str(model), sampling={"max_new_tokens": 256})["param"]
        == "sampling.max_new_tokens"
    )


def test_supervised_training_needs_no_reference_answers_and_no_replicas(api: Api) -> None:
    rows = api.directory / "sft_only.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')

    job = api.submit(
        method="sft",
        training_file=str(rows),
        validation_file=None,
        resources={"rollout_replicas": 9},
    )

    assert read_job(api.database, job["id"]).rollout_replicas == 0


def test_the_same_key_and_body_give_the_same_job(api: Api) -> None:
    body, key = job_body(api.directory), {"Idempotency-Key": "k1"}

    first = api.http.post("/v1/jobs", json=body, headers=key)
    # The job is known by its key: what it was made of may be gone by now.
    shutil.rmtree(body["model"])
    second = api.http.post("/v1/jobs", json=dict(reversed(body.items())), headers=key)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert api.count() == 1


def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    first = api.http.post(
        "/v1/jobs", json=job_body(api.directory), headers={"Idempotency-Key": "k1"}
    )
    other = api.http.post(
        "/v1/jobs", json=job_body(api.directory, seed=1), headers={"Idempotency-Key": "k1"}
    )

    assert other.status_code == 409
    assert other.json()["error"]["code"] == "conflict"
    assert first.json()["id"] in other.json()["error"]["message"]
    assert api.count() == 1


def test_a_key_that_is_used_many_times_at_once_gives_one_job(api: Api) -> None:
    body = job_body(api.directory)

    def post(_: int) -> str:
        return str(
            api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"}).json()["id"]
        )

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(post, range(6)))

    assert len(ids) == 1
    assert api.count() == 1


def test_pages_follow_each_other_newest_first_without_loss(api: Api) -> None:
    ids = [api.submit(seed=seed)["id"] for seed in range(5)][::-1]
    with api.database.begin() as session:  # two that came at the same moment
        moment = session.get_one(Job, ids[1]).created_at
        session.get_one(Job, ids[2]).created_at = moment
    ids[1:3] = sorted(ids[1:3], reverse=True)

    first = api.http.get("/v1/jobs", params={"limit": 2}).json()
    second = api.http.get("/v1/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    third = api.http.get("/v1/jobs", params={"limit": 2, "after": second["last_id"]}).json()

    pages = [first, second, third]
    assert [job["id"] for page in pages for job in page["data"]] == ids
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert [page["object"] for page in pages] == ["list"] * 3
    assert (first["first_id"], first["last_id"]) == (ids[0], ids[1])


def test_an_unknown_cursor_is_an_error_and_not_an_empty_page(api: Api) -> None:
    answer = api.http.get("/v1/jobs", params={"after": "job_unknown"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "after")


def test_jobs_are_selected_by_status_method_and_metadata(api: Api) -> None:
    rl = api.submit(method="rl", metadata={"team": "a", "run": "1"})["id"]
    pipeline = api.submit(metadata={"team": "a"})["id"]
    other = api.submit(metadata={"team": "b"})["id"]
    api.http.post(f"/v1/jobs/{other}/cancel")

    def found(**params: Any) -> set[str]:
        return {job["id"] for job in api.http.get("/v1/jobs", params=params).json()["data"]}

    assert found(status="queued") == {rl, pipeline}
    assert found(status=["queued", "cancelled"]) == {rl, pipeline, other}
    assert found(method="rl") == {rl}
    assert found(**{"metadata[team]": "a"}) == {rl, pipeline}
    assert found(**{"metadata[team]": "a", "metadata[run]": "1"}) == {rl}
    assert api.http.get("/v1/jobs", params={"status": "unknown"}).status_code == 400


def test_jobs_are_found_by_words_over_all_pages(api: Api) -> None:
    ours = [
        api.submit(suffix=f"Night-Run_{seed}", metadata={"team": "algebra"})["id"]
        for seed in range(3)
    ][::-1]
    other = api.submit(suffix="day", metadata={"note": "100%"})["id"]

    def found(q: str, **params: Any) -> list[str]:
        return [
            job["id"] for job in api.http.get("/v1/jobs", params={"q": q, **params}).json()["data"]
        ]

    first = api.http.get("/v1/jobs", params={"q": "night", "limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (ours[:2], True)
    assert found("night", limit=2, after=first["last_id"]) == ours[2:]
    assert found("ALGEBRA run_1") == [ours[1]]
    assert found(other[-8:]) == found("day queued") == found("100%") == [other]
    assert found("0%") == [other]
    assert found("night day") == []
    assert len(found("  ")) == 4


def test_a_queued_job_is_cancelled_at_once_and_again_without_effect(api: Api) -> None:
    job_id = api.submit()["id"]

    states = [api.http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] for _ in range(2)]

    assert states == ["cancelled", "cancelled"]
    events = api.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [event["data"]["to"] for event in events] == ["queued", "cancelling", "cancelled"]


def test_a_running_job_is_cancelling_until_its_learner_has_ended(api: Api) -> None:
    job_id = api.submit()["id"]
    run_attempt(api.database, job_id)

    assert [api.http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] for _ in range(2)] == [
        "cancelling"
    ] * 2


def test_pausing_and_resuming_follow_the_table(api: Api) -> None:
    job_id = api.submit()["id"]
    too_early = api.http.post(f"/v1/jobs/{job_id}/pause")
    run_attempt(api.database, job_id)
    pausing = api.http.post(f"/v1/jobs/{job_id}/pause").json()["state"]
    with api.database.begin() as session:
        transition(session, lock_job(session, job_id), JobState.PAUSED)

    assert too_early.status_code == 409
    assert too_early.json()["error"]["code"] == "illegal_transition"
    assert "from queued to pausing" in too_early.json()["error"]["message"]
    assert pausing == "pausing"
    assert api.http.post(f"/v1/jobs/{job_id}/resume").json()["state"] == "queued"


def test_a_finished_job_cannot_be_cancelled(api: Api) -> None:
    job_id = api.submit()["id"]
    run_attempt(api.database, job_id)
    with api.database.begin() as session:
        transition(session, lock_job(session, job_id), JobState.SUCCEEDED)

    answer = api.http.post(f"/v1/jobs/{job_id}/cancel")

    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "conflict_error")


def test_what_does_not_exist_is_answered_with_the_error_envelope(api: Api) -> None:
    for request in (
        "GET /v1/jobs/job_x",
        "POST /v1/jobs/job_x/cancel",
        "GET /v1/jobs/job_x/events",
        "GET /v1/jobs/job_x/metrics",
        "GET /v1/jobs/job_x/trajectories",
        "GET /v1/trajectories/traj_x",
        "GET /v1/models/model_x",
        "GET /v1/files/file_x",
        "POST /v1/checkpoints/ckpt_x/export",
        "GET /v1/exports/export_x",
        "GET /v1/nothing",
    ):
        answer = api.http.request(*request.split(), headers={"x-request-id": "req-7"})

        error = answer.json()["error"]
        assert answer.status_code == 404, request
        assert (error["type"], error["code"], error["request_id"]) == (
            "not_found_error",
            "not_found",
            "req-7",
        )
        assert answer.headers["x-request-id"] == "req-7"


def test_requests_that_cannot_be_read_are_answered_with_the_error_envelope(api: Api) -> None:
    answers = [
        api.http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}),
        api.http.post("/v1/jobs", json=[1]),
        api.http.get("/v1/jobs", params={"limit": 0}),
        api.http.get("/v1/jobs/job_%00"),
        api.http.post("/v1/jobs", json=job_body(api.directory, metadata={"a": "\x00"})),
        api.http.get("/v1/jobs/job_x/events", params={"after": "nonsense"}),
    ]

    assert [answer.status_code for answer in answers] == [400] * 6
    assert {answer.json()["error"]["type"] for answer in answers} == {"invalid_request_error"}
    assert api.http.delete("/v1/jobs").status_code == 405


def test_the_page_envelope_is_read_by_the_openai_package(api: Api) -> None:
    ids = {api.submit(seed=seed)["id"] for seed in range(3)}
    client = openai_client(api.http)

    page = client.get("/jobs", cast_to=SyncCursorPage[FileObject])

    assert {item.id for item in page.data} == ids
    assert page.has_more is False
    client.close()
