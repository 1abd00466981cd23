"""What a job left behind: events (listed and streamed), metrics, checkpoints, evaluations,
trajectories, attempts.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from services.api.db.database import Database
from services.api.db.job_tables import Attempt
from services.api.db.jobs import lock_job, transition
from services.api.db.record_tables import Checkpoint, Export
from services.api.domain.job_state import JobState
from services.api.recorder.apply import apply_events
from services.common.codec import group_to_json
from services.common.events import Event, EventType
from services.common.trajectory import Outcome, Verdict
from tests.support.builders import prompt_task, scored_group, trajectory
from tests.support.control_plane import (
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    submit,
)
from tests.support.servers import Postgres


@dataclass
class Records:
    """A running job, and the way its events arrive."""

    http: httpx.Client
    database: Database
    job_id: str
    seq: int = 0

    def record(self, *facts: tuple[EventType, dict[str, Any]], attempt: int = 1) -> None:
        """What the recorder does."""
        events = []
        for kind, data in facts:
            self.seq += 1
            events.append(
                Event(
                    job_id=self.job_id,
                    attempt=attempt,
                    seq=self.seq,
                    type=kind,
                    time=1e9 + self.seq,
                    data=data,
                )
            )
        with self.database.begin() as session:
            apply_events(session, self.job_id, attempt, events)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Of this job."""
        answer = self.http.get(f"/v1/jobs/{self.job_id}{path}", params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def finish(self, state: JobState) -> None:
        """End the job."""
        with self.database.begin() as session:
            transition(session, lock_job(session, self.job_id), state)

    def next_attempt(self) -> None:
        """Begin attempt 2."""
        self.seq = 0
        with self.database.begin() as session:
            session.execute(
                update(Attempt).values(ended_at=lock_job(session, self.job_id).started_at)
            )
            transition(session, lock_job(session, self.job_id), JobState.PROVISIONING)
        run_attempt(self.database, self.job_id, "127.0.0.1:10")


@pytest.fixture
def records(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Records]:
    """A job whose first attempt runs."""
    with (
        migrated_database(postgres_server) as url,
        running_api(make_settings(url, redis_url, tmp_path)) as (client, resources),
    ):
        job_id = submit(resources.database, tmp_path)
        run_attempt(resources.database, job_id)
        yield Records(client, resources.database, job_id)


def log(message: str) -> tuple[EventType, dict[str, Any]]:
    return EventType.LOG, {"level": "info", "code": "note", "message": message}


def metrics(step: int, **values: float) -> tuple[EventType, dict[str, Any]]:
    return EventType.METRICS, {"step": step, "values": values}


def checkpoint(step: int) -> tuple[EventType, dict[str, Any]]:
    data = {
        "step": step,
        "stage": "rl",
        "path": f"/c/{step}",
        "weight_version": step,
        "weight_digest": "d",
        "bytes": 9,
    }
    return EventType.CHECKPOINT, {**data, "deleted": []}


def group(step: int, position: int, *outcomes: Outcome) -> tuple[EventType, dict[str, Any]]:
    name = f"1_1_train_{step}_{position}"
    task = prompt_task(group_id=f"grp_{name}", ledger_position=position)
    scored = scored_group(
        group_id=task.group_id,
        trajectories=tuple(
            trajectory(
                trajectory_id=f"traj_{name}_{index}",
                response_index=index,
                verdict=Verdict(
                    outcome=outcome, rewards={"accuracy": float(outcome is Outcome.CORRECT)}
                ),
            )
            for index, outcome in enumerate(outcomes)
        ),
    )
    facts = {
        "step": step,
        "purpose": "train",
        "disposition": "trained",
        "advantages": [0.5] * len(outcomes),
    }
    return EventType.TRAJECTORIES, {**facts, "group": group_to_json(task, scored)}


def test_a_running_job_shows_phase_progress_estimate_and_latest_metrics(records: Records) -> None:
    facts = {"stage": "rl", "stage_steps": 10, "total_steps": 12}
    records.record(
        (EventType.PHASE, {"phase": "train", "stage": "rl", "waiting_for": None}),
        (EventType.PROGRESS, {**facts, "stage_step": 0, "step": 2}),
        metrics(3, a=1.0, b=2.0),
        metrics(4, a=3.0),
        (EventType.PROGRESS, {**facts, "stage_step": 2, "step": 4}),
    )

    job = records.get("")

    assert (job["state"], job["phase"], job["stage"]) == ("running", "train", "rl")
    assert job["progress"] == {
        **facts,
        "stage_step": 2,
        "step": 4,
        "fraction": pytest.approx(1 / 3),
    }
    # Two steps in 3 s (events 2 and 5), eight are left: 12 s after event 5.
    assert job["estimated_finish"] == 1_000_000_005 + 12
    assert job["latest_metrics"] == {"a": 3.0, "b": 2.0}


def test_events_are_paged_oldest_first_and_selected_by_type(records: Records) -> None:
    records.record(*[log(str(number)) for number in range(5)])

    first = records.get("/events", type="log", limit=3)
    second = records.get("/events", type="log", limit=3, after=first["last_id"])

    assert [event["data"]["message"] for page in (first, second) for event in page["data"]] == list(
        "01234"
    )
    assert (first["has_more"], second["has_more"]) == (True, False)
    everything = records.get("/events")["data"]
    assert [event["type"] for event in everything] == [
        "state",
        "state",
        "attempt",
        "state",
        *["log"] * 5,
    ]


def read_stream(lines: Iterator[str], count: int) -> list[dict[str, str]]:
    """The next frames of a stream of server-sent events."""
    frames: list[dict[str, str]] = []
    frame: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            frame[name] = value
            continue
        frames.append(frame)
        frame = {}
        if len(frames) == count:
            break
    return frames


def test_a_stream_of_events_resumes_after_the_last_event_id_and_continues_live(
    records: Records,
) -> None:
    records.record(log("0"), log("1"), log("2"))
    url, accept = f"/v1/jobs/{records.job_id}/events?type=log", {"accept": "text/event-stream"}
    with records.http.stream("GET", url, headers=accept) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        before = read_stream(answer.iter_lines(), 2)

    with records.http.stream(
        "GET", url, headers={**accept, "last-event-id": before[-1]["id"]}
    ) as answer:
        lines = answer.iter_lines()
        resumed = read_stream(lines, 1)
        writer = threading.Thread(target=records.record, args=(log("3"),))
        writer.start()
        live = read_stream(lines, 1)
        writer.join()

    frames = [*before, *resumed, *live]
    assert [json.loads(frame["data"])["data"]["message"] for frame in frames] == list("0123")
    assert {frame["event"] for frame in frames} == {"log"}
    assert [json.loads(frame["data"])["id"] for frame in frames] == [
        frame["id"] for frame in frames
    ]


def test_the_stream_of_a_finished_job_ends(records: Records) -> None:
    records.record(log("0"))
    records.finish(JobState.SUCCEEDED)

    answer = records.http.get(
        f"/v1/jobs/{records.job_id}/events", headers={"accept": "text/event-stream"}
    )

    frames = answer.text.strip().split("\n\n")
    assert len(frames) == 4 + 1 + 1 + 1  # three states and an attempt, the log, success, the end
    assert frames[-1] == "event: done\ndata: [DONE]"


def test_metrics_come_as_series_by_name_step_and_number_of_points(records: Records) -> None:
    records.record(*[metrics(step, a=float(step), b=0.0) for step in range(1, 101)])

    [a] = records.get("/metrics", names="a", from_step=11, to_step=60)["data"]
    both = records.get("/metrics", names="b,a", downsample=10)["data"]

    assert (a["steps"], a["values"]) == (
        list(range(11, 61)),
        [float(step) for step in range(11, 61)],
    )
    assert [series["name"] for series in both] == ["a", "b"]
    assert all(len(series["steps"]) <= 10 and series["num_points"] == 100 for series in both)
    assert (both[0]["steps"][0], both[0]["steps"][-1]) == (1, 100)


def test_what_a_later_attempt_undid_is_not_shown(records: Records) -> None:
    records.record(*[metrics(step, a=1.0) for step in range(1, 6)])
    records.next_attempt()
    records.record(
        (EventType.CERTIFICATE, {"resumed_from": 3, "lost": 0}), metrics(4, a=2.0), attempt=2
    )

    [series] = records.get("/metrics")["data"]
    attempts = records.get("/attempts")["data"]
    [certificate] = records.get("/certificate")["data"]

    assert series["steps"] == [1, 2, 3, 4]
    assert series["attempts"] == [1, 1, 1, 2]
    assert [(attempt["number"], attempt["resumed_from"]) for attempt in attempts] == [
        (1, None),
        (2, 3),
    ]
    assert (certificate["attempt"], certificate["certificate"]) == (
        2,
        {"resumed_from": 3, "lost": 0},
    )


def test_checkpoints_and_evaluations_are_listed(records: Records) -> None:
    results = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    facts = {"step": 2, "stage": "rl", "dataset": "validation", "results": results}
    removed = (EventType.CHECKPOINT, {**checkpoint(2)[1], "deleted": ["/c/1"]})
    records.record(checkpoint(1), removed, (EventType.EVALUATION, facts))

    [kept] = records.get("/checkpoints")["data"]
    everything = records.get("/checkpoints", deleted=True)["data"]
    [evaluation] = records.get("/evals")["data"]

    assert (kept["step"], kept["deleted_at"], kept["bytes"]) == (2, None, 9)
    assert [item["step"] for item in everything] == [1, 2]
    assert everything[0]["deleted_at"] is not None
    assert (evaluation["dataset"], evaluation["results"]) == ("validation", results)
    assert records.http.get(f"/v1/checkpoints/{kept['id']}").json() == kept


def test_prompts_have_their_pass_rate_over_time_in_the_order_asked_for(records: Records) -> None:
    records.record(
        (EventType.PROMPT_RESULTS, {"step": 1, "stage": "rl", "results": [[4, 8, 2, "four"], [1, 8, 8, "one"]]}),
        (EventType.PROMPT_RESULTS, {"step": 2, "stage": "rl", "results": [[4, 8, 8, "four"]]}),
        # Of a later attempt, which repeated step 2.
        (EventType.PROMPT_RESULTS, {"step": 2, "stage": "rl", "results": [[4, 8, 6, "four"]]}),
    )  # fmt: skip

    path = f"/v1/jobs/{records.job_id}/prompts"
    one, four = records.http.get(path).json()["data"]
    assert (four["row"], four["excerpt"], four["attempts"], four["successes"]) == (4, "four", 16, 8)
    assert (four["pass_rate"], four["steps"], four["pass_rates"]) == (0.5, [1, 2], [0.25, 0.75])
    assert (one["row"], one["pass_rate"]) == (1, 1.0)
    hardest = records.http.get(path, params={"order": "hardest", "limit": 1}).json()
    assert ([item["row"] for item in hardest["data"]], hardest["has_more"]) == ([4], True)
    assert records.http.get(path, params={"order": "best"}).status_code in (400, 422)
    assert records.http.get("/v1/jobs/job_nope/prompts").status_code == 404


def test_an_export_is_asked_for_once(records: Records) -> None:
    records.record(checkpoint(1))
    checkpoint_id = records.get("/checkpoints")["data"][0]["id"]

    first = records.http.post(f"/v1/checkpoints/{checkpoint_id}/export")
    second = records.http.post(f"/v1/checkpoints/{checkpoint_id}/export")

    assert first.status_code == 201
    assert (first.json()["state"], first.json()["model_id"]) == ("queued", None)
    assert second.json()["id"] == first.json()["id"]
    assert records.http.get(f"/v1/exports/{first.json()['id']}").json() == first.json()
    with records.database.begin() as session:
        assert len(session.scalars(select(Export)).all()) == 1


def test_a_removed_checkpoint_is_not_exported(records: Records) -> None:
    records.record(checkpoint(1))
    with records.database.begin() as session:
        row = session.scalars(select(Checkpoint)).one()
        row.deleted_at = row.created_at

    answer = records.http.post(f"/v1/checkpoints/{row.id}/export")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


def test_trajectories_are_paged_and_selected(records: Records) -> None:
    right, wrong = Outcome.CORRECT, Outcome.INCORRECT
    records.record(group(1, 0, right, wrong), group(1, 1, wrong, wrong), group(2, 0, right, right))

    def found(**params: Any) -> list[str]:
        return [item["id"] for item in records.get("/trajectories", **params)["data"]]

    everything = found(limit=100)
    first = records.get("/trajectories", limit=3)
    assert len(everything) == 6
    assert found(limit=100, after=first["last_id"]) == everything[3:]
    assert first["has_more"] is True
    assert found(step=2) == everything[4:]
    assert found(group_id="grp_1_1_train_1_1") == everything[2:4]
    assert found(outcome="correct") == [everything[0], *everything[4:]]
    assert found(min_reward=0.5) == [everything[0], *everything[4:]]
    assert found(purpose="eval") == []
    assert found(outcome="correct", limit=1, after=everything[0]) == [everything[4]]


def test_one_trajectory_has_everything_that_the_model_produced(records: Records) -> None:
    records.record(group(1, 0, Outcome.CORRECT))

    item = records.http.get("/v1/trajectories/traj_1_1_train_1_0_0").json()

    assert item["token_ids"] == [8, 9, 2, 10]
    assert item["unmask_step"] == [1, 2, 2, 3]
    assert item["logprobs"] == [-0.5, -0.25, -1.0, -2.0]
    assert (item["prompt_ids"], item["block_size"], item["mask_token_id"]) == ([5, 6, 7], 4, 1)
    assert (item["outcome"], item["reward"], item["advantage"], item["reference_answer"]) == (
        "correct",
        1.0,
        0.5,
        "42",
    )
    assert item["verdict"]["rewards"] == {"accuracy": 1.0}
    assert item["row"] == {}
    assert records.http.get("/v1/trajectories/traj_1_1_train_1_0_1").status_code == 404
