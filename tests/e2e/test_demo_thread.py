"""The whole platform, once from end to end: submit, train, evaluate, checkpoint, and nothing left
behind.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.api.client import ApiClient
from services.api.embedded.locations import running_platform
from services.api.embedded.platform import LocalPlatform
from services.common.checkpoint.format import verify
from services.common.errors import PlatformError
from tests.support.embedded import await_gone, local_platform, process_trees, tiny_spec, watch

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = {
    "postgres",
    "valkey",
    "recorder",
    "reward",
    "rollout-1",
    "trainer",
    "worker",
    "beat",
    "api",
}


def test_a_pipeline_job_succeeds_and_leaves_a_checkpoint_evaluations_and_no_process() -> None:
    with local_platform() as platform, ApiClient(platform.api_url) as api:
        assert set(platform.pids()) == PROCESSES
        found = running_platform(platform.data_dir)
        assert found is not None
        assert found.api_url == platform.api_url
        with pytest.raises(PlatformError, match=r"process \d+ runs one there"):
            _second(platform).__enter__()

        job_id = api.create_job(tiny_spec(platform.data_dir / "input", rl_steps=2)).id
        job = watch(api, job_id, lambda job: job.state == "succeeded")

        assert job.progress.step == 5
        assert [item.stage for item in api.evals(job_id)] == ["sft", "eval"]
        assert all(item.results["num_unverifiable"] == 0 for item in api.evals(job_id))
        assert all(item.results["reward"] >= 0 for item in api.evals(job_id))
        newest = max(api.checkpoints(job_id), key=lambda item: item.step)
        assert (newest.id, newest.step) == (job.result_checkpoint, 5)
        assert verify(Path(newest.path)).weight_version == newest.weight_version == 5
        _command_line_finds_the_platform(platform, job_id, newest.id)
        started = process_trees(platform.pids().values())
        assert len(started) > len(
            PROCESSES
        )  # PostgreSQL and the reward service have processes of their own

    assert await_gone(started) == []
    assert running_platform(platform.data_dir) is None


def _command_line_finds_the_platform(
    platform: LocalPlatform, job_id: str, checkpoint_id: str
) -> None:
    where = ("--data-dir", str(platform.data_dir), "--json")
    shown = json.loads(_dirl("jobs", "show", job_id, *where))
    assert (shown["state"], shown["result_checkpoint"]) == ("succeeded", checkpoint_id)

    target = platform.data_dir / "exported"
    _dirl("models", "export", checkpoint_id, "--out", str(target), *where)
    assert (target / "model.safetensors").exists()
    assert [
        model["checkpoint_id"] for model in json.loads(_dirl("models", "list", *where))["data"]
    ] == [checkpoint_id]


def _dirl(*arguments: str) -> str:
    command = [sys.executable, "-m", "services.api.cli", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _second(platform: LocalPlatform) -> LocalPlatform:
    return LocalPlatform(platform.data_dir, on_ready=lambda *_: None, report=print)
