"""`?dry_run=true`: what can be said of a job before it runs, and when it is better not run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from services.api.db.series import Metric
from services.common.model.tiny import make_tiny_model
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc, types_pb2
from services.common.rpc.server import RpcServer
from tests.support.control_plane import (
    NOWHERE,
    job_body,
    make_settings,
    migrated_database,
    running_api,
)
from tests.support.replicas import real_replica
from tests.support.servers import Postgres


class ScriptedVerifier(reward_pb2_grpc.RewardServiceServicer):
    """Grades every n-th response correct; 0 grades none so."""

    def __init__(self, correct_every: int) -> None:
        self.correct_every = correct_every

    def Verify(
        self, request: reward_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> reward_pb2.VerifyResponse:
        outcomes = [
            types_pb2.OUTCOME_CORRECT
            if self.correct_every and index % self.correct_every == 0
            else types_pb2.OUTCOME_INCORRECT
            for index in range(len(request.items))
        ]
        return reward_pb2.VerifyResponse(
            verdicts=[
                types_pb2.Verdict(
                    outcome=outcome,
                    rewards={"accuracy": float(outcome == types_pb2.OUTCOME_CORRECT)},
                )
                for outcome in outcomes
            ]
        )


@contextmanager
def verifier(correct_every: int) -> Iterator[str]:
    """Address of a reward service."""
    servicer = ScriptedVerifier(correct_every)
    server = RpcServer(
        "127.0.0.1:0",
        lambda target: reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, target),
        [],
    )
    try:
        yield server.address
    finally:
        server.stop(lambda: None)


@contextmanager
def api(postgres: Postgres, redis_url: str, directory: Path, reward: str) -> Iterator[httpx.Client]:
    """An API with one real replica."""
    with migrated_database(postgres) as url, real_replica(redis_url) as (_, replica):
        settings = make_settings(
            url, redis_url, directory / "data", rollout_addresses=(replica,), reward_address=reward
        )
        with running_api(settings) as (http, _):
            yield http


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


def body(directory: Path, model: Path, **values: Any) -> dict[str, Any]:
    """A reinforcement job."""
    spec = job_body(directory, method="rl", sampling={"max_new_tokens": 8}, **values)
    return {**spec, "model": str(model)}


@pytest.mark.parametrize(("correct_every", "rate", "accepted"), [(2, 0.0, True), (0, 1.0, False)])
def test_a_probe_says_whether_the_base_model_can_learn_from_the_prompts(
    postgres_server: Postgres,
    redis_url: str,
    tmp_path: Path,
    tiny: Path,
    correct_every: int,
    rate: float,
    accepted: bool,
) -> None:
    with (
        verifier(correct_every) as reward,
        api(postgres_server, redis_url, tmp_path, reward) as http,
    ):
        answer = http.post("/v1/jobs", params={"dry_run": True}, json=body(tmp_path, tiny))
        jobs = http.get("/v1/jobs").json()["data"]

    found = answer.json()
    assert (answer.status_code, found["object"], jobs) == (200, "job.estimate", [])
    assert (found["probe"]["prompts"], found["probe"]["zero_variance_rate"]) == (4, rate)
    assert (found["accepted"], [problem["path"] for problem in found["problems"]]) == (
        accepted,
        [] if accepted else ["rl"],
    )
    assert found["steps"] == {"rl": 100}
    [file] = found["files"].values()
    assert (file["rows"], file["rl_rows"]) == (4, 4)
    assert 0 < file["longest_prompt_tokens"] == file["longest_sample_tokens"] - 8
    assert (file["rows_too_long"], found["seconds"], found["seconds_from"]) == (0, None, None)
    assert found["parameters"] > 1000
    assert found["memory_bytes"] == 16 * found["parameters"]
    assert found["activation_bytes"] > 10_000


def test_a_job_whose_checkpoints_do_not_fit_on_the_disk_is_refused_by_the_estimate(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, tiny: Path
) -> None:
    spec = body(tmp_path, tiny, checkpoint={"keep_last": 10**12})
    with api(postgres_server, redis_url, tmp_path, NOWHERE) as http:
        found = http.post("/v1/jobs", params={"dry_run": True}, json=spec).json()
        refused = http.post("/v1/jobs", json=spec)

    assert (found["accepted"], [problem["path"] for problem in found["problems"]]) == (
        False,
        ["checkpoint.keep_last"],
    )
    assert found["probe"] is None
    assert "Verify" in found["probe_skipped"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "preflight_failed")
    assert refused.json()["error"]["param"] == "checkpoint.keep_last"


def test_a_preflight_refuses_a_job_that_its_estimate_speaks_against(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, tiny: Path
) -> None:
    with verifier(0) as reward, api(postgres_server, redis_url, tmp_path, reward) as http:
        refused = http.post("/v1/jobs", params={"preflight": True}, json=body(tmp_path, tiny))
        unasked = http.post("/v1/jobs", json=body(tmp_path, tiny))

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "preflight_failed")
    assert "cannot learn" in refused.json()["error"]["message"]
    assert unasked.status_code == 201


def test_rows_that_are_all_too_long_are_measured_and_objected_to(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, tiny: Path
) -> None:
    with api(postgres_server, redis_url, tmp_path, NOWHERE) as http:
        spec = body(tmp_path, tiny, prompt={"max_prompt_tokens": 1})
        found = http.post("/v1/jobs", params={"dry_run": True}, json=spec).json()

    [file] = found["files"].values()
    assert file["rows_too_long"] == file["rows"] == 4
    assert (found["accepted"], {problem["path"] for problem in found["problems"]}) == (
        False,
        {"training_file", "validation_file"},
    )


def test_the_time_of_a_job_is_estimated_from_the_pace_of_an_earlier_one_also_of_another_model(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, tiny: Path
) -> None:
    spec = body(tmp_path, tiny, rl={"steps": 10, "prompts_per_step": 4})
    with migrated_database(postgres_server) as url:
        settings = make_settings(url, redis_url, tmp_path / "data")
        with running_api(settings) as (http, resources):
            earlier = http.post("/v1/jobs", json=spec).json()["id"]
            with resources.database.begin() as session:
                session.add_all(
                    Metric(job_id=earlier, name="time/step_s", attempt=1, step=step, value=seconds)
                    for step, seconds in enumerate((90.0, 2.0, 3.0, 4.0, 2.0))
                )
            twice = {**spec, "rl": {"steps": 10, "prompts_per_step": 8}}
            found = http.post("/v1/jobs", params={"dry_run": True}, json=twice).json()
            make_tiny_model(tmp_path / "wide", seed=0, hidden_size=32, layers=1, heads=2)
            other = {**spec, "model": str(tmp_path / "wide")}
            rough = http.post("/v1/jobs", params={"dry_run": True}, json=other).json()

    # the median of 3 s a step, twice the prompts in each of 10 steps
    assert (found["seconds"], found["seconds_from"], found["seconds_are_rough"]) == (
        60.0,
        earlier,
        False,
    )
    assert (rough["seconds_from"], rough["seconds_are_rough"]) == (earlier, True)
    assert rough["seconds"] == pytest.approx(30.0 * rough["parameters"] / found["parameters"])
    assert rough["parameters"] > found["parameters"]


def test_a_spec_with_faults_gets_all_of_them_and_no_estimate(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    with api(postgres_server, redis_url, tmp_path, NOWHERE) as http:
        answer = http.post(
            "/v1/jobs", params={"dry_run": True}, json={"model": "x", "method": "rl"}
        )

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "spec_invalid")
