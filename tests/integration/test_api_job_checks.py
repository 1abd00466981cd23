"""Every way to a job passes the same checks: submission, fork, rerun, rewind, OpenAI's alias."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.db.job_tables import Job
from services.api.domain.job_state import JobState
from services.common.model.tiny import make_tiny_model
from services.common.model_card import read_model_card
from tests.support.control_plane import job_body, write_rows
from tests.support.hub import COMMIT, run_hub
from tests.support.job_api import Api, job_api
from tests.support.servers import Postgres


@pytest.fixture
def api(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """An API without any other service."""
    with job_api(postgres_server, redis_url, tmp_path) as api:
        yield api


def upload(api: Api) -> str:
    """Id of a file that every stage can use."""
    with write_rows(api.directory / "upload.jsonl").open("rb") as content:
        answer = api.http.post("/v1/files", files={"file": ("rows.jsonl", content)})
    return str(answer.json()["id"])


def problem_paths(answer: Any) -> list[str]:
    """Places of the problems of a refusal."""
    assert answer.status_code == 400, answer.text
    return [problem["path"] for problem in answer.json()["error"]["problems"]]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"sampling.max_new_tokens": 4096}, "sampling.max_new_tokens"),
        ({"sampling": {"max_new_tokens": 4096}}, "sampling.max_new_tokens"),
        ({"resources.rollout_replicas": 50}, "resources.rollout_replicas"),
        ({"resources": {"rollout_replicas": 50}}, "resources.rollout_replicas"),
        ({"sft": {"training_file": "OTHER"}}, "sft.training_file"),
        ({"sft.training_file": "OTHER"}, "sft.training_file"),
        ({"rl": {"training_file": "OTHER"}}, "rl.training_file"),
        (
            {"training_file": None, "training_mixture": [{"file": "OTHER", "weight": 1.0}]},
            "training_mixture",
        ),
        ({"sft.validation_file": "/nowhere/rows.jsonl"}, "sft.validation_file"),
    ],
)
def test_a_fork_that_could_not_be_submitted_is_refused_and_leaves_nothing(
    api: Api, changes: dict[str, Any], path: str
) -> None:
    parent = api.run()
    api.add_checkpoints(parent, 2)
    other = str(write_rows(api.directory / "other.jsonl"))
    before = sorted((api.directory / "data" / "jobs").iterdir())

    refused = api.http.post(
        f"/v1/jobs/{parent}/fork", json={"changes": _replace_other(changes, other)}
    )

    assert path in problem_paths(refused)
    assert [job["id"] for job in api.http.get("/v1/jobs").json()["data"]] == [parent]
    assert sorted((api.directory / "data" / "jobs").iterdir()) == before


def _replace_other(value: Any, other: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace_other(item, other) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_other(item, other) for item in value]
    return other if value == "OTHER" else value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nope": 1}, "nope: unknown key"),
        ({"nope.deeper": 1}, "'nope' is not a key"),
        ({"optim.lr.deeper": 1}, "'optim.lr' is a single value"),
        ({"rl.steps.a.b": 1}, "'rl.steps' is a single value"),
        ({"reward.graders.0.weight": 2}, "'reward.graders' is a list"),
        ({"": 1}, "ends in no key"),
        ({"optim.": 1}, "ends in no key"),
        ({".": 1}, "'' is not a key"),
        ({"lora.rank.deeper": 1}, "'lora.rank' is not a key"),
        ({"optim": None}, "optim"),
        ({"optim": 3}, "optim"),
        ({"optim.lr": {"deeper": 1}}, "optim.lr"),
    ],
)
def test_a_bad_path_in_the_changes_is_refused_by_name(
    api: Api, changes: dict[str, Any], said: str
) -> None:
    parent = api.run()
    api.add_checkpoints(parent, 2)

    forked = api.http.post(f"/v1/jobs/{parent}/fork", json={"changes": changes})
    changed = api.http.patch(f"/v1/jobs/{parent}", json={"hyperparameters": changes})

    assert (forked.status_code, forked.json()["error"]["code"]) == (400, "spec_invalid")
    assert said in forked.json()["error"]["message"]
    assert (changed.status_code, changed.json()["error"]["code"]) == (400, "spec_invalid")


def test_every_row_is_checked_against_the_graders(api: Api) -> None:
    source = "def grade(sample, item): return float(item['word'] in sample['output_text'])"
    own = {"name": "own", "type": "python", "source": source}
    path = api.directory / "words.jsonl"
    path.write_text('{"prompt": "q", "word": "a"}\n{"prompt": "q"}\n')

    def submit(*graders: Any) -> Any:
        reward = {"graders": graders}
        files = {"training_file": str(path), "validation_file": None}
        body = job_body(api.directory, method="rl", reward=reward, **files)
        return api.http.post("/v1/jobs", json=body)

    refused = submit(own)
    assert problem_paths(refused) == ["training_file"]
    (problem,) = refused.json()["error"]["problems"]
    assert problem["message"].startswith("row 2: has no field 'word', which the grader 'own' reads")
    compared = submit("accuracy").json()["error"]["problems"]
    assert [p["message"].split(",")[0] for p in compared] == [
        f"row {row}: has no reference answer" for row in (1, 2)
    ]
    path.write_text('{"prompt": "q", "word": "a"}\n{"prompt": "q", "word": "b"}\n')
    assert submit(own).status_code == 201


def test_a_stage_without_optimizer_settings_gets_the_jobs_with_the_change(api: Api) -> None:
    parent = api.run(optim={"lr": 1e-4, "weight_decay": 0.5})
    api.add_checkpoints(parent, 2)

    child = api.http.post(f"/v1/jobs/{parent}/fork", json={"changes": {"rl.optim.lr": 1e-6}}).json()

    assert (child["spec"]["rl"]["optim"]["lr"], child["spec"]["rl"]["optim"]["weight_decay"]) == (
        1e-6,
        0.5,
    )


def test_a_fork_that_is_longer_tells_its_replicas_so(api: Api) -> None:
    parent = api.run()
    api.add_checkpoints(parent, 2)

    child = api.http.post(
        f"/v1/jobs/{parent}/fork", json={"changes": {"sampling.max_new_tokens": 1024}}
    ).json()

    with api.database.begin() as session:
        lengths = [session.get_one(Job, each).max_sequence_tokens for each in (parent, child["id"])]
    assert lengths[1] > lengths[0]


def test_a_fork_inherits_a_priority_that_was_raised_later(api: Api) -> None:
    parent = api.run()
    api.add_checkpoints(parent, 2)
    api.http.patch(f"/v1/jobs/{parent}", json={"priority": 7})

    child = api.http.post(f"/v1/jobs/{parent}/fork", json={}).json()
    lowered = api.http.post(f"/v1/jobs/{parent}/fork", json={"changes": {"priority": -3}}).json()

    assert (child["priority"], lowered["priority"]) == (7, -3)


def test_a_fork_of_a_full_project_is_refused(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    with job_api(postgres_server, redis_url, tmp_path, project_quota_bytes=9) as api:
        parent = api.run()
        api.add_checkpoints(parent, 2)  # nine bytes
        api.move(parent, JobState.FAILED)

        codes = [
            api.http.post(f"/v1/jobs/{parent}/{verb}", json={}).json()["error"]["code"]
            for verb in ("fork", "rerun")
        ]

    assert codes == ["quota_exceeded"] * 2


@pytest.mark.parametrize("verb", ["rerun", "rewind"])
def test_a_job_whose_file_was_deleted_is_not_queued_again(api: Api, verb: str) -> None:
    file_id = upload(api)
    job_id = api.run(training_file=file_id)
    ids = api.add_checkpoints(job_id, 2, 4)
    api.move(job_id, JobState.FAILED)
    assert api.http.delete(f"/v1/files/{file_id}").status_code == 200

    refused = api.http.post(f"/v1/jobs/{job_id}/{verb}", json={"checkpoint": ids[2]})

    assert problem_paths(refused) == ["training_file", "training_file"]
    assert file_id in refused.json()["error"]["message"]
    assert api.http.get(f"/v1/jobs/{job_id}").json()["state"] == "failed"
    names = sorted(path.name for path in (api.job_dir(job_id) / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000004"]


@pytest.mark.parametrize("verb", ["resume", "rerun"])
def test_a_job_whose_replicas_do_not_exist_is_not_queued_again(
    api: Api, postgres_server: Postgres, redis_url: str, verb: str
) -> None:
    job_id = api.run()
    states = (JobState.PAUSING, JobState.PAUSED) if verb == "resume" else (JobState.FAILED,)
    api.move(job_id, *states)
    with api.database.begin() as session:
        job = session.get_one(Job, job_id)
        # As if it had been submitted when the installation had more replicas.
        job.spec = {**job.spec, "resources": {**job.spec["resources"], "rollout_replicas": 3}}

    refused = api.http.post(f"/v1/jobs/{job_id}/{verb}")

    assert problem_paths(refused) == ["resources.rollout_replicas"]


def test_a_job_of_openais_alias_passes_the_same_checks(api: Api) -> None:
    refused = api.http.post(
        "/v1/fine_tuning/jobs",
        json={
            "model": str(api.directory / "absent"),
            "training_file": "file_absent",
            "method": {"type": "reinforcement", "reinforcement": {}},
            "resources": {"rollout_replicas": 50},
        },
    )

    assert set(problem_paths(refused)) == {"model", "training_file", "resources.rollout_replicas"}


def test_environments_are_files_by_name_and_unknown_ones_are_refused_with_what_there_is(
    api: Api,
) -> None:
    name = "reasoning-gym:chain_sum?size=3"
    body = {"method": "rl", "training_file": name, "validation_file": None}
    created = api.http.post("/v1/jobs", json=job_body(api.directory, **body))
    assert created.status_code == 201, created.json()
    assert [grader["type"] for grader in created.json()["spec"]["reward"]["graders"]] == [
        "environment"
    ]
    for bad, message in (
        ("reasoning-gym:chain_summ", "no data set 'chain_summ'"),
        ("reasoning-gym:chain_sum?terms=2", "no parameter 'terms'"),
        ("reasoning-gym:chain_sum?size=0", "size is 0"),
        ("gym:x", "no environment 'gym'"),
    ):
        refused = api.http.post(
            "/v1/jobs", json=job_body(api.directory, **{**body, "training_file": bad})
        )
        assert problem_paths(refused) == ["training_file"], bad
        assert message in refused.json()["error"]["message"]


def tiny_model(api: Api) -> str:
    """A model directory with a real tokenizer."""
    path = api.directory / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return str(path)


SPECIAL = ("<|MASK|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>")


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("sft", {"prompt": "1+1=?", "completion": "It is {} 2."}),
        ("sft", {"prompt": "1{}+1=?", "completion": "2"}),
        ("rl", {"prompt": "1{}+1=?", "answer": "2"}),
        (
            "rl",
            {
                "messages": [
                    {"role": "system", "content": "Be {} brief."},
                    {"role": "user", "content": "1+1=?"},
                ],
                "answer": "2",
            },
        ),
    ],
)
def test_a_row_with_a_special_token_is_refused_by_its_number(
    api: Api, method: str, row: dict[str, Any], token: str
) -> None:
    good = {"prompt": "2+2=?", "completion": "4", "answer": "4"}
    bad = json.loads(json.dumps(row).replace("{}", token))
    path = api.directory / "special.jsonl"
    path.write_text("".join(f"{json.dumps(item)}\n" for item in (good, bad, good)))

    body = job_body(api.directory, method=method, training_file=str(path), model=tiny_model(api))
    refused = api.http.post("/v1/jobs", json=body)

    assert refused.status_code == 400, refused.text
    (problem,) = refused.json()["error"]["problems"]
    assert problem["path"] == "training_file"
    assert "row 2:" in problem["message"]
    assert repr(token) in problem["message"]


def test_a_recorded_response_with_the_mask_token_or_an_unknown_id_is_refused_by_its_row(
    api: Api,
) -> None:
    model = tiny_model(api)
    card = read_model_card(model)
    rows = [
        {"prompt": "1+1=?", "completion": "2", "token_ids": [3, number], "unmask_step": [1, 2]}
        for number in (4, card.mask_token_id, card.vocab_size)
    ]
    path = api.directory / "traces.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    body = job_body(
        api.directory, method="sft", training_file=str(path), model=model, sft={"noise": "trace"}
    )

    refused = api.http.post("/v1/jobs", json=body)

    assert refused.status_code == 400, refused.text
    messages = [problem["message"] for problem in refused.json()["error"]["problems"]]
    assert len(messages) == 2
    assert "row 2: token_ids has" in messages[0]
    assert "the mask token" in messages[0]
    assert f"row 3: token_ids has {card.vocab_size}" in messages[1]


def test_a_special_token_in_the_prompt_template_is_refused(api: Api) -> None:
    template = {"template": "<|im_end|>{prompt}"}
    body = job_body(api.directory, model=tiny_model(api), prompt=template)

    assert problem_paths(api.http.post("/v1/jobs", json=body)) == ["prompt.template"]


def test_a_mapping_reads_an_upload_that_no_layout_fits(api: Api) -> None:
    rows = [{"q": f"{n}+1?", "a": str(n + 1), "s": "by hand", "level": n} for n in range(9)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    file = api.http.post("/v1/files", files={"file": ("rows.jsonl", content.encode())}).json()
    body = job_body(api.directory, training_file=file["id"], validation_file=file["id"])

    refused = api.http.post("/v1/jobs", json=body)
    assert set(problem_paths(refused)) == {"training_file", "validation_file"}
    assert "data.fields = " in refused.text

    data = {"fields": {"prompt": "q", "reference": "a", "completion": "s"}, "filter": "level >= 5"}
    accepted = api.http.post("/v1/jobs", json={**body, "data": data})
    assert accepted.status_code == 201, accepted.text
    estimate = api.http.post("/v1/jobs?dry_run=true", json={**body, "data": data}).json()
    assert estimate["files"][file["id"]]["rows"] == 4

    data["filter"] = "levl >= 5"
    refused = api.http.post("/v1/jobs", json={**body, "data": data})
    assert "reads levl, which none of the rows has" in refused.text


def test_a_split_and_a_directory_of_shards_are_checked_as_files(api: Api) -> None:
    shards = api.directory / "shards"
    shards.mkdir()
    for shard in range(2):
        rows = [{"question": f"{n}?", "answer": "1", "solution": "1"} for n in range(50)]
        content = "".join(json.dumps({**row, "shard": shard}) + "\n" for row in rows)
        (shards / f"{shard}.jsonl").write_text(content)
    body = job_body(api.directory, training_file=str(shards))
    body.pop("validation_file", None)
    data = {"split_validation": 0.3, "fields": {"completion": "solution"}}

    accepted = api.http.post("/v1/jobs", json={**body, "method": "rl", "data": data})

    assert accepted.status_code == 201, accepted.text
    assert accepted.json()["spec"]["validation_file"] == str(shards)
    (shards / "1.jsonl").write_text("\nno\n")
    refused = api.http.post("/v1/jobs", json={**body, "method": "rl", "data": data})
    assert "1.jsonl row 2: is not JSON" in refused.text


def test_a_data_set_of_the_hub_is_a_file_by_name(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(json.dumps({"question": f"{n}?", "answer": "#### 1"}) + "\n" for n in range(9))
    with run_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["openai/gsm8k"] = {"main/train.jsonl": rows.encode()}
        body = job_body(
            api.directory,
            training_mixture=[{"file": "openai/gsm8k:main/train"}],
            validation_file="openai/gsm8k:main/train",
        )
        del body["training_file"]

        accepted = api.http.post("/v1/jobs", json=body)
        assert accepted.status_code == 201, accepted.text
        pinned = f"openai/gsm8k@{COMMIT}:main/train"
        spec = accepted.json()["spec"]
        assert (spec["validation_file"], spec["training_mixture"][0]["file"]) == (pinned, pinned)

        body["validation_file"] = "openai/absent:main/train"
        refused = api.http.post("/v1/jobs", json=body)
        assert problem_paths(refused) == ["validation_file"]
        assert "no such data set" in refused.text
    # The hub is gone; the pinned name stays usable.
    body = {**spec, "method": spec["method"]["type"]}
    assert api.http.post("/v1/jobs", json=body).status_code == 201
