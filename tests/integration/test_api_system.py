"""Health, readiness, the state of the installation, metrics, documentation, the root page, and the
process itself.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest

from services.api.db.heartbeats import beat
from services.api.db.job_tables import Heartbeat
from services.api.http.resources import Resources
from services.common.pb.dirl.v1 import trainer_pb2
from services.common.telemetry.last_error import MEMORY, LoggedError
from tests.support.control_plane import (
    ScriptedReplica,
    ScriptedTrainer,
    make_settings,
    migrated_database,
    running_api,
    serving,
    submit,
)
from tests.support.processes import ROOT, running_process
from tests.support.servers import Postgres, free_address, running_valkey


@pytest.fixture
def migrated_url(postgres_server: Postgres) -> Iterator[str]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        yield url


@pytest.fixture
def api(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[httpx.Client, Resources]]:
    """An API with a trainer and one of two replicas."""
    with serving(ScriptedTrainer()) as trainer, serving(ScriptedReplica()) as replica:
        settings = make_settings(
            migrated_url,
            redis_url,
            tmp_path,
            trainer_addresses=(trainer,),
            rollout_addresses=(replica, free_address()),
        )
        with running_api(settings) as running:
            yield running


def test_a_ready_api_says_so_for_each_dependency(api: tuple[httpx.Client, Resources]) -> None:
    http, _ = api

    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {
        "ready": True,
        "dependencies": {"postgres": "up", "redis": "up"},
    }


def test_an_api_without_redis_is_alive_not_ready_and_still_takes_jobs(
    migrated_url: str, tmp_path: Path
) -> None:
    with running_valkey() as valkey:
        settings = make_settings(migrated_url, f"{valkey.connection_url}/0", tmp_path)
        with running_api(settings) as (http, resources):
            valkey.terminate()

            ready = http.get("/readyz")
            job_id = submit(resources.database, tmp_path)
            cancelled = http.post(f"/v1/jobs/{job_id}/cancel")

    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "dependencies": {"postgres": "up", "redis": "down"}}
    assert cancelled.json()["state"] == "cancelled"


def test_an_api_without_a_database_answers_with_a_capacity_error(
    redis_url: str, tmp_path: Path
) -> None:
    settings = make_settings(
        f"postgresql+psycopg://nobody@{free_address()}/none", redis_url, tmp_path
    )
    with running_api(settings) as (http, _):
        answer = http.get("/v1/jobs")
        ready = http.get("/readyz").json()

    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "capacity_error")
    assert ready["dependencies"]["postgres"] == "down"


def test_the_system_page_names_every_service_and_its_state(
    api: tuple[httpx.Client, Resources],
) -> None:
    http, resources = api
    with resources.database.begin() as session:
        beat(session, "scheduler")

    system = http.get("/v1/system").json()

    states = [(service["kind"], service["state"]) for service in system["services"]]
    assert states == [
        ("api", "up"),
        ("postgres", "up"),
        ("redis", "up"),
        ("scheduler", "up"),
        ("recorder", "down"),
        ("reward", "down"),
        ("trainer", "up"),
        ("rollout", "up"),
        ("rollout", "down"),
    ]
    assert system["healthy"] is False
    assert all(service["version"] for service in system["services"][:3])
    assert (system["services"][6]["activity"], system["services"][6]["version"]) == ("idle", "test")
    assert system["services"][7]["weight_version"] is None
    assert "UNAVAILABLE" in system["services"][8]["error"]


@pytest.mark.parametrize(
    ("policy", "warned"), [("allkeys-lru", True), ("noeviction", False), ("volatile-lru", False)]
)
def test_a_redis_that_may_evict_streams_is_named(
    migrated_url: str, tmp_path: Path, policy: str, warned: bool
) -> None:
    with running_valkey() as valkey:
        settings = make_settings(migrated_url, f"{valkey.connection_url}/0", tmp_path)
        with running_api(settings) as (http, resources):
            resources.redis.config_set("maxmemory", "100mb")
            resources.redis.config_set("maxmemory-policy", policy)

            services = http.get("/v1/system").json()["services"]

    error = services[2]["error"]
    assert (services[2]["kind"], error is not None and policy in error) == ("redis", warned)


class LateTrainer(ScriptedTrainer):
    """Its host's clock is five minutes behind."""

    def GetStatus(
        self, request: trainer_pb2.GetTrainerStatusRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetTrainerStatusResponse:
        status = super().GetStatus(request, context)
        status.unix_time_s = time.time() - 300
        return status


def test_the_system_page_states_how_far_each_clock_is_from_the_databases(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    with serving(LateTrainer()) as trainer, serving(ScriptedReplica()) as replica:
        settings = make_settings(
            migrated_url,
            redis_url,
            tmp_path,
            trainer_addresses=(trainer,),
            rollout_addresses=(replica,),
        )
        with running_api(settings) as (http, _):
            services = {
                service["kind"]: service for service in http.get("/v1/system").json()["services"]
            }

    assert -305 < services["trainer"]["clock_skew_s"] < -295
    assert abs(services["redis"]["clock_skew_s"]) < 5
    assert services["rollout"]["clock_skew_s"] is None, "of a release that does not say its time"


def test_what_listens_nowhere_states_release_memory_and_its_last_error(
    api: tuple[httpx.Client, Resources],
) -> None:
    http, resources = api
    MEMORY.newest = LoggedError("events not read: refused", datetime(2026, 1, 1, tzinfo=UTC))
    with resources.database.begin() as session:
        beat(session, "recorder")
    MEMORY.newest = None
    with resources.database.begin() as session:
        beat(session, "recorder")

    services = {service["kind"]: service for service in http.get("/v1/system").json()["services"]}

    recorder, database = services["recorder"], services["postgres"]["database"]
    assert (recorder["state"], recorder["version"]) == ("up", services["api"]["version"])
    assert recorder["rss_bytes"] > 1e6
    assert (recorder["error"], recorder["error_at"]) == ("events not read: refused", 1767225600)
    assert services["redis"]["rss_bytes"] > 0
    assert database["size_bytes"] > 1e6
    assert 0 < database["connections"] <= database["max_connections"]


def test_a_process_that_stopped_is_down_with_what_it_said_last(
    api: tuple[httpx.Client, Resources],
) -> None:
    http, resources = api
    with resources.database.begin() as session:
        session.add(
            Heartbeat(name="scheduler", seen_at=datetime(2026, 1, 1, tzinfo=UTC), error="no broker")
        )

    scheduler = http.get("/v1/system").json()["services"][3]

    assert (scheduler["state"], scheduler["error"]) == (
        "down",
        "Last seen 2026-01-01T00:00:00+00:00. no broker",
    )


def test_without_its_database_the_system_page_still_says_who_is_up(
    redis_url: str, tmp_path: Path
) -> None:
    settings = make_settings(
        f"postgresql+psycopg://nobody@{free_address()}/none", redis_url, tmp_path
    )
    with running_api(settings) as (http, _):
        services = {
            service["kind"]: service for service in http.get("/v1/system").json()["services"]
        }

    assert (services["postgres"]["state"], services["redis"]["state"]) == ("down", "up")
    assert "refused" in services["postgres"]["error"]
    assert services["scheduler"]["error"] == "No heartbeat in the database."


def test_prometheus_metrics_count_requests_and_jobs(
    api: tuple[httpx.Client, Resources], tmp_path: Path
) -> None:
    http, resources = api
    submit(resources.database, tmp_path)
    http.get("/v1/jobs")

    text = http.get("/metrics").text

    assert 'dirl_jobs{status="queued"} 1.0' in text
    assert 'dirl_jobs{status="running"} 0.0' in text
    assert "dirl_jobs_stalled 0.0" in text
    assert 'dirl_queue_depth{queue="events"} 0.0' in text
    assert 'dirl_api_requests_total{method="GET",route="/v1/jobs",status="200"} 1.0' in text


def test_the_openapi_document_describes_every_route_and_the_job_spec(
    api: tuple[httpx.Client, Resources],
) -> None:
    document = api[0].get("/openapi.json").json()

    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert body == {"$ref": "#/components/schemas/JobSpec"}
    assert "rollout_replicas" in schemas["ResourcesSpec"]["properties"]
    assert {"JobView", "TrajectoryDetail", "ErrorEnvelope", "SystemView"} <= schemas.keys()
    operations = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(set(operations)) == len(operations)
    assert set(_references(document)) <= {f"#/components/schemas/{name}" for name in schemas}


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref":
                yield str(item)
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_the_root_page_says_how_to_build_the_dashboard_until_it_is_built(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    dist = tmp_path / "dist"
    with running_api(make_settings(migrated_url, redis_url, tmp_path), dashboard=dist) as (http, _):
        plain = http.get("/")
        (dist / "assets").mkdir(parents=True)
        (dist / "index.html").write_text("<title>dashboard</title>")
        (dist / "assets" / "app.js").write_text("run()")
        (tmp_path / "secret.txt").write_text("secret")
        built, deep, asset = http.get("/"), http.get("/jobs/job_1"), http.get("/assets/app.js")
        missing = http.get("/assets/other.js")
        outside = [
            http.get(path).text
            for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt")
        ]

    assert "not built" in plain.text
    assert "/docs" in plain.text
    assert built.text == deep.text == "<title>dashboard</title>"
    assert (asset.text, "immutable" in asset.headers["cache-control"]) == ("run()", True)
    assert missing.status_code == 404
    assert all("secret" not in text.replace("secret.txt", "") for text in outside)


def test_the_demos_job_is_made_with_a_model_from_the_first_trainer_that_answers(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    with serving(ScriptedTrainer()) as trainer:
        settings = make_settings(
            migrated_url, redis_url, tmp_path, trainer_addresses=(free_address(), trainer)
        )
        with running_api(settings) as (http, _):
            job = http.post("/v1/demo", params={"seed": 5}).json()

    assert (job["state"], job["suffix"]) == ("queued", "arithmetic")
    assert job["spec"]["model"] == str(tmp_path / "demo" / "5" / "model")


def test_without_a_trainer_the_demo_is_refused_and_says_why(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = make_settings(migrated_url, redis_url, tmp_path, trainer_addresses=(free_address(),))
    with running_api(settings) as (http, _):
        answer = http.post("/v1/demo")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "trainer_unavailable")


def test_the_api_imports_no_torch() -> None:
    program = (
        "import sys, services.api.http.app, services.api.recorder, services.api.scheduler.tasks;"
        "print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "\n"


def test_the_process_serves_and_ends_on_sigterm_with_a_stream_open(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    address = free_address()
    environment = {
        "DIRL_DATABASE_URL": migrated_url,
        "DIRL_REDIS_URL": redis_url,
        "DIRL_DATA_DIR": str(tmp_path),
        "DIRL_API_LISTEN": address,
    }
    with (
        running_process("services.api", tmp_path / "api.log", environment) as process,
        httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=20) as http,
    ):
        process.wait_until(lambda: "api ready" in process.output(), "ready")
        settings = make_settings(migrated_url, redis_url, tmp_path)
        with running_api(settings) as (_, resources):
            job_id = submit(resources.database, tmp_path)
        stream = http.stream(
            "GET", f"/v1/jobs/{job_id}/events", headers={"accept": "text/event-stream"}
        )
        with stream as answer:
            lines = answer.iter_lines()  # dropped, it would close the connection
            next(lines)
            status = process.terminate()

        assert status == 0, process.output()
        assert "Traceback" not in process.output()
        assert "graceful shutdown exceeded" not in process.output()
        assert process.group_is_gone()


def test_a_process_without_settings_says_what_is_missing_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.api"],
        cwd=ROOT,
        env={"PATH": "", "DIRL_API_LISTEN": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "DIRL_DATABASE_URL" in done.stderr
    assert "DIRL_API_LISTEN" in done.stderr
