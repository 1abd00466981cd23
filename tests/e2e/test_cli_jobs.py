"""The command line against a running platform: what REST has, it has."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.api.client import ApiClient
from services.common.model.tiny import make_tiny_model
from tests.support.embedded import local_platform, watch

GRADER = "def grade(sample, item):\n    return float(len(sample['output_text']) % 2)\n"
WAIT_S = 300.0

pytestmark = pytest.mark.timeout(600)


@dataclass
class Place:
    """A platform with one finished job."""

    api: ApiClient
    directory: Path
    job_id: str
    spec: dict[str, Any]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `dirl`."""
        command = [sys.executable, "-m", "services.api.cli", *arguments]
        return subprocess.run(
            [*command, "--api-url", self.api.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def read(self, *arguments: str) -> Any:
        """Run `dirl … --json`."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with local_platform() as platform, ApiClient(platform.api_url) as api:
        directory = platform.data_dir / "input"
        directory.mkdir()
        rows = [{"prompt": f"{number}?", "answer": "1"} for number in range(64)]
        (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        make_tiny_model(directory / "model", seed=0, hidden_size=32, layers=1)
        spec = {
            "model": str(directory / "model"),
            "method": "rl",
            "training_file": str(directory / "rows.jsonl"),
            "validation_file": str(directory / "rows.jsonl"),
            "eval": {"num_samples": 8},
            "rl": {"steps": 2, "prompts_per_step": 4, "num_generations": 4},
            "sampling": {"max_new_tokens": 8},
            "reward": {"graders": [{"name": "odd", "type": "python", "source": GRADER}]},
        }
        job_id = api.create_job(spec).id
        await_success(api, job_id)
        yield Place(api, directory, job_id, spec)


def await_success(api: ApiClient, job_id: str) -> None:
    job = watch(api, job_id, lambda job: job.state in ("succeeded", "failed", "paused"), WAIT_S)
    assert job.state == "succeeded", job.error


def test_what_a_job_recorded_is_listed(place: Place) -> None:
    assert place.read("jobs", "evals", place.job_id)["data"]
    certificates = place.read("jobs", "certificates", place.job_id)["data"]
    assert [item["certificate"]["lost"] for item in certificates] == [0]
    listed = place.read("jobs", "trajectories", place.job_id, "--min-reward", "1", "--limit", "3")
    assert {item["reward"] for item in listed["data"]} == {1.0}
    assert "STEPS UNDONE" in place.run("jobs", "certificates", place.job_id).stdout


def test_kept_responses_become_a_data_file_that_a_job_trains_on(place: Place) -> None:
    lines, table = place.directory / "kept.jsonl", place.directory / "kept.parquet"
    export = ("jobs", "export-trajectories", place.job_id, "--min-reward", "1", "--out")
    place.read(*export, str(lines))
    place.read(*export, str(table))
    rows = [json.loads(line) for line in lines.read_text().splitlines()]

    assert rows
    assert all(row["reward"] == 1.0 and len(row["completion"]) % 2 for row in rows)
    assert {row["messages"][-1]["content"] for row in rows} <= {f"{n}?" for n in range(64)}
    assert pq.read_table(table).select(["id", "token_ids"]).to_pylist() == [
        {name: row[name] for name in ("id", "token_ids")} for row in rows
    ]
    again = place.run(*export, str(lines))
    assert (again.returncode, "it already exists" in again.stderr) == (1, True)

    child = {"model": place.spec["model"], "method": "sft"}
    sft = {"max_steps": 2, "batch_size": 4}
    from_table = {**child, "training_file": str(table), "sft": {**sft, "noise": "block"}}
    await_success(place.api, place.api.create_job(from_table).id)
    path = place.directory / "child.json"
    path.write_text(json.dumps({**child, "sft": {**sft, "noise": "trace"}}))
    submit = ("jobs", "submit", str(path), "--trajectories", place.job_id)
    await_success(place.api, place.read(*submit)["id"])
    nothing = place.run(*submit, "--min-reward", "2")
    assert (nothing.returncode, "kept no response" in nothing.stderr) == (1, True)


def test_jobs_are_changed_forked_rewound_and_deleted(place: Place) -> None:
    fork = ("jobs", "fork", place.job_id, "--set", "rl.steps=200", "--suffix", "child")
    child = place.read(*fork)
    assert (child["spec"]["rl"]["steps"], child["suffix"]) == (200, "child")
    place.read("jobs", "set", child["id"], "rl.optim.lr=2e-6", "checkpoint.interval_steps=3")
    watch(place.api, child["id"], has_step(4), WAIT_S)
    after = place.read("jobs", "checkpoint", child["id"])["after_step"]
    watch(place.api, child["id"], lambda job: has_checkpoint(place.api, job.id, after), WAIT_S)
    place.read("jobs", "pause", child["id"])
    watch(place.api, child["id"], lambda job: job.state == "paused", WAIT_S)
    saved = place.api.checkpoints(child["id"])
    assert place.api.job(child["id"]).spec["rl"]["optim"]["lr"] == 2e-6

    rewound = place.read("jobs", "rewind", child["id"], saved[0].id)
    assert rewound["state"] == "queued"
    place.read("jobs", "cancel", child["id"])
    watch(place.api, child["id"], lambda job: job.state == "cancelled", WAIT_S)
    assert place.read("jobs", "delete", child["id"]) == {
        "id": child["id"],
        "object": "job",
        "deleted": True,
    }
    gone = place.run("jobs", "show", child["id"])
    assert (gone.returncode, gone.stderr.startswith("dirl: ")) == (1, True)


def has_step(step: int) -> Callable[[Any], bool]:
    return lambda job: job.progress is not None and job.progress.step >= step


def has_checkpoint(api: ApiClient, job_id: str, step: int) -> bool:
    return any(item.step >= step for item in api.checkpoints(job_id))


def test_files_webhooks_and_usage(place: Place) -> None:
    file = place.read("files", "upload", str(place.directory / "rows.jsonl"))
    assert file["rows"] == 64
    assert file["id"] in [item["id"] for item in place.read("files", "list")["data"]]
    assert place.read("usage")["files_bytes"] >= file["bytes"]
    assert place.read("files", "delete", file["id"])["deleted"]
    hook = place.read("webhooks", "create", "https://example.org/x", "--event", "job.paused")
    assert (hook["events"], hook["secret"][:6]) == (["job.paused"], "whsec_")
    assert [item["id"] for item in place.read("webhooks", "list")["data"]] == [hook["id"]]
    assert place.read("webhooks", "delete", hook["id"])["deleted"]


def test_a_job_that_cannot_learn_is_refused_before_it_is_queued(place: Place) -> None:
    constant = {"name": "one", "type": "python", "source": "def grade(sample, item): return 1.0"}
    spec = {**place.spec, "reward": {"graders": [constant]}}
    path = place.directory / "constant.json"
    path.write_text(json.dumps(spec))

    refused = place.run("jobs", "submit", str(path))
    accepted = place.run("jobs", "submit", str(path), "--no-preflight")

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "The job was not submitted" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr
    place.read("jobs", "cancel", accepted.stdout.strip())
