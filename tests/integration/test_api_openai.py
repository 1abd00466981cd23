"""The real `openai` package against the API: files, supervised and reinforcement jobs, events,
pages, chat.
"""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from services.api.db.database import Database
from services.api.db.jobs import append_event, lock_job, transition
from services.api.domain.job_state import JobState
from services.common.model.tiny import make_tiny_model
from tests.support.control_plane import (
    make_settings,
    migrated_database,
    openai_client,
    run_attempt,
    running_api,
    write_model,
    write_rows,
)
from tests.support.replicas import RealReplica, real_replica
from tests.support.servers import Postgres

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]


class World:
    """The package's client, the database behind the API, one real replica."""

    def __init__(
        self, client: openai.OpenAI, database: Database, replica: RealReplica, directory: Path
    ) -> None:
        self.client, self.database, self.replica, self.directory = (
            client,
            database,
            replica,
            directory,
        )

    def upload(self) -> str:
        """Id of a file that every stage can use."""
        with write_rows(self.directory / "rows.jsonl").open("rb") as content:
            return self.client.files.create(file=content, purpose="fine-tune").id

    def registered(self, path: Path) -> str:
        """Id of a model directory."""
        return str(
            self.client.post("/models", body={"path": str(path)}, cast_to=dict[str, object])["id"]
        )

    def create(self, **values: object) -> FineTuningJob:
        """A job."""
        model = str(write_model(self.directory / "model"))
        return self.client.fine_tuning.jobs.create(
            model=model, training_file=self.upload(), **values
        )  # type: ignore[arg-type]

    def move(self, job_id: str, *states: JobState) -> None:
        """Let the job pass through states."""
        with self.database.begin() as session:
            for state in states:
                transition(session, lock_job(session, job_id), state)


@pytest.fixture
def world(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """An API with one idle replica."""
    with migrated_database(postgres_server) as url, real_replica(redis_url) as (replica, address):
        settings = make_settings(url, redis_url, tmp_path / "data", rollout_addresses=(address,))
        with running_api(settings) as (http, resources), openai_client(http) as client:
            yield World(client, resources.database, replica, tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers something."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0, hidden_size=16, layers=1, heads=2)
    return path


def test_a_supervised_job_is_created_with_hyperparameters_in_openais_format(world: World) -> None:
    job = world.create(
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 2.0}
            },
        },
        suffix="mine",
        seed=7,
        metadata={"team": "a"},
        extra_body={"checkpoint": {"interval_steps": 5}},
    )

    assert (job.object, job.status, job.seed, job.metadata) == (
        "fine_tuning.job",
        "queued",
        7,
        {"team": "a"},
    )
    spec = world.client.get(f"/jobs/{job.id}", cast_to=dict[str, dict[str, object]])["spec"]
    assert (spec["sft"]["epochs"], spec["sft"]["batch_size"], spec["optim"]["lr"]) == (3, 2, 2e-5)  # type: ignore[index]
    assert spec["checkpoint"]["interval_steps"] == 5  # type: ignore[index]


def test_a_reinforcement_job_is_created_with_a_grader_and_followed_through_its_states(
    world: World,
) -> None:
    hyperparameters = {"batch_size": 4, "compute_multiplier": 0.5, "eval_interval": 3}
    job = world.create(
        method={
            "type": "reinforcement",
            "reinforcement": {"grader": {"type": "boxed"}, "hyperparameters": hyperparameters},
        },
        extra_body={"rl": {"steps": 9}},
    )
    jobs = world.client.fine_tuning.jobs
    states = [jobs.retrieve(job.id).status]
    run_attempt(world.database, job.id)
    states.append(jobs.retrieve(job.id).status)
    states.append(jobs.pause(job.id).status)
    world.move(job.id, JobState.PAUSED)
    states.append(jobs.retrieve(job.id).status)
    states.append(jobs.resume(job.id).status)

    assert states == ["queued", "running", "running", "queued", "queued"]
    messages = [event.message for event in jobs.list_events(job.id)]
    assert messages[0] == "The job went from paused to queued."
    assert messages[-1] == "The job went from validating_files to queued."
    spec = world.client.get(f"/jobs/{job.id}", cast_to=dict[str, dict[str, object]])["spec"]
    assert (spec["rl"]["steps"], spec["rl"]["num_generations"], spec["rl"]["prompts_per_step"]) == (
        9,
        4,
        4,
    )  # type: ignore[index]
    assert spec["reward"]["graders"] == [
        {"name": "boxed", "type": "boxed", "weight": 1.0, "only_if": None}
    ]  # type: ignore[index]


_CHECK = {"operation": "eq", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
_TURN = {"role": "user", "content": "Grade {{item.prompt}}: {{sample.output_text}}"}
_PARTS = {
    "right": {"type": "string_check", "name": "Right", **_CHECK},
    "close": {
        "type": "text_similarity",
        "name": "Close",
        "evaluation_metric": "fuzzy_match",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    },
}


@pytest.mark.parametrize(
    "grader",
    [
        {"type": "string_check", "name": "exact", **_CHECK},
        {**_PARTS["close"], "name": "close"},
        {
            "type": "score_model",
            "name": "score",
            "model": "gpt-4o-2024-08-06",
            "input": [_TURN],
            "range": [0, 1],
            "sampling_params": {"temperature": 1, "seed": 42, "max_completions_tokens": 100},
        },
        {
            "type": "label_model",
            "name": "label",
            "model": "gpt-4o-2024-08-06",
            "input": [
                {"type": "message", "role": "user", "content": {"type": "input_text", "text": "A"}}
            ],
            "labels": ["good", "bad"],
            "passing_labels": ["good"],
        },
        {
            "type": "python",
            "name": "own",
            "source": "def grade(sample, item): return 1.0",
            "image_tag": "2025-05-08",
        },
        {"type": "multi", "name": "all", "graders": _PARTS, "calculate_output": "right + close"},
    ],
    ids=lambda grader: grader["type"],
)
def test_a_reinforcement_job_with_a_grader_of_openais_runs_unchanged(
    world: World, grader: dict[str, object]
) -> None:
    job = world.create(method={"type": "reinforcement", "reinforcement": {"grader": grader}})
    spec = world.client.get(f"/jobs/{job.id}", cast_to=dict[str, dict[str, object]])["spec"]
    (stored,) = spec["reward"]["graders"]  # type: ignore[index]
    assert (stored["type"], stored["name"]) == (grader["type"], grader["name"])


def test_what_has_no_meaning_here_is_refused_by_name(world: World) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        world.create(
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": "auto", "reasoning_effort": "low"}},
            },
            integrations=[{"type": "wandb", "wandb": {"project": "x"}}],
        )

    body = caught.value.body
    assert isinstance(body, dict)
    assert {problem["path"] for problem in body["problems"]} == {
        "integrations",
        "method.supervised.hyperparameters.reasoning_effort",
    }


def test_jobs_and_events_are_listed_page_by_page(world: World) -> None:
    ids = [world.create(method={"type": "supervised"}).id for _ in range(5)]
    jobs = world.client.fine_tuning.jobs
    jobs.cancel(ids[0])

    assert [job.id for job in jobs.list(limit=2)] == ids[::-1]
    page = jobs.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert jobs.retrieve(ids[0]).status == "cancelled"
    assert len(list(jobs.list_events(ids[0], limit=1))) == 3
    assert list(jobs.checkpoints.list(ids[0])) == []


def test_an_event_is_of_the_type_metrics_when_it_has_a_steps_metrics_and_else_a_message(
    world: World,
) -> None:
    job = world.create(method={"type": "supervised"})
    metrics = {"step": 3, "values": {"train/loss": 0.5, "reward/mean": None}}
    warning = {"level": "warning", "code": "slow", "message": "Disk is slow."}
    with world.database.begin() as session:
        append_event(session, lock_job(session, job.id), "metrics", metrics)
        append_event(session, lock_job(session, job.id), "log", warning)

    events = world.client.fine_tuning.jobs.list_events(job.id).data

    assert [(event.type, event.level, event.message, event.data) for event in events[:2]] == [
        ("message", "warn", "Disk is slow.", warning),
        ("metrics", "info", "Step 3.", {"step": 3, "train/loss": 0.5, "reward/mean": None}),
    ]
    assert events[2].type == "message"
    assert events[2].message == "The job went from validating_files to queued."


def test_an_unknown_job_is_the_packages_own_not_found_error(world: World) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        world.client.fine_tuning.jobs.retrieve("job_none")

    assert caught.value.code == "not_found"
    assert caught.value.request_id


def test_a_model_completes_a_chat_and_streams_the_same_response_in_finished_blocks(
    world: World, tiny: Path
) -> None:
    model = world.registered(tiny)
    chat = world.client.chat.completions

    whole = chat.create(model=model, messages=QUESTION, max_tokens=24)  # type: ignore[call-overload]
    chunks = list(chat.create(model=model, messages=QUESTION, max_tokens=24, stream=True))  # type: ignore[call-overload]

    answer = whole.choices[0]
    assert (answer.message.role, answer.finish_reason in ("stop", "length")) == ("assistant", True)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == answer.message.content
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == answer.finish_reason


def test_every_denoising_step_is_streamed_on_demand(world: World, tiny: Path) -> None:
    chunks = list(
        world.client.chat.completions.create(  # type: ignore[call-overload]
            model=world.registered(tiny),
            messages=QUESTION,
            max_tokens=12,
            stream=True,
            extra_body={"denoising": True, "confidence_threshold": 1.0},
        )
    )

    drafts = [chunk.denoising for chunk in chunks if hasattr(chunk, "denoising")]
    # A threshold of 1 commits one token a step, so that three of a block's four steps leave masks
    # behind.
    assert [draft["step"] for draft in drafts] == sorted({draft["step"] for draft in drafts})
    assert all(None in draft["draft"] for draft in drafts)
    assert any(text is not None for draft in drafts for text in draft["draft"])
    assert chunks[-1].usage.denoising_steps > len(drafts)


def test_a_completion_continues_a_text(world: World, tiny: Path) -> None:
    model = world.registered(tiny)

    answer = world.client.completions.create(model=model, prompt="2 + 3 =", max_tokens=8)

    assert (answer.object, answer.choices[0].finish_reason in ("stop", "length")) == (
        "text_completion",
        True,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8


def test_a_replica_that_is_leased_to_a_job_completes_no_chat(world: World, tiny: Path) -> None:
    model = world.registered(tiny)
    world.replica.assign("job_1", 1, tiny)

    with pytest.raises(openai.InternalServerError) as caught:
        world.client.with_options(max_retries=0).chat.completions.create(
            model=model, messages=QUESTION
        )  # type: ignore[call-overload]

    assert (caught.value.status_code, caught.value.code) == (503, "busy")


def test_an_unknown_model_and_unknown_keys_are_refused(world: World, tiny: Path) -> None:
    model = world.registered(tiny)

    with pytest.raises(openai.NotFoundError):
        world.client.chat.completions.create(model="model_none", messages=QUESTION)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="tools"):
        world.client.chat.completions.create(model=model, messages=QUESTION, tools=[])  # type: ignore[call-overload]
