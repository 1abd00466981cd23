"""Directories and process trees of the embedded platform."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from services.api.client import ApiClient
from services.api.embedded.platform import LocalPlatform
from services.api.embedded.ports import free_ports
from services.api.schemas.jobs import JobView
from services.common.data.arithmetic import make_arithmetic
from services.common.model.tiny import make_tiny_model


@contextmanager
def open_directory() -> Iterator[Path]:
    """A fresh directory that every account can enter, as PostgreSQL needs when root runs the tests.

    pytest's own temporary directories are closed to others.
    """
    directory = Path(tempfile.mkdtemp(prefix="dirl-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def process_trees(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and everything below them that runs now."""
    roots = [psutil.Process(pid) for pid in pids]
    return [
        process
        for root in roots
        for process in (root, *root.children(recursive=True))
        if _runs(process)
    ]


def await_gone(processes: list[psutil.Process], timeout_s: float = 20.0) -> list[psutil.Process]:
    """Those of the processes that still run after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (
        left := [process for process in processes if _runs(process)]
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def local_platform(rollout_replicas: int = 1) -> Iterator[LocalPlatform]:
    """The whole platform, without a line of output and not on the port that a user's own one has."""
    with open_directory() as directory:
        platform = LocalPlatform(
            directory,
            on_ready=lambda _service, _seconds: None,
            report=lambda _line: None,
            api_port=free_ports(1)[0],
            rollout_replicas=rollout_replicas,
        )
        with platform:
            yield platform


def tiny_spec(directory: Path, *, rl_steps: int) -> dict[str, Any]:
    """A pipeline job of a few steps with its data and its model, as plain values."""
    files = make_arithmetic(directory, seed=0, num_train=64, num_test=12)
    make_tiny_model(directory / "model", seed=0, hidden_size=32, layers=2, heads=2)
    return {
        "model": str(directory / "model"),
        "method": "pipeline",
        "training_file": str(files.train),
        "validation_file": str(files.test),
        "sampling": {"max_new_tokens": 8},
        "sft": {"max_steps": 3, "batch_size": 16, "optim": {"lr": 1e-3}},
        # The untrained model solves no problem: by accuracy every response would get the same
        # reward, and no step would move the weights. The letters of a random text differ.
        "rl": {
            "steps": rl_steps,
            "prompts_per_step": 4,
            "num_generations": 4,
            "dynamic_sampling": False,
            "optim": {"lr": 1e-3},
        },
        "reward": {"graders": [_contains(letter) for letter in "abcdefghijklmnop"]},
        "trainer": {"seq_len": 128},
        "checkpoint": {"interval_steps": 1, "keep_last": 2},
    }


def _contains(letter: str) -> dict[str, str]:
    """Grader that scores 1 for a response with the letter."""
    return {
        "name": f"has_{letter}",
        "type": "string_check",
        "operation": "ilike",
        "input": "{{ sample.output_text }}",
        "reference": letter,
    }


def watch(
    api: ApiClient, job_id: str, until: Callable[[JobView], bool], timeout_s: float = 240.0
) -> JobView:
    """Ask for the job until `until` holds; fails when it ends otherwise or the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        job = api.job(job_id)
        if until(job):
            return job
        assert job.state not in ("succeeded", "failed", "cancelled"), job.error
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
