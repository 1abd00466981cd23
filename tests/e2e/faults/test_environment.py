"""Faults of the environment in the middle of a job: servers that do not respond, several failures at
once, kills at the worst moment, volumes that are full, read-only or damaged. The job waits, is retried
or is paused; it is never failed, and what is said of it meanwhile is true.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.api.client import ClientError
from services.api.schemas.models import ExportView
from tests.support.faults import (
    STEPS,
    Arena,
    HurtJob,
    fill,
    holds,
    kill,
    read_only,
    small_disk,
    stopped,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def tree(service: str) -> Callable[[HurtJob], list[psutil.Process]]:
    """A service with all of its processes: PostgreSQL and the reward service have several."""

    def find(job: HurtJob) -> list[psutil.Process]:
        root = job.arena.process(service)
        return [root, *root.children(recursive=True)]

    return find


def learner(job: HurtJob) -> list[psutil.Process]:
    return [job.learner()]


def kill_when(job: HurtJob, is_moment: Callable[[], bool], times: int) -> None:
    """Kill the learner at the moment, in so many attempts."""
    for _ in range(times):
        deadline = time.monotonic() + 120
        while not (learners := job.arena.learners()) or not is_moment():
            assert time.monotonic() < deadline, "the moment did not come"
            assert job.arena.api.job(job.id).state != "succeeded" or not learners
            time.sleep(0.0005)
        kill(learners[0])
        while job.arena.learners():
            time.sleep(0.01)


def test_a_job_without_a_checkpoint_that_verifies_pauses_and_restarts_only_when_it_is_told_to(
    hurt: Arena,
) -> None:
    job = hurt.start()
    job.await_step(4)
    job.hurt()
    hurt.api.pause(job.id)
    steps_done = wait_for(job, "paused").progress.step
    assert steps_done > 2, "fewer steps than the limit: nothing to refuse"
    for weights in (job.directory / "checkpoints").glob("step-*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])

    hurt.api.resume(job.id)
    refused = wait_for_error(job, "checkpoint_lost")
    hurt.api.change(job.id, {"checkpoint.max_undone_steps": STEPS})
    hurt.api.resume(job.id)

    assert f"undo {steps_done} steps" in refused
    job.survive("all checkpoints damaged; resumed with a higher checkpoint.max_undone_steps")
    shown = job.read().certificate
    assert shown is not None
    assert (shown["moment"], shown["steps_undone"]) == ("restart", steps_done)
    assert hurt.api.diagnosis(job.id).code in ("finished", "restarted")


def wait_for_error(job: HurtJob, code: str) -> str:
    """Message of the error with which the job is paused."""
    deadline = time.monotonic() + 120
    while (found := job.read()).state != "paused" or found.error is None:
        assert found.state not in ("failed", "succeeded"), found.error
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert found.error.code == code
    return found.error.message


def test_a_data_directory_that_is_read_only_for_a_while_delays_the_job(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    with stopped(job.learner()):
        mounted = read_only(hurt.platform.data_dir / "jobs")
        mounted.__enter__()
    try:
        time.sleep(20)
    finally:
        mounted.__exit__(None, None, None)

    job.survive("data directory read-only for 20 s")
    errors = {item.error.code for item in hurt.api.attempts(job.id) if item.error is not None}
    assert errors <= {"checkpoint_failed", "storage_unavailable"}
    assert errors, "the fault did not reach the job"


@pytest.mark.parametrize("method", ["sft", "rl"])
def test_a_disk_without_a_free_byte_pauses_the_running_job_and_the_queued_one(
    hurt: Arena, method: str
) -> None:
    spec = hurt.spec if method == "rl" else sft_spec(hurt)
    with small_disk(hurt.platform.data_dir / "jobs") as disk:
        job = hurt.start(spec=spec)
        queued = HurtJob(hurt, hurt.api.create_job(spec).id)

        job.hurt()
        with stopped(job.learner()):
            fill(disk)
        messages = [wait_for_error(each, "disk_full") for each in (job, queued)]
        assert ["Traceback" in message for message in messages] == [False, False]
        (disk / "filler").unlink()
        for each in (job, queued):
            hurt.api.resume(each.id)

        assert wait_for(queued, "succeeded").progress.step == STEPS
        job.survive(f"disk with 0 bytes free during {method}; resumed", same_weights=method == "rl")
        digests = {each.id: dict(each.saved_digests()) for each in (job, queued)}
        assert digests[job.id] == digests[queued.id]
        assert len(set(digests[job.id].values())) == STEPS


def sft_spec(hurt: Arena) -> dict[str, object]:
    """Supervised steps on the rows of the reinforcement job."""
    spec = {name: hurt.spec[name] for name in hurt.spec if name not in ("rl", "reward")}
    sft = {"max_steps": STEPS, "batch_size": 4, "optim": {"lr": 1e-3}}
    return {**spec, "method": "sft", "sft": sft}


def test_an_upload_that_the_disk_cannot_hold_says_so_and_leaves_nothing(
    hurt: Arena, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1=?", "answer": "2"}\n' * 1000)
    with small_disk(hurt.platform.data_dir / "files") as disk:
        fill(disk)

        with pytest.raises(ClientError) as caught:
            hurt.api.upload(rows)

        assert caught.value.code == "disk_full"
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_an_export_that_the_disk_cannot_hold_says_where_and_can_be_repeated(hurt: Arena) -> None:
    job = HurtJob(hurt, hurt.api.create_job(hurt.spec).id)
    checkpoint = job.finish().result_checkpoint
    assert checkpoint is not None
    with small_disk(hurt.platform.data_dir / "models") as disk:
        fill(disk)
        failed = await_export(hurt, hurt.api.export(checkpoint).id)
        (disk / "filler").unlink()
        repeated = await_export(hurt, hurt.api.export(checkpoint).id)

    assert failed.error is not None
    assert failed.error.code == "disk_full"
    assert str(disk) in failed.error.message
    assert str(job.directory) not in failed.error.message
    assert repeated.state == "succeeded"


def await_export(hurt: Arena, export_id: str) -> ExportView:
    deadline = time.monotonic() + 60
    while (found := hurt.api.export_status(export_id)).state not in ("succeeded", "failed"):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_an_entry_of_the_groups_stream_that_is_no_group_costs_no_attempt(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    with hurt.redis() as client:
        client.xadd(job.streams.groups, {"m": b"\xff no group"})

    job.survive("an entry in the groups stream that is not a group")
    assert len(hurt.api.attempts(job.id)) == 1
    assert "undecodable_group" in [data["code"] for data in job.events("log")]


def test_three_kills_within_seconds_do_not_end_a_job(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    kill_when(job, lambda: True, 4)

    job.survive("kill -9 of the learner in four attempts as soon as each has started")
    assert [item.error.code for item in hurt.api.attempts(job.id)[:4] if item.error] == [
        "worker_lost"
    ] * 4
    assert [holds(item.certificate) for item in hurt.api.certificates(job.id)] != []


def test_a_learner_that_is_killed_whenever_it_writes_a_checkpoint_loses_nothing(
    hurt: Arena,
) -> None:
    job = hurt.start()
    partial = job.directory / "checkpoints"

    job.hurt()
    kill_when(job, lambda: next(partial.glob(".partial-step-*"), None) is not None, 3)

    job.survive("kill -9 of the learner in three attempts while it writes a checkpoint")
    assert list(partial.glob(".*-step-*")) == []


def test_a_learner_that_is_killed_whenever_it_sends_weights_loses_nothing(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    kill_when(job, lambda: _phase(job) == "weight_sync", 3)

    job.survive("kill -9 of the learner in three attempts while it sends weights")


def _phase(job: HurtJob) -> str:
    """As the newest journal says; the API is too slow for a moment of milliseconds."""
    journals = sorted((job.directory / "journal").glob("attempt-*.jsonl"))
    phases = [line for line in journals[-1].read_text().splitlines() if '"type":"phase"' in line]
    try:
        return str(json.loads(phases[-1])["data"]["phase"]) if phases else ""
    except json.JSONDecodeError:  # it is being written
        return ""


@pytest.mark.parametrize(
    ("what", "victims", "seconds"),
    [
        ("PostgreSQL", tree("postgres"), 40),
        ("Valkey", tree("valkey"), 40),
        ("the reward service", tree("reward"), 40),
        ("the API", tree("api"), 40),
        ("the learner", learner, 40),
        ("the Celery worker", tree("worker"), 40),
        ("the Celery worker", tree("worker"), 180),
    ],
)
def test_a_job_survives_a_server_that_does_not_respond(
    hurt: Arena, what: str, victims: Callable[[HurtJob], list[psutil.Process]], seconds: int
) -> None:
    job = hurt.start()

    job.hurt()
    with stopped(*victims(job)):
        time.sleep(seconds)

    job.survive(f"SIGSTOP of {what} for {seconds} s")


@pytest.mark.parametrize(
    ("fault", "services"),
    [
        ("kill -9 of learner, Valkey and replica at once", ("valkey", "rollout-1")),
        ("kill -9 of trainer and PostgreSQL at once", ("trainer", "postgres")),
    ],
)
def test_a_job_survives_several_deaths_at_once(
    hurt: Arena, fault: str, services: tuple[str, ...]
) -> None:
    job = hurt.start()
    victims = [hurt.process(service) for service in services]
    if "learner" in fault:
        victims.append(job.learner())

    job.hurt()
    for victim in victims:
        kill(victim)

    hurt.await_services(*services)
    job.survive(fault)
