"""What a key without `admin` can read: nothing of another project, whatever the route."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.api.adapters.job_files import job_directory
from services.api.db.access import create_key
from services.api.domain.access import Scope
from services.api.http.resources import Resources
from services.api.recorder.apply import apply_events
from services.common.codec import group_to_json
from services.common.events import Event, EventType
from services.common.streams import stream_names
from services.common.telemetry.logs import get_logger
from tests.support.builders import prompt_task, scored_group, trajectory
from tests.support.control_plane import (
    ScriptedReplica,
    ScriptedTrainer,
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    serving,
    write_model,
)
from tests.support.servers import Postgres

CANARY = "canary-of-project-a"
GRADER = f"def grade(sample, item):\n    return 1.0  # {CANARY}\n"
STREAMS = (("/v1/jobs/{job_id}/events", {}), ("/v1/jobs/{job_id}/logs", {"follow": "true"}))
METHODS = {"get", "post", "put", "patch", "delete"}


@dataclass
class Installation:
    """An API on a network, with a job of project a whose every field holds the canary."""

    http: httpx.Client
    admin: dict[str, str]
    mine: dict[str, str]
    other: dict[str, str]
    ids: dict[str, str]
    """Values of the parameters of paths."""


def make_key(resources: Resources, project: str, *scopes: Scope) -> dict[str, str]:
    with resources.database.begin() as session:
        _, secret = create_key(
            session, CANARY if project == "a" else "other", project, scopes, None
        )
    return {"authorization": f"Bearer {secret}"}


def created(response: httpx.Response) -> Any:
    assert response.status_code in (200, 201), response.text
    return response.json()


def fill_installation(
    http: httpx.Client,
    resources: Resources,
    directory: Path,
    trainer: ScriptedTrainer,
    address: str,
) -> Installation:
    admin = make_key(resources, "a", Scope.ADMIN)
    mine, other = (
        make_key(resources, project, Scope.JOBS_WRITE, Scope.FILES_WRITE) for project in "ab"
    )
    row = {
        "prompt": f"{CANARY}?",
        "answer": "2",
        "completion": CANARY,
        "metadata": {"note": CANARY},
    }
    upload = {"file": (f"{CANARY}.jsonl", json.dumps(row).encode())}
    file = created(http.post("/v1/files", files=upload, headers=mine))["id"]
    model_dir = str(write_model(directory / CANARY))
    model = created(http.post("/v1/models", json={"path": model_dir}, headers=admin))["id"]
    spec = {
        "model": model,
        "method": "pipeline",
        "training_file": file,
        "validation_file": file,
        "suffix": CANARY,
        "metadata": {"note": CANARY},
        "reward": {"graders": [{"type": "python", "name": "mine", "source": GRADER}]},
    }
    hook = {"url": f"https://{CANARY}.example/hook", "project": "a"}
    webhook = created(http.post("/v1/webhooks", json=hook, headers=admin))["id"]
    job = created(http.post("/v1/jobs", json=spec, headers=mine))["id"]
    attempt = run_attempt(resources.database, job, address)
    trainer.job_id, trainer.attempt, trainer.state = job, attempt, "running"
    trainer.error = ("internal", f"row {CANARY} of {job} failed", False)
    record(resources, job, attempt)
    listed = created(http.get(f"/v1/jobs/{job}/checkpoints", headers=mine))["data"]
    checkpoint = listed[0]["id"]
    export = created(http.post(f"/v1/checkpoints/{checkpoint}/export", headers=mine))["id"]
    trajectories = created(http.get(f"/v1/jobs/{job}/trajectories", headers=mine))["data"]
    # What the services keep: streams, log files, the last error of this process.
    line = {"timestamp": "2026-12-01T00:00:00Z", "level": "error", "event": CANARY, "job_id": job}
    for log in (
        job_directory(resources.data_dir, job) / "logs" / f"attempt-{attempt:04d}.log",
        resources.data_dir / "logs" / "reward.log",
    ):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps(line) + "\n")
    names = stream_names(job, attempt)
    resources.redis.xadd(names.prompts, {"task": CANARY})
    resources.redis.xadd(names.groups, {"group": CANARY})
    get_logger().error("request failed", reason=f"{CANARY} in {job}")
    return Installation(
        http,
        admin,
        mine,
        other,
        {
            "job_id": job,
            "file_id": file,
            "model_id": model,
            "checkpoint_id": checkpoint,
            "export_id": export,
            "trajectory_id": trajectories[0]["id"],
            "webhook_id": webhook,
            "key_id": "key_none",
        },
    )


def record(resources: Resources, job_id: str, attempt: int) -> None:
    """Record events of every kind that carries text."""
    name = f"{attempt}_{attempt}_train_1_0"
    task = prompt_task(job_id=job_id, group_id=f"grp_{name}", reference_answer=CANARY)
    scored = scored_group(
        group_id=task.group_id,
        trajectories=(trajectory(trajectory_id=f"traj_{name}_0", text=CANARY),),
    )
    facts: list[tuple[EventType, dict[str, Any]]] = [
        (EventType.LOG, {"level": "error", "code": "note", "message": CANARY}),
        (EventType.PHASE, {"phase": "train", "stage": "rl", "waiting_for": CANARY}),
        (EventType.METRICS, {"step": 1, "values": {"train/loss": 1.0}}),
        (
            EventType.CHECKPOINT,
            {
                "step": 1,
                "stage": "rl",
                "path": f"/c/{CANARY}",
                "weight_version": 1,
                "weight_digest": CANARY,
                "bytes": 9,
                "deleted": [],
            },
        ),
        (
            EventType.TRAJECTORIES,
            {
                "step": 1,
                "purpose": "train",
                "disposition": "trained",
                "advantages": [0.5],
                "group": group_to_json(task, scored),
            },
        ),
        (
            EventType.EVALUATION,
            {"step": 1, "stage": "rl", "dataset": CANARY, "results": {"accuracy": 0.5}},
        ),
    ]
    events = [
        Event(job_id=job_id, attempt=attempt, seq=seq, type=kind, time=time.time(), data=data)
        for seq, (kind, data) in enumerate(facts, start=1)
    ]
    with resources.database.begin() as session:
        apply_events(session, job_id, attempt, events)


@pytest.fixture
def installation(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> Iterator[Installation]:
    trainer, replica = ScriptedTrainer(), ScriptedReplica()
    with (
        migrated_database(postgres_server) as url,
        serving(trainer) as trainer_address,
        serving(replica) as replica_address,
    ):
        settings = make_settings(
            url,
            redis_url,
            tmp_path / "data",
            api_listen="0.0.0.0:8000",
            rate_limit_per_s=10_000.0,
            trainer_addresses=(trainer_address,),
            rollout_addresses=(replica_address,),
        )
        with running_api(settings) as (http, resources):
            yield fill_installation(http, resources, tmp_path, trainer, trainer_address)


Route = tuple[str, str, dict[str, str]]
"""Method, path, query."""


def every_route(made: Installation) -> list[Route]:
    paths = made.http.get("/openapi.json").json()["paths"]
    query = {"jobs": made.ids["job_id"], "job_id": made.ids["job_id"], "names": "train/loss"}
    routes = []
    for path, item in paths.items():
        for method in item.keys() & METHODS:
            declared = {
                parameter["name"]
                for parameter in item[method].get("parameters", ())
                if parameter["in"] == "query"
            }
            given = {name: value for name, value in query.items() if name in declared}
            routes.append((method, path, given))
    logs = "/v1/jobs/{job_id}/logs"
    return [*routes, ("get", logs, {"service": "reward"}), ("get", logs, {"follow": "true"})]


def valid_bodies(made: Installation) -> dict[str, dict[str, Any]]:
    """A body that the schema of each route accepts, with what belongs to project a named in it."""
    ids = made.ids
    spec = {"model": ids["model_id"], "training_file": ids["file_id"]}
    grader = {"type": "python", "name": "mine", "source": "def grade(s, i): return 1.0"}
    said = [{"role": "user", "content": "?"}]
    return {
        "/v1/fine_tuning/jobs": {**spec, "validation_file": ids["file_id"]},
        "/v1/jobs": {**spec, "method": "sft", "validation_file": ids["file_id"]},
        "/v1/jobs/{job_id}": {"metadata": {"note": "other"}, "priority": 1},
        "/v1/jobs/{job_id}/rewind": {"checkpoint": ids["checkpoint_id"]},
        "/v1/jobs/{job_id}/fork": {"checkpoint": ids["checkpoint_id"], "changes": {}},
        "/v1/jobs/{job_id}/rescore": {"profile": "rl", "max_groups": 1},
        "/v1/graders/validate": {"grader": grader},
        "/v1/graders/run": {"grader": grader, "model_sample": "1", "item": {"prompt": "?"}},
        "/v1/models": {"path": ids["model_id"]},
        "/v1/api_keys": {"name": "other", "project": "a", "scopes": ["jobs:read"]},
        "/v1/webhooks": {"url": "https://other.example/hook", "project": "a"},
        "/v1/chat/completions": {"model": ids["job_id"], "messages": said},
        "/v1/completions": {"model": ids["checkpoint_id"], "prompt": "?"},
    }


def ask(made: Installation, route: Route, headers: dict[str, str]) -> tuple[str, str]:
    """Return what was asked for, and all that came back."""
    method, path, query = route
    sent: dict[str, Any] = {}
    if path == "/v1/files" and method == "post":
        sent = {"files": {"file": ("other.jsonl", b'{"prompt": "?", "answer": "2"}')}}
    elif method != "get" and path in valid_bodies(made):
        sent = {"json": valid_bodies(made)[path]}
    response = made.http.request(
        method, path.format(**made.ids), headers=headers, params=query, **sent
    )
    # A body that is refused for its form would prove nothing of what the route looks up.
    refused = response.status_code in (400, 422)
    assert not refused or "No file" in response.text, (route, response.text)
    return f"{response.url}{sent}", f"{response.headers} {response.text}"


def read_stream(made: Installation, path: str, query: dict[str, str]) -> str:
    """Return the first event that holds text of the owner's stream."""
    headers = {**made.mine, "accept": "text/event-stream"}
    url = path.format(**made.ids)
    with made.http.stream("GET", url, params=query, headers=headers, timeout=30) as response:
        assert response.headers["content-type"].startswith("text/event-stream"), response.read()
        return next(line for line in response.iter_lines() if CANARY in line)


def leaks(made: Installation, asked: str, answer: str) -> bool:
    """Whether the answer holds the canary, or an id of project a that was not asked for."""
    ids = [
        made.ids[name] for name in ("job_id", "checkpoint_id", "export_id", "file_id", "model_id")
    ]
    return CANARY in answer or any(one in answer and one not in asked for one in ids)


def test_no_route_shows_a_key_what_belongs_to_another_project(installation: Installation) -> None:
    routes = every_route(installation)
    assert len(routes) > 60

    for headers in (installation.other, {}):
        leaking = [
            route for route in routes if leaks(installation, *ask(installation, route, headers))
        ]
        assert leaking == []

        streams = {**headers, "accept": "text/event-stream"}
        for path, query in STREAMS:
            assert not leaks(installation, *ask(installation, ("get", path, query), streams))

    # The canary is there, and still is after all that the others tried.
    for path, query in STREAMS:
        assert CANARY in read_stream(installation, path, query)
    shown = {
        path
        for method, path, query in routes
        if method == "get"
        and "follow" not in query
        and CANARY in ask(installation, (method, path, query), installation.mine)[1]
    }
    assert shown >= {
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/logs",
        "/v1/jobs/{job_id}/checkpoints",
        "/v1/jobs/{job_id}/evals",
        "/v1/files/{file_id}",
        "/v1/files/{file_id}/content",
        "/v1/models/{model_id}",
        "/v1/trajectories/{trajectory_id}",
        "/v1/fine_tuning/jobs/{job_id}",
    }
    assert CANARY in ask(installation, ("get", "/v1/system", {}), installation.admin)[1]


def test_the_owner_of_a_job_sees_it_on_the_system_page_and_others_do_not(
    installation: Installation,
) -> None:
    def trainer(headers: dict[str, str]) -> dict[str, Any]:
        services = installation.http.get("/v1/system", headers=headers).json()["services"]
        return next(service for service in services if service["kind"] == "trainer")

    job_id = installation.ids["job_id"]

    assert trainer(installation.mine)["job_id"] == job_id
    assert trainer(installation.mine)["leased_to"] == job_id
    assert CANARY not in str(trainer(installation.mine)["error"])
    assert CANARY in trainer(installation.admin)["error"]
    assert (trainer(installation.other)["job_id"], trainer(installation.other)["leased_to"]) == (
        None,
        None,
    )
    assert "scope admin" in trainer(installation.other)["error"]
