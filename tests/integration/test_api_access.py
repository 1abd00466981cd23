"""API keys, projects, limits and the audit log, over HTTP."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.api.db.access import create_key
from services.api.domain.access import Scope
from services.api.http.resources import Resources
from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    running_api,
    write_model,
    write_rows,
)
from tests.support.processes import ROOT, running_process
from tests.support.servers import Postgres, free_port


class Api:
    """An API that listens beyond loopback, and clients with keys."""

    def __init__(self, http: httpx.Client, resources: Resources, directory: Path) -> None:
        self.http, self.resources, self.directory = http, resources, directory

    def key(self, project: str, *scopes: Scope) -> dict[str, str]:
        """Headers with a new key."""
        with self.resources.database.begin() as session:
            _, secret = create_key(session, "test", project, scopes, None)
        return {"authorization": f"Bearer {secret}"}

    def user(self, project: str) -> dict[str, str]:
        """Headers of an ordinary user of a project."""
        return self.key(project, Scope.JOBS_WRITE, Scope.FILES_WRITE)

    def upload(self, headers: dict[str, str]) -> str:
        """Id of a file."""
        content = write_rows(self.directory / "rows.jsonl").read_bytes()
        answer = self.http.post(
            "/v1/files", files={"file": ("rows.jsonl", content)}, headers=headers
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def body(self, headers: dict[str, str], model: str) -> dict[str, Any]:
        """A spec that names nothing but ids."""
        file = self.upload(headers)
        return {
            "model": model,
            "method": "pipeline",
            "training_file": file,
            "validation_file": file,
        }


@pytest.fixture
def api(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """Settings as on a network; the test's own socket is a local one."""
    with migrated_database(postgres_server) as url:
        settings = make_settings(
            url, redis_url, tmp_path / "data", api_listen="0.0.0.0:8000", rate_limit_per_s=20.0
        )
        with running_api(settings) as (http, resources):
            yield Api(http, resources, tmp_path)


def test_beyond_loopback_nothing_is_answered_without_a_key_that_works(api: Api) -> None:
    admin = api.key("default", Scope.ADMIN)
    made = api.http.post(
        "/v1/api_keys", json={"name": "short", "expires_at": int(time.time()) + 1}, headers=admin
    ).json()
    short = {"authorization": f"Bearer {made['key']}"}
    while time.time() < made["expires_at"] + 0.01:
        time.sleep(0.05)
    answers = [
        api.http.get("/v1/jobs", headers=headers)
        for headers in (
            {},
            {"authorization": "Bearer sk-dirl-wrong"},
            {"authorization": "Basic eDp5"},
            short,
        )
    ]

    assert [answer.status_code for answer in answers] == [401] * 4
    assert {answer.json()["error"]["type"] for answer in answers} == {"authentication_error"}
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert api.http.get("/v1/jobs", headers=admin).status_code == 200
    assert api.http.get("/healthz").status_code == 200


def test_a_secret_is_shown_once_and_a_revoked_key_is_refused_at_once(api: Api) -> None:
    admin = api.key("default", Scope.ADMIN)
    made = api.http.post(
        "/v1/api_keys", json={"name": "ci", "project": "team-a"}, headers=admin
    ).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    me = api.http.get("/v1/whoami", headers=headers).json()

    api.http.delete(f"/v1/api_keys/{made['id']}", headers=admin)
    listed = api.http.get("/v1/api_keys", headers=admin)

    assert (me["key_id"], me["project"], me["scopes"]) == (
        made["id"],
        "team-a",
        ["files:write", "jobs:write"],
    )
    assert api.http.get("/v1/whoami", headers=headers).status_code == 401
    assert made["key"] not in listed.text
    assert listed.json()["data"][0]["hint"] == made["key"][-4:]


def test_a_key_without_the_scope_is_told_which_one_it_needs(api: Api) -> None:
    reader = api.key("default", Scope.JOBS_READ)

    refused = [
        api.http.post("/v1/jobs", json={}, headers=reader),
        api.http.get("/v1/api_keys", headers=reader),
    ]

    assert [answer.status_code for answer in refused] == [403, 403]
    assert "jobs:write" in refused[0].json()["error"]["message"]
    assert api.http.get("/v1/jobs", headers=reader).status_code == 200


def test_projects_see_only_their_own(api: Api) -> None:
    admin, mine, other = api.key("a", Scope.ADMIN), api.user("a"), api.user("b")
    path = str(write_model(api.directory / "model"))
    model = api.http.post("/v1/models", json={"path": path}, headers=admin).json()["id"]
    body = api.body(mine, model)
    job = api.http.post("/v1/jobs", json=body, headers={**mine, "idempotency-key": "k"}).json()
    paths = [
        *(
            f"/v1/jobs/{job['id']}{part}"
            for part in ("", "/events", "/metrics", "/logs", "/diagnosis", "/trajectories")
        ),
        f"/v1/fine_tuning/jobs/{job['id']}",
        f"/v1/files/{body['training_file']}",
        f"/v1/models/{model}",
    ]

    assert {api.http.get(path, headers=mine).status_code for path in paths} == {200}
    assert {api.http.get(path, headers=other).status_code for path in paths} == {404}
    assert api.http.post(f"/v1/jobs/{job['id']}/cancel", headers=other).status_code == 404
    for listing in ("/v1/jobs", "/v1/files", "/v1/models", "/v1/fine_tuning/jobs"):
        assert len(api.http.get(listing, headers=mine).json()["data"]) == 1, listing
        assert api.http.get(listing, headers=other).json()["data"] == [], listing
    refused = api.http.post("/v1/jobs", json=body, headers={**other, "idempotency-key": "k"})
    assert refused.status_code == 400
    assert {problem["path"] for problem in refused.json()["error"]["problems"]} == {
        "model", "training_file", "validation_file"
    }  # fmt: skip


def test_paths_of_the_server_are_for_admins(api: Api) -> None:
    mine = api.user("a")

    held_out = str(write_rows(api.directory / "held-out.jsonl"))
    body = job_body(api.directory, sft={"validation_file": held_out})
    del body["training_file"]
    body["training_mixture"] = [{"file": str(write_rows(api.directory / "mixed.jsonl"))}]
    spec = api.http.post("/v1/jobs", json=body, headers=mine)
    model = api.http.post("/v1/models", json={"path": "/etc"}, headers=mine)

    assert (spec.status_code, model.status_code) == (403, 403)
    assert {problem["path"] for problem in spec.json()["error"]["problems"]} == {
        "model",
        "training_mixture",
        "validation_file",
        "sft.validation_file",
    }


def test_a_key_that_asks_too_often_is_told_to_wait(api: Api) -> None:
    mine = api.key("a", Scope.JOBS_READ)

    answers = [api.http.get("/v1/whoami", headers=mine) for _ in range(80)]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert refused[0].json()["error"]["type"] == "rate_limit_error"


def test_the_audit_log_says_who_did_what_and_how_it_ended(api: Api) -> None:
    admin, mine = api.key("a", Scope.ADMIN), api.user("a")
    api.upload(mine)
    api.http.delete("/v1/files/file_none", headers=mine)
    api.http.get("/v1/jobs", headers=mine)

    entries = api.http.get("/v1/audit", headers=admin).json()["data"]

    assert [(entry["method"], entry["path"], entry["outcome"]) for entry in entries] == [
        ("DELETE", "/v1/files/file_none", "not_found"),
        ("POST", "/v1/files", "done"),
    ]
    assert entries[0]["key_id"] == api.http.get("/v1/whoami", headers=mine).json()["key_id"]
    assert api.http.get("/v1/audit", params={"limit": 1}, headers=admin).json()["has_more"] is True


def test_on_loopback_a_user_of_the_machine_needs_no_key_but_a_page_of_the_web_gets_nothing(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    with (
        migrated_database(postgres_server) as url,
        running_api(make_settings(url, redis_url, tmp_path)) as (http, _),
    ):
        me = http.get("/v1/whoami")
        package = http.get("/v1/whoami", headers={"authorization": "Bearer none"})
        rebound = http.get("/v1/jobs", headers={"host": "evil.example"})
        foreign = http.post("/v1/jobs/job_1/cancel", headers={"origin": "https://evil.example"})
        revoked = http.get("/v1/jobs", headers={"authorization": "Bearer sk-dirl-revoked"})

    assert me.json() == {
        "object": "caller",
        "key_id": None,
        "project": "default",
        "scopes": ["admin"],
    }
    assert package.status_code == 200
    assert [answer.status_code for answer in (rebound, foreign, revoked)] == [403, 403, 401]


def test_the_first_key_is_printed_once_and_never_logged(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    with migrated_database(postgres_server) as url:
        environment = {
            "DIRL_DATABASE_URL": url,
            "DIRL_REDIS_URL": redis_url,
            "DIRL_DATA_DIR": str(tmp_path),
            "DIRL_API_LISTEN": f"0.0.0.0:{free_port()}",
        }
        outputs = []
        for name in ("first", "second"):
            with running_process("services.api", tmp_path / f"{name}.log", environment) as process:
                process.wait_until(lambda: "api ready" in process.output(), "ready")
                outputs.append(process.output())

    first = [line.strip() for line in outputs[0].splitlines() if "sk-dirl-" in line]
    assert len(first) == 1
    assert first[0].startswith("sk-dirl-")  # alone on its line: no log line has it
    assert "sk-dirl-" not in outputs[1]


def test_no_secret_of_the_environment_reaches_a_log_or_an_error(tmp_path: Path) -> None:
    secret = "hunter2-in-a-url"
    program = "from services.api.__main__ import main; main()"
    environment = {
        "PATH": "",
        "DIRL_LOG_LEVEL": "debug",
        "DIRL_DATA_DIR": str(tmp_path),
        "DIRL_DATABASE_URL": f"mysql://user:{secret}@nowhere/db",
        "DIRL_REDIS_URL": f"redis://:{secret}@127.0.0.1:1/0",
        "DIRL_API_LISTEN": "127.0.0.1:0",
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "DIRL_DATABASE_URL" in done.stderr
    assert secret not in done.stderr + done.stdout
