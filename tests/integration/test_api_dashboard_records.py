"""What the dashboard reads: groups, token texts, series of several jobs, newest events, queues."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.db.record_tables import TrajectoryGroup
from services.common.model.tiny import character_tokenizer
from services.common.streams import PromptQueue, connect, stream_names
from services.common.trajectory import Outcome
from tests.integration.test_api_records import Records, group, log, metrics
from tests.support.builders import prompt_task
from tests.support.control_plane import (
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    submit,
)
from tests.support.servers import Postgres

RIGHT, WRONG = Outcome.CORRECT, Outcome.INCORRECT


@pytest.fixture
def records(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Records]:
    """A job whose first attempt runs, of a model that has a tokenizer."""
    with (
        migrated_database(postgres_server) as url,
        running_api(make_settings(url, redis_url, tmp_path)) as (client, resources),
    ):
        job_id = submit(resources.database, tmp_path)
        run_attempt(resources.database, job_id)
        character_tokenizer().save_pretrained(tmp_path / "model")
        yield Records(client, resources.database, job_id)


def test_groups_are_listed_newest_first_with_what_became_of_each_response(records: Records) -> None:
    records.record(group(1, 0, RIGHT, WRONG), group(1, 1, WRONG, WRONG), group(2, 0, RIGHT, RIGHT))

    page = records.get("/groups", limit=2)
    rest = records.get("/groups", after=page["last_id"])

    assert [item["id"] for item in (*page["data"], *rest["data"])] == [
        "grp_1_1_train_2_0",
        "grp_1_1_train_1_1",
        "grp_1_1_train_1_0",
    ]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    oldest = rest["data"][0]
    assert oldest["outcomes"] == ["correct", "incorrect"]
    assert oldest["rewards"] == [1.0, 0.0]
    assert oldest["trajectory_ids"] == ["traj_1_1_train_1_0_0", "traj_1_1_train_1_0_1"]
    # Ids 5, 6 and 7 of the character tokenizer.
    assert (oldest["prompt"], oldest["reference_answer"]) == ("$%&", "42")


def test_groups_are_selected_by_outcome_and_by_disagreement(records: Records) -> None:
    records.record(group(1, 0, RIGHT, WRONG), group(1, 1, WRONG, WRONG), group(2, 0, RIGHT, RIGHT))

    def found(**params: Any) -> list[str]:
        return [
            item["id"].removeprefix("grp_1_1_train_")
            for item in records.get("/groups", **params)["data"]
        ]

    assert found(outcome="correct") == ["2_0", "1_0"]
    assert found(mixed=True) == ["1_0"]
    assert found(step=1) == ["1_1", "1_0"]
    assert found(purpose="eval") == []
    assert found(group_id="grp_1_1_train_1_1") == ["1_1"]
    assert (
        records.http.get(f"/v1/jobs/{records.job_id}/groups", params={"after": "grp_9"}).status_code
        == 404
    )


def test_staleness_is_the_distance_between_the_weights_that_sampled_and_those_that_trained(
    records: Records,
) -> None:
    records.record(group(9, 0, RIGHT))
    with records.database.begin() as session:
        row = session.get_one(TrajectoryGroup, "grp_1_1_train_9_0")
        version = row.payload["group"]["trajectories"][0]["weight_version"]

    [item] = records.get("/groups")["data"]

    # Step 9 trains version 8.
    assert item["staleness"] == 8 - version


def test_a_trajectory_has_the_text_of_every_token_and_of_its_prompt(records: Records) -> None:
    records.record(group(1, 0, RIGHT))

    item = records.http.get("/v1/trajectories/traj_1_1_train_1_0_0").json()

    vocabulary = character_tokenizer().convert_ids_to_tokens(item["token_ids"])
    assert item["tokens"] == vocabulary
    assert item["prompt"] == "$%&"


def test_without_a_tokenizer_the_ids_are_still_shown(records: Records, tmp_path: Path) -> None:
    records.record(group(1, 0, RIGHT))
    (tmp_path / "model" / "tokenizer.json").unlink()

    item = records.http.get("/v1/trajectories/traj_1_1_train_1_0_0").json()

    assert (item["tokens"], item["prompt"]) == (None, None)
    assert item["token_ids"] == [8, 9, 2, 10]
    assert records.get("/groups")["data"][0]["prompt"] is None


def test_series_of_several_jobs_come_in_one_answer(records: Records, tmp_path: Path) -> None:
    records.record(*[metrics(step, a=float(step), b=1.0) for step in range(1, 31)])
    other = Records(records.http, records.database, submit(records.database, tmp_path))
    run_attempt(other.database, other.job_id, "127.0.0.1:11")
    other.record(metrics(1, a=7.0))

    wanted = {"job_id": [other.job_id, records.job_id], "names": "a", "downsample": 10}
    found = records.http.get("/v1/metrics", params=wanted).json()["data"]

    assert [(item["job_id"], item["name"]) for item in found] == [
        (other.job_id, "a"),
        (records.job_id, "a"),
    ]
    assert found[0]["values"] == [7.0]
    assert (len(found[1]["steps"]) <= 10, found[1]["num_points"]) == (True, 30)
    assert records.http.get("/v1/metrics", params={"job_id": "job_none"}).status_code == 404


def test_events_are_listed_newest_first_on_demand(records: Records) -> None:
    records.record(*[log(str(number)) for number in range(5)])

    first = records.get("/events", type="log", order="desc", limit=3)
    rest = records.get("/events", type="log", order="desc", after=first["last_id"])

    assert [event["data"]["message"] for page in (first, rest) for event in page["data"]] == list(
        "43210"
    )
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_a_stream_from_the_jobs_last_event_misses_nothing_and_repeats_nothing(
    records: Records,
) -> None:
    records.record(log("0"), log("1"))
    job = records.get("")
    records.record(log("2"))

    after = records.get("/events", after=job["last_event_id"])["data"]

    assert [event["data"]["message"] for event in after] == ["2"]


def test_queues_show_what_waits_of_every_running_attempt(records: Records, redis_url: str) -> None:
    client = connect(redis_url)
    queue = PromptQueue(client, stream_names(records.job_id, 1).prompts)
    for position in range(3):
        queue.add(prompt_task(job_id=records.job_id, ledger_position=position))

    queues = {item["name"]: item for item in records.http.get("/v1/queues").json()["data"]}
    client.close()

    assert set(queues) == {"prompts", "groups", "events"}
    assert (queues["prompts"]["entries"], queues["prompts"]["job_id"]) == (3, records.job_id)
    assert queues["prompts"]["oldest_age_s"] >= 0
    assert queues["prompts"]["bytes"] > 0
    assert (queues["groups"]["entries"], queues["groups"]["oldest_age_s"]) == (0, None)


def test_long_responses_are_compressed_for_clients_that_accept_it(records: Records) -> None:
    path = "/openapi.json"

    packed = records.http.get(path, headers={"accept-encoding": "gzip"})
    plain = records.http.get(path, headers={"accept-encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
