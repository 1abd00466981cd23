"""Graders, reference answer audit and rescoring over HTTP, with a real reward service behind the API."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.api.db.database import Database
from services.api.recorder.apply import apply_events
from services.common.codec import group_to_json
from services.common.events import Event, EventType
from services.common.trajectory import Outcome, Verdict
from tests.support.builders import prompt_task, scored_group, trajectory
from tests.support.control_plane import (
    NOWHERE,
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    submit,
)
from tests.support.processes import running_grpc_service
from tests.support.servers import Postgres, free_address


@pytest.fixture(scope="module")
def reward_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = free_address()
    environment = {
        "DIRL_REWARD_LISTEN": address,
        "DIRL_REWARD_WORKERS": "1",
        "DIRL_REWARD_TIMEOUT_S": "20",
    }
    log = tmp_path_factory.mktemp("reward") / "log"
    with running_grpc_service("services.reward", log, address, environment):
        yield address


@contextmanager
def api(
    server: Postgres, redis_url: str, directory: Path, reward: str
) -> Iterator[tuple[httpx.Client, Database]]:
    with ExitStack() as stack:
        url = stack.enter_context(migrated_database(server))
        settings = make_settings(url, redis_url, directory / "data", reward_address=reward)
        client, resources = stack.enter_context(running_api(settings))
        yield client, resources.database


@pytest.fixture
def platform(
    postgres_server: Postgres, redis_url: str, tmp_path: Path, reward_address: str
) -> Iterator[tuple[httpx.Client, Database]]:
    with api(postgres_server, redis_url, tmp_path, reward_address) as opened:
        yield opened


@pytest.fixture
def http(platform: tuple[httpx.Client, Database]) -> httpx.Client:
    return platform[0]


def post(http: httpx.Client, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def upload(http: httpx.Client, *rows: dict[str, Any]) -> dict[str, Any]:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answer = http.post(
        "/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"}
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_grader_is_validated_and_an_unknown_one_answered_with_the_known(
    http: httpx.Client,
) -> None:
    valid = post(http, "/v1/graders/validate", {"grader": {"name": "short", "type": "cosine"}})
    assert valid["grader"]["correct_long"] == 0.5

    error = post(http, "/v1/graders/validate", {"grader": "acuracy"}, 400)["error"]
    assert error["code"] == "invalid_request"
    assert "'accuracy', 'boxed', 'format'" in error["message"]


def test_a_grader_is_run_on_one_response(http: httpx.Client) -> None:
    parts = {
        "right": {"type": "accuracy"},
        "code": {"type": "python", "source": "def grade(sample, item): return 0.5"},
    }
    multi = {"name": "m", "type": "multi", "graders": parts, "calculate_output": "right + code"}
    body = {"grader": multi, "model_sample": "so it is 42", "item": {"reference_answer": "42"}}
    result = post(http, "/v1/graders/run", body)
    assert result["reward"] == 1.5
    assert result["sub_rewards"] == {"right": 1.0, "code": 0.5}
    assert result["verdict"]["extraction_method"] == "last_number"


def test_a_grader_that_fails_gives_no_reward_and_says_why(http: httpx.Client) -> None:
    grader = {
        "name": "p",
        "type": "python",
        "source": "def grade(sample, item): return open('/etc/passwd')",
    }
    body = {"grader": grader, "model_sample": r"\boxed{42}", "item": {"reference_answer": "42"}}
    result = post(http, "/v1/graders/run", body)
    assert result["reward"] is None
    assert result["metadata"]["errors"]["python_grader_runtime_error"]
    # Which error it is depends on the isolation: bubblewrap has no such file, seccomp lets none be opened.
    assert "python_error" in result["metadata"]["errors"]["details"]


def test_a_job_whose_grader_needs_what_is_not_installed_is_refused(
    http: httpx.Client, platform: tuple[httpx.Client, Database], tmp_path: Path
) -> None:
    submit(platform[1], tmp_path)  # writes the model
    own = {"name": "own", "type": "endpoint", "endpoint": "elsewhere"}
    body = {
        "model": str(tmp_path / "model"),
        "training_file": upload(http, {"prompt": "a"})["id"],
        "method": "rl",
        "reward": {"graders": [own]},
    }
    error = post(http, "/v1/jobs", body, 400)["error"]
    assert [problem["path"] for problem in error["problems"]] == ["reward.graders"]
    assert "The installation has no endpoint 'elsewhere'; it has: none" in error["message"]

    tried = {"grader": own, "model_sample": "a"}
    assert post(http, "/v1/graders/run", tried, 400)["error"]["code"] == "invalid_request"


def test_reference_answers_are_typed_and_audited_when_a_file_comes_in(
    http: httpx.Client, tmp_path: Path
) -> None:
    reference_answers = upload(
        http,
        {"prompt": "a", "answer": "72"},
        {"prompt": "b", "answer": r"\frac{\pi}{2}"},
        {"prompt": "c", "answer": "(1,2)", "gold_type": "interval"},
        {"prompt": "d", "answer": r"1,2,\ldots,n"},
        {"prompt": "e", "answer": "9^{9^{9^9}}"},
    )["reference_answers"]
    assert reference_answers["types"] == {"integer": 1, "expression": 2, "interval": 1, "list": 1}
    assert (
        reference_answers["audited"],
        reference_answers["num_invalid"],
        reference_answers["num_flagged"],
    ) == (5, 1, 1)
    assert reference_answers["invalid"] == [
        {
            "row": 5,
            "reference_answer": "9^{9^{9^9}}",
            "type": "expression",
            "reason": "reference_answer_invalid",
        }
    ]
    assert reference_answers["flagged"][0]["reason"] == "ellipsis"
    lines = (
        next((tmp_path / "data" / "files").glob("*/.reference_answers.jsonl"))
        .read_text()
        .splitlines()
    )
    assert json.loads(lines[2]) == {"row": 3, "type": "interval", "status": "ok", "reason": ""}


def test_a_file_with_an_invalid_reference_answer_is_refused_for_reinforcement_only(
    http: httpx.Client, platform: tuple[httpx.Client, Database], tmp_path: Path
) -> None:
    rows = (
        {"prompt": "a", "completion": "b", "answer": reference_answer}
        for reference_answer in ("1", "9^{9^{9^9}}")
    )
    file_id = upload(http, *rows)["id"]
    body = {"model": str(tmp_path / "model"), "training_file": file_id}
    submit(platform[1], tmp_path)  # writes the model

    error = post(http, "/v1/jobs", {**body, "method": "rl"}, 400)["error"]
    assert (
        "row 2: reference answer '9^{9^{9^9}}' cannot be verified against itself"
        in error["message"]
    )
    post(http, "/v1/jobs", {**body, "method": "sft"}, 201)


def test_without_a_reward_service_reference_answers_are_typed_and_not_audited(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    with api(postgres_server, redis_url, tmp_path, NOWHERE) as (http, _):
        reference_answers = upload(http, {"prompt": "a", "answer": "72"})["reference_answers"]
    assert (reference_answers["types"], reference_answers["audited"]) == ({"integer": 1}, 0)


def stored_group(job_id: str) -> dict[str, Any]:
    """Two responses that an older verifier graded the wrong way round, and one that could not be
    graded.
    """
    texts = (r"\boxed{0.5}", r"\boxed{3}", r"\boxed{\frac12}")
    outcomes = (Outcome.INCORRECT, Outcome.CORRECT, Outcome.UNVERIFIABLE)
    task = prompt_task(job_id=job_id, reference_answer=r"\frac{1}{2}", num_generations=3)
    group = scored_group(
        group_id=task.group_id,
        trajectories=tuple(
            trajectory(
                trajectory_id=f"traj_1_1_train_0_0_{place}",
                response_index=place,
                text=text,
                verdict=Verdict(
                    outcome=outcome,
                    rewards={"accuracy": float(outcome is Outcome.CORRECT)}
                    if outcome.is_scored
                    else {},
                ),
            )
            for place, (text, outcome) in enumerate(zip(texts, outcomes, strict=True))
        ),
    )
    return {
        "step": 1,
        "purpose": "train",
        "disposition": "trained",
        "group": group_to_json(task, group),
        "rewards": [0.0, 1.0, None],
        "advantages": [-1.0, 1.0, None],
    }


@pytest.fixture
def job_id(platform: tuple[httpx.Client, Database], tmp_path: Path) -> str:
    """A job with one stored group."""
    _, database = platform
    job_id = submit(database, tmp_path)
    run_attempt(database, job_id)
    event = Event(
        job_id=job_id,
        attempt=1,
        seq=1,
        type=EventType.TRAJECTORIES,
        time=1e9,
        data=stored_group(job_id),
    )
    with database.begin() as session:
        apply_events(session, job_id, 1, [event])
    return job_id


def test_a_rescore_lists_verdicts_that_flip_and_the_stored_advantages(
    http: httpx.Client, job_id: str
) -> None:
    report = post(http, f"/v1/jobs/{job_id}/rescore", {})
    assert (
        report["groups"],
        report["trajectories"],
        report["flipped"],
        report["unverifiable"],
    ) == (1, 3, 3, 0)
    assert [flip["now"]["outcome"] for flip in report["flips"]] == [
        "correct",
        "incorrect",
        "correct",
    ]
    # Rewards 1, 0, 1: mean 2/3, population deviation sqrt(2)/3, so (1/3) / (sqrt(2)/3) = 0.7071
    assert [flip["now"]["advantage"] for flip in report["flips"]] == pytest.approx(
        [0.70711, -1.41421, 0.70711], abs=1e-5
    )
    assert report["flips"][2]["before"]["advantage"] is None
    assert report["mean_abs_advantage_change"] == pytest.approx((1.70711 + 2.41421) / 2, abs=1e-5)


def test_another_grader_changes_rewards_and_no_outcome_that_stands(
    http: httpx.Client, job_id: str
) -> None:
    grader = {"name": "box", "type": "boxed", "weight": 0.5}
    report = post(http, f"/v1/jobs/{job_id}/rescore", {"graders": [grader]})
    assert [flip["now"]["reward"] for flip in report["flips"]] == [0.5, 0.5, 0.5]
    assert report["rewards_changed"] == 3


def test_an_unscored_outcome_has_no_number_in_any_view(http: httpx.Client, job_id: str) -> None:
    views = http.get(f"/v1/jobs/{job_id}/trajectories").json()["data"]
    assert [view["outcome"] for view in views] == ["incorrect", "correct", "unverifiable"]
    assert [view["reward"] for view in views] == [0.0, 1.0, None]
    assert [view["advantage"] for view in views] == [-1.0, 1.0, None]
    assert (
        http.get(f"/v1/jobs/{job_id}/trajectories", params={"min_reward": -5}).json()["data"]
        == views[:2]
    )


@pytest.mark.parametrize("body", [{"graders": ["sped"]}, {"graders": []}, {"profil": "rl"}])
def test_a_faulty_query_for_a_rescore_is_refused(
    http: httpx.Client, job_id: str, body: Any
) -> None:
    assert post(http, f"/v1/jobs/{job_id}/rescore", body, 400)["error"]["code"] == "invalid_request"
