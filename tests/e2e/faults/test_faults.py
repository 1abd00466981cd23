"""Faults in the middle of a reinforcement job: it finishes, and proves that nothing was lost or
trained twice.

One platform of real processes serves all of them. Those that are not slow are one of each class: a
process that dies, one that hangs, a disk, a checkpoint, a stream, a message.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from services.api.adapters.broker import Wakeups
from tests.support.faults import Arena, HurtJob, fill, holds, kill, small_disk, stopped, wait_for

SLOW = pytest.mark.slow
pytestmark = pytest.mark.timeout(
    900
)  # the first one starts the platform, too, and a loaded machine takes its time


def learner(job: HurtJob) -> psutil.Process:
    return job.learner()


def service(name: str) -> Callable[[HurtJob], psutil.Process]:
    return lambda job: job.arena.process(name)


def reward_worker(job: HurtJob) -> psutil.Process:
    return job.arena.process("reward").children(recursive=True)[-1]


@pytest.mark.parametrize(
    ("fault", "victim", "services", "replicas"),
    [
        ("kill -9 of the learner", learner, (), 1),
        pytest.param("kill -9 of the trainer", service("trainer"), ("trainer",), 1, marks=SLOW),
        pytest.param(
            "kill -9 of one replica of two", service("rollout-1"), ("rollout-1",), 2, marks=SLOW
        ),
        pytest.param(
            "kill -9 of the only replica", service("rollout-1"), ("rollout-1",), 1, marks=SLOW
        ),
        pytest.param(
            "kill -9 of the reward service", service("reward"), ("reward",), 1, marks=SLOW
        ),
        pytest.param("kill -9 of a reward worker", reward_worker, (), 1, marks=SLOW),
        pytest.param("kill -9 of the Celery worker", service("worker"), ("worker",), 1, marks=SLOW),
        pytest.param("kill -9 of beat", service("beat"), ("beat",), 1, marks=SLOW),
        pytest.param("kill -9 of the recorder", service("recorder"), ("recorder",), 1, marks=SLOW),
        pytest.param("kill -9 of the API", service("api"), ("api",), 1, marks=SLOW),
        pytest.param("kill -9 of Valkey", service("valkey"), ("valkey",), 1, marks=SLOW),
        pytest.param("kill -9 of PostgreSQL", service("postgres"), ("postgres",), 1, marks=SLOW),
    ],
)
def test_a_job_survives_the_death_of_a_process(
    hurt: Arena,
    fault: str,
    victim: Callable[[HurtJob], psutil.Process],
    services: tuple[str, ...],
    replicas: int,
) -> None:
    job = hurt.start(replicas=replicas)

    job.hurt()
    kill(victim(job))

    hurt.await_services(*services)
    job.survive(fault, same_weights=replicas == 1)


@SLOW
def test_a_trainer_that_is_stopped_on_purpose_costs_no_failure(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    hurt.process("trainer").terminate()

    hurt.await_services("trainer")
    job.survive("SIGTERM of the trainer")
    first, *_ = hurt.api.attempts(job.id)
    assert (first.state, first.error) == ("stopped", None)


def test_a_replica_that_hangs_for_longer_than_its_lease_loses_its_prompts_to_the_other(
    hurt: Arena,
) -> None:
    job = hurt.start(replicas=2)

    job.hurt()
    with stopped(hurt.process("rollout-1")):
        job.await_step(job.hurt_step + 2)

    job.survive("SIGSTOP of one replica of two, beyond its lease", same_weights=False)


def test_a_full_disk_pauses_the_job_until_there_is_space_again(hurt: Arena) -> None:
    with small_disk(hurt.platform.data_dir / "jobs") as disk:
        job = hurt.start()

        job.hurt()
        with stopped(job.learner()):  # else it may be done before the disk is full
            fill(disk, spare_bytes=32 << 20)
        paused = wait_for(job, "paused")
        (disk / "filler").unlink()
        hurt.api.resume(job.id)

        assert paused.error.code == "disk_full"
        job.survive("full disk when a checkpoint is due; resumed once there is space")


def test_a_truncated_newest_checkpoint_is_passed_over(hurt: Arena) -> None:
    job = hurt.start()
    job.hurt()
    hurt.api.pause(job.id)
    wait_for(job, "paused")
    newest = max((job.directory / "checkpoints").glob("step-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    hurt.api.resume(job.id)

    job.survive("truncated newest checkpoint")
    last = hurt.api.attempts(job.id)[-1]
    assert last.resumed_from == int(newest.name.removeprefix("step-")) - 1


@pytest.mark.parametrize(
    ("fault", "later_steps"),
    [
        ("a duplicated group", 0),
        pytest.param("a duplicated group, delayed by two steps", 2, marks=SLOW),
    ],
)
def test_a_group_that_arrives_twice_is_trained_once(
    hurt: Arena, fault: str, later_steps: int
) -> None:
    job = hurt.start()

    job.hurt()
    with hurt.redis() as client:
        entry = next_entry(client, job.streams.groups)
        job.await_step(job.hurt_step + later_steps)
        client.xadd(job.streams.groups, entry)

    job.survive(fault)
    assert [data["code"] for data in job.events("log") if data["code"] == "unexpected_group"] == [
        "unexpected_group"
    ]


@SLOW
def test_a_prompt_that_is_delivered_twice_is_trained_once(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    with hurt.redis() as client:
        client.xadd(job.streams.prompts, next_entry(client, job.streams.prompts))

    job.survive("a duplicated prompt")


def flush(client: redis.Redis, job: HurtJob) -> None:
    client.flushall()


def destroy_group(client: redis.Redis, job: HurtJob) -> None:
    assert client.xgroup_destroy(job.streams.prompts, "rollout")


def evict(client: redis.Redis, job: HurtJob) -> None:
    """What a server with too little memory and the wrong policy does."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", 1)
    with suppress(redis.RedisError):
        client.set("more", "than fits")
    assert client.dbsize() == 0
    system = httpx.get(
        f"{job.arena.platform.api_url}/v1/system", trust_env=False, timeout=10
    ).json()
    (said,) = (service["error"] for service in system["services"] if service["kind"] == "redis")
    assert "maxmemory-policy is allkeys-lru" in str(said)
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("fault", "lose"),
    [
        ("FLUSHALL", flush),
        pytest.param("XGROUP DESTROY of the replicas", destroy_group, marks=SLOW),
        pytest.param("eviction of every key under maxmemory", evict, marks=SLOW),
    ],
)
def test_what_redis_loses_is_noticed_within_seconds_and_issued_again(
    hurt: Arena, fault: str, lose: Callable[[redis.Redis, HurtJob], None]
) -> None:
    job = hurt.start()

    # Without grading, prompts stay in flight.
    with stopped(hurt.process("reward")), hurt.redis() as client:
        wait_until(lambda: client.xlen(job.streams.prompts) > 0, "prompts in flight")
        job.hurt()
        lose(client, job)
        wait_until(lambda: "streams_lost" in codes(job), "the loss is an event", timeout_s=10)
        meanwhile, diagnosis = job.read(), hurt.api.diagnosis(job.id)
        wait_until(lambda: client.xlen(job.streams.prompts) > 0, "prompts in flight again")

    assert (meanwhile.state, meanwhile.phase, diagnosis.code) == (
        "running",
        "rollout",
        "streams_lost",
    )
    job.survive(fault)
    assert len(hurt.api.attempts(job.id)) == 1
    assert codes(job).count("streams_lost") == 1


def codes(job: HurtJob) -> list[str]:
    return [data["code"] for data in job.events("log")]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@SLOW
def test_an_entry_that_is_no_event_does_not_stop_the_recorder(hurt: Arena) -> None:
    job = hurt.start()

    job.hurt()
    recorder = hurt.platform.pids()["recorder"]
    with hurt.redis() as client:
        client.xadd("dirl:events", {"m": b"\x00 no event"})
        client.xadd("dirl:events", {"x": b"no field of ours"})

    job.survive("entries in the events stream that are no events")
    assert hurt.platform.pids()["recorder"] == recorder


def test_celery_messages_that_are_delivered_twice_do_their_work_once(hurt: Arena) -> None:
    hints = Wakeups(hurt.platform.urls.redis)
    job = hurt.start()

    job.hurt()
    for _ in range(20):
        hints.dispatch()
        hints.reconcile(job.id)

    job.survive("every Celery message 20 times")
    assert len(hurt.api.attempts(job.id)) == 1


@SLOW
@pytest.mark.parametrize("planted", ["trained_twice", "lost"])
def test_the_certificate_fails_when_a_duplicate_or_a_loss_is_planted(
    hurt: Arena, planted: str
) -> None:
    job = hurt.start()
    hurt.api.pause(job.id)
    wait_for(job, "paused")
    plant(job.directory / "journal" / "steps-0001.jsonl", planted)

    hurt.api.resume(job.id)
    job.finish()

    (resumed, *_) = hurt.api.certificates(job.id)[-1:]
    assert not holds(resumed.certificate)
    assert resumed.certificate[planted] >= 1
    assert "certificate_broken" in [data["code"] for data in job.events("log")]


def plant(step_log: Path, what: str) -> None:
    """Let the first step have trained a position of the second one too, or lose its own."""
    first, second = '"trained":[0,', '"trained":[4,'
    text = step_log.read_text()
    assert first in text
    assert second in text
    changed = (
        text.replace(second, '"trained":[0,4,')
        if what == "trained_twice"
        else text.replace(first, '"trained":[')
    )
    step_log.write_text(changed)


def next_entry(client: redis.Redis, stream: str) -> dict[bytes, bytes]:
    """A copy of the next entry that passes through the stream."""
    deadline = time.monotonic() + 60
    while not (entries := client.xrange(stream, count=1)):
        assert time.monotonic() < deadline, f"nothing passes through {stream}"
    copied: dict[bytes, bytes] = entries[0][1]
    return copied
