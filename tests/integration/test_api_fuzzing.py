"""Requests made from the OpenAPI document, sound and unsound: no 5xx, and every answer is as the
document says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.api.settings import ApiSettings
from tests.support.control_plane import job_body, make_settings, migrated_database, running_api
from tests.support.servers import Postgres

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NEEDS_SERVICES = {503, 504}
"""Answers of operations whose trainer or replica is not there."""
SLOW_PATH = "/v1/demo"
"""Makes a model in a process of its own, for seconds; it has a test of its own."""


@pytest.fixture
def http(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """An API with a job of every kind that needs no service."""
    with migrated_database(postgres_server) as url:
        values: ApiSettings = make_settings(url, redis_url, tmp_path / "data")
        with running_api(values) as (client, _):
            yield client


def known_ids(http: httpx.Client, directory: Path) -> dict[str, str]:
    """Something that exists for every parameter that can be filled, so that not all requests end as
    404.
    """
    body = job_body(directory)
    job = http.post("/v1/jobs", json=body).json()["id"]
    http.post(f"/v1/jobs/{job}/cancel")
    file = http.post(
        "/v1/files", files={"file": ("rows.jsonl", Path(body["training_file"]).read_bytes())}
    ).json()["id"]
    model = http.post("/v1/models", json={"path": body["model"]}).json()["id"]
    return {"job_id": job, "file_id": file, "model_id": model}


class Attempts:
    """Requests that are made and looked at."""

    def __init__(self) -> None:
        self.made, self.known = 0, dict[str, str]()

    def make(self, case: Any) -> None:
        """Send a request; every second one names something that exists."""
        self.made += 1
        if self.made % 2:
            given_ids = case.path_parameters or {}
            case.path_parameters = {
                name: self.known.get(name, value) for name, value in given_ids.items()
            }
        if case.query:
            case.query.pop("follow", None)  # a stream of a job that is queued again does not end
        response = case.call()
        if response.status_code not in NEEDS_SERVICES:
            case.validate_response(response, checks=CHECKS)


def fuzz(http: httpx.Client, directory: Path, examples: int) -> int:
    """Try every operation `examples` times; returns how many requests were made."""
    schema = schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")
    attempts = Attempts()
    for found in schema.get_all_operations():
        if found.ok().path == SLOW_PATH:
            continue
        attempts.known = known_ids(http, directory)  # afresh: operations delete, too
        explored = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        explored(given(case=found.ok().as_strategy())(lambda case: attempts.make(case)))()
    return attempts.made


def test_no_request_breaks_the_api_and_every_answer_is_as_documented(
    http: httpx.Client, tmp_path: Path
) -> None:
    assert fuzz(http, tmp_path, 3) > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_requests_break_nothing(http: httpx.Client, tmp_path: Path) -> None:
    assert fuzz(http, tmp_path, 110) >= 5000
