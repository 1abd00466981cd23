"""Dispatch and reconcile against real Postgres, Redis and gRPC; trainer and replicas answer from a
script.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from services.api.db.clock import utc_now
from services.api.db.job_tables import Attempt, Job, ServiceLease
from services.api.db.jobs import lock_job, transition
from services.api.db.record_tables import Checkpoint, JobEvent
from services.api.db.series import Metric
from services.api.domain.job_state import JobState
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.dispatch import dispatch
from services.api.scheduler.prune import prune
from services.api.scheduler.reconcile import active_jobs, reconcile
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.job_spec import schema_digest
from services.common.streams import stream_names
from tests.support.control_plane import (
    ScriptedReplica,
    ScriptedTrainer,
    make_settings,
    migrated_database,
    read_attempts,
    read_job,
    scheduler_context,
    serving,
    submit,
)
from tests.support.servers import Postgres

CHECKPOINT = {
    "step": 4, "stage": "rl", "path": "/jobs/step-000004", "weight_version": 4, "weight_digest": "d", "bytes": 10,
    "deleted": [],
}  # fmt: skip
METRICS = {"step": 4, "values": {"reward/mean": 0.5}}


@dataclass
class World:
    """A scheduler with one trainer and two replicas."""

    context: SchedulerContext
    trainer: ScriptedTrainer
    replicas: list[ScriptedReplica]
    trainer_address: str
    replica_addresses: list[str]
    directory: Path
    stack: ExitStack
    servers: dict[str, ExitStack] = field(default_factory=dict)

    def submit(self, **values: object) -> str:
        """A queued job."""
        return submit(self.context.database, self.directory, **values)

    def run(self, **values: object) -> str:
        """A job whose learner runs."""
        job_id = self.submit(**values)
        dispatch(self.context)
        reconcile(self.context, job_id)
        assert self.job(job_id).state == "running"
        return job_id

    def job(self, job_id: str) -> Job:
        """Its row."""
        return read_job(self.context.database, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Its attempts."""
        return read_attempts(self.context.database, job_id)

    def leases(self) -> set[str]:
        """Addresses that are leased."""
        with self.context.database.begin() as session:
            return set(session.scalars(select(ServiceLease.address)))

    def steer(self, job_id: str, target: JobState) -> None:
        """What the API does to cancel or pause."""
        with self.context.database.begin() as session:
            transition(session, lock_job(session, job_id), target)

    def shut(self, address: str) -> None:
        """Let the service at the address vanish."""
        self.servers.pop(address).close()


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        yield url


@pytest.fixture
def world(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """Everything up and idle."""
    trainer, replicas = ScriptedTrainer(), [ScriptedReplica(), ScriptedReplica()]
    with ExitStack() as stack:
        servers = [ExitStack() for _ in range(3)]
        for server in servers:
            stack.callback(server.close)
        services = zip(servers, [trainer, *replicas], strict=True)
        addresses = [server.enter_context(serving(service)) for server, service in services]
        reward = stack.enter_context(serving(None))
        settings = make_settings(
            database_url,
            redis_url,
            tmp_path,
            trainer_addresses=tuple(addresses[:1]),
            rollout_addresses=tuple(addresses[1:]),
            reward_address=reward,
        )
        context = stack.enter_context(scheduler_context(settings))
        by_address = dict(zip(addresses, servers, strict=True))
        yield World(
            context, trainer, replicas, addresses[0], addresses[1:], tmp_path, stack, by_address
        )


def test_a_queued_job_gets_services_and_runs(world: World) -> None:
    job_id = world.submit(resources={"rollout_replicas": 2, "rollout_batch_size": 6}, seed=5)

    dispatch(world.context)
    leased = world.leases()
    reconcile(world.context, job_id)

    request = world.trainer.started[0]
    assert leased == {world.trainer_address, *world.replica_addresses}
    assert (request.job_id, request.attempt) == (job_id, 1)
    assert list(request.rollout_addresses) == world.replica_addresses
    assert '"seed":5' in request.spec_json
    assert dict(request.files) == {
        str(world.directory / "rows.jsonl"): str(world.directory / "rows.jsonl")
    }
    assert request.job_dir == str(world.directory / "jobs" / job_id)
    for replica in world.replicas:
        [assignment] = replica.assigned
        assert (assignment.job_id, assignment.attempt, assignment.max_batch_size) == (job_id, 1, 6)
        assert (
            assignment.prompts_stream == request.prompts_stream == stream_names(job_id, 1).prompts
        )
        # 1024 prompt tokens and 512 response tokens of the defaults, and a block for rounding up.
        assert assignment.max_sequence_tokens == 1024 + 512 + 4
        assert assignment.reward_address == world.context.fleet.reward
    job = world.job(job_id)
    assert (job.state, job.attempt, job.waiting_for) == ("running", 1, None)
    assert job.started_at is not None


def test_a_job_says_which_service_it_waits_for_and_starts_once_it_is_there(world: World) -> None:
    world.shut(world.replica_addresses[0])
    world.shut(world.replica_addresses[1])
    job_id = world.submit()

    dispatch(world.context)
    dispatch(world.context)
    waiting = world.job(job_id)
    world.stack.enter_context(serving(ScriptedReplica(), world.replica_addresses[0]))
    _until_placed(world, job_id)

    assert (waiting.state, waiting.waiting_for) == ("queued", "rollout")
    assert world.job(job_id).waiting_for is None
    with world.context.database.begin() as session:
        said = session.scalars(
            select(JobEvent.data).where(JobEvent.type == "waiting").order_by(JobEvent.position)
        )
        assert [data["waiting_for"] for data in said] == ["rollout", None]


def _until_placed(world: World, job_id: str) -> None:
    for _ in range(200):
        dispatch(world.context)
        if world.job(job_id).state == "provisioning":
            return
    raise AssertionError("the job was not placed")


def test_a_second_job_waits_for_the_trainer_until_the_first_is_done(world: World) -> None:
    first, second = world.run(), world.submit()

    dispatch(world.context)
    waiting = world.job(second)
    world.trainer.end("succeeded")
    reconcile(world.context, first)
    dispatch(world.context)

    assert (waiting.state, waiting.waiting_for) == ("queued", "trainer")
    assert world.job(second).state == "provisioning"


def test_a_job_that_needs_more_replicas_than_run_says_so_and_others_go_ahead(world: World) -> None:
    never = world.submit(resources={"rollout_replicas": 3})
    later = world.submit(resources={"rollout_replicas": 2})

    dispatch(world.context)

    assert world.job(later).state == "provisioning"
    waiting = world.job(never)
    assert (waiting.state, waiting.waiting_for) == ("queued", "rollout")
    assert "needs 3 rollout replicas" in str(waiting.waiting_reason)
    with world.context.database.begin() as session:
        said = session.scalars(
            select(JobEvent.data).where(JobEvent.type == "waiting", JobEvent.job_id == never)
        )
        assert [data["reason"] for data in said] == [waiting.waiting_reason]


def test_a_job_that_waits_for_leased_replicas_still_keeps_its_turn(world: World) -> None:
    first = world.run(resources={"rollout_replicas": 1})
    both = world.submit(resources={"rollout_replicas": 2})
    one = world.submit(resources={"rollout_replicas": 1})
    world.trainer.end("succeeded")

    dispatch(world.context)

    assert world.job(first).state == "running"
    assert (world.job(both).waiting_for, world.job(both).waiting_reason) == ("trainer", None)
    assert world.job(one).state == "queued"


def test_a_project_of_urgent_jobs_does_not_starve_another_one(world: World) -> None:
    """One trainer: when a job ends, the other project has its turn, whatever the priorities."""
    loud = [world.submit(method="sft") for _ in range(3)]
    quiet = [world.submit(method="sft") for _ in range(2)]
    with world.context.database.begin() as session:
        session.execute(
            update(Job).where(Job.id.in_(loud)).values(project="loud", priority=100, key_id="key_l")
        )
        session.execute(update(Job).where(Job.id.in_(quiet)).values(project="quiet"))

    ran = []
    for _ in range(5):
        dispatch(world.context)
        (job_id,) = active_jobs(world.context)
        reconcile(world.context, job_id)
        world.trainer.end("succeeded")
        reconcile(world.context, job_id)
        ran.append("loud" if job_id in loud else "quiet")

    assert ran == ["loud", "quiet", "loud", "quiet", "loud"]


def test_success_comes_after_the_last_journalled_event_and_gives_everything_back(
    world: World,
) -> None:
    job_id = world.run()
    world.context.redis.xadd(stream_names(job_id, 1).groups, {"m": b""})
    world.trainer.journal(
        job_id, 1, (EventType.CHECKPOINT, CHECKPOINT), (EventType.METRICS, METRICS)
    )
    world.trainer.end("succeeded")

    reconcile(world.context, job_id)

    job = world.job(job_id)
    assert (job.state, job.latest_metrics) == ("succeeded", {"reward/mean": 0.5})
    assert job.finished_at is not None
    assert job.result_checkpoint is not None
    assert world.replicas[0].released == [(job_id, 1)]
    assert world.leases() == set()
    assert list(world.context.redis.scan_iter(f"dirl:{job_id}:*")) == []
    assert [(a.state, a.events_complete) for a in world.attempts(job_id)] == [("succeeded", True)]


def test_the_next_attempt_is_told_how_many_steps_are_recorded(world: World) -> None:
    job_id = world.run()
    with world.context.database.begin() as session:
        session.get_one(Job, job_id).progress = {"step": 7}
    world.trainer.end("failed", "oom_train", "out of memory", retryable=True)
    reconcile(world.context, job_id)

    start_next_attempt(world, job_id)

    assert [request.steps_recorded for request in world.trainer.started] == [0, 7]


def test_a_retryable_failure_is_followed_by_the_next_attempt_three_times(world: World) -> None:
    job_id = world.run()

    for number in (1, 2, 3):
        assert world.trainer.started[-1].attempt == number
        world.trainer.end("failed", "oom_train", "out of memory", retryable=True)
        reconcile(world.context, job_id)
        start_next_attempt(world, job_id)

    job = world.job(job_id)
    assert (job.state, job.error_code, job.error_message) == (
        "failed",
        "oom_train",
        "out of memory It is failure 3 in a row. The job has failed: no attempt follows unless it is rerun.",
    )
    assert [attempt.error_code for attempt in world.attempts(job_id)] == ["oom_train"] * 3
    assert len(world.trainer.started) == 3


def start_next_attempt(world: World, job_id: str) -> None:
    """As the beat does once the delay between two attempts is over."""
    with world.context.database.begin() as session:
        session.execute(update(Job).values(retry_at=None))
    dispatch(world.context)
    reconcile(world.context, job_id)


def test_attempts_that_the_environment_fails_are_delayed_and_then_pause_the_job(
    world: World,
) -> None:
    job_id = world.run()
    at_once: list[bool] = []

    for number in range(1, 9):
        assert world.trainer.started[-1].attempt == number
        world.trainer.end("failed", "storage_unavailable", "It is read-only.", retryable=True)
        reconcile(world.context, job_id)
        dispatch(world.context)
        reconcile(world.context, job_id)
        at_once.append(world.trainer.started[-1].attempt > number)
        if number == 2:
            delayed = world.job(job_id)
        if not at_once[-1] and number < 8:
            start_next_attempt(world, job_id)

    assert at_once == [True] + [False] * 7
    assert delayed.state == "provisioning"
    assert delayed.retry_reason == "storage_unavailable: It is read-only."
    assert delayed.retry_at is not None
    assert delayed.retry_at > delayed.created_at
    paused = world.job(job_id)
    assert (paused.state, paused.error_code, paused.retry_at) == (
        "paused",
        "storage_unavailable",
        None,
    )
    assert "It is failure 8 in a row. The job is paused" in (paused.error_message or "")


def test_an_attempt_is_placed_once_its_delay_is_over(world: World) -> None:
    job_id = world.run()
    for _ in range(2):
        world.trainer.end("failed", "worker_lost", "killed", retryable=True)
        reconcile(world.context, job_id)
        dispatch(world.context)
        reconcile(world.context, job_id)
    assert world.job(job_id).attempt == 2

    with world.context.database.begin() as session:
        session.execute(update(Job).values(retry_at=func.now() - timedelta(seconds=1)))
    dispatch(world.context)

    assert (world.job(job_id).attempt, world.job(job_id).retry_at) == (3, None)


def test_failures_count_from_the_last_attempt_that_wrote_a_checkpoint(world: World) -> None:
    job_id = world.run()

    for number in range(1, 7):
        assert world.trainer.started[-1].attempt == number
        if number in (3, 4):
            add_checkpoint(world, job_id, number)
        world.trainer.end("failed", "oom_train", "out of memory", retryable=True)
        reconcile(world.context, job_id)
        start_next_attempt(world, job_id)

    assert world.job(job_id).state == "failed"
    assert len(world.trainer.started) == 6


def add_checkpoint(world: World, job_id: str, attempt: int) -> None:
    """What the recorder stores when the attempt has written one."""
    with world.context.database.begin() as session:
        session.add(
            Checkpoint(
                id=f"ckpt_{attempt}",
                job_id=job_id,
                attempt=attempt,
                step=attempt,
                stage="rl",
                path=f"/checkpoints/step-{attempt}",
                weight_version=attempt,
                weight_digest="d",
                num_bytes=1,
            )
        )


def test_a_failure_that_is_not_retryable_ends_the_job(world: World) -> None:
    job_id = world.run()
    world.trainer.end("failed", "nan_loss", "loss is NaN at step 3")

    reconcile(world.context, job_id)

    assert (world.job(job_id).state, world.job(job_id).error_code) == ("failed", "nan_loss")
    assert world.leases() == set()


def test_a_refused_start_fails_the_job_with_the_trainers_message(world: World) -> None:
    world.trainer.refusal = PlatformError("model_invalid", "no tokenizer in the directory")
    job_id = world.submit()

    dispatch(world.context)
    reconcile(world.context, job_id)

    job = world.job(job_id)
    assert (job.state, job.error_code) == ("failed", "model_invalid")
    assert "no tokenizer in the directory" in (job.error_message or "")


def test_a_trainer_that_vanishes_during_the_start_is_retried_before_the_attempt_fails(
    world: World,
) -> None:
    job_id = world.submit()
    dispatch(world.context)
    world.shut(world.trainer_address)

    reconcile(world.context, job_id)
    patient = world.job(job_id)
    with world.context.database.begin() as session:
        session.execute(update(Attempt).values(created_at=utc_now() - timedelta(minutes=5)))
    reconcile(world.context, job_id)

    assert (patient.state, patient.waiting_for) == ("provisioning", "trainer")
    assert [attempt.error_code for attempt in world.attempts(job_id)] == ["trainer_unavailable"]
    assert (world.job(job_id).state, world.leases()) == ("provisioning", set())


def test_a_silent_trainer_is_waited_for_and_then_its_attempt_is_lost(world: World) -> None:
    job_id = world.run()
    world.shut(world.trainer_address)

    reconcile(world.context, job_id)
    waiting = world.job(job_id)
    with world.context.database.begin() as session:
        session.execute(update(Attempt).values(unreachable_since=utc_now() - timedelta(minutes=5)))
    reconcile(world.context, job_id)

    assert (waiting.state, waiting.waiting_for) == ("running", "trainer")
    [attempt] = world.attempts(job_id)
    assert (attempt.error_code, attempt.events_complete) == ("worker_lost", False)
    assert world.job(job_id).state == "provisioning"


def test_a_trainer_that_was_restarted_has_lost_its_attempt(world: World) -> None:
    job_id = world.run()
    world.trainer.job_id, world.trainer.attempt, world.trainer.state = "", 0, "idle"

    reconcile(world.context, job_id)
    dispatch(world.context)
    reconcile(world.context, job_id)

    assert [attempt.error_code for attempt in world.attempts(job_id)] == ["worker_lost", None]
    assert (world.job(job_id).state, world.job(job_id).attempt) == ("running", 2)


def test_an_attempt_whose_trainer_was_stopped_on_purpose_is_not_a_failure(world: World) -> None:
    job_id = world.run()

    for number in range(1, 5):
        world.trainer.left_behind[job_id, number] = "stopped"
        world.trainer.job_id, world.trainer.attempt, world.trainer.state = "", 0, "idle"
        reconcile(world.context, job_id)
        dispatch(world.context)
        reconcile(world.context, job_id)

    assert [attempt.state for attempt in world.attempts(job_id)] == [*["stopped"] * 4, "running"]
    assert world.job(job_id).state == "running"


def test_the_events_of_a_lost_attempt_are_read_when_a_trainer_is_back(world: World) -> None:
    job_id = world.run()
    world.trainer.journal(job_id, 1, (EventType.METRICS, METRICS))
    world.shut(world.trainer_address)
    with world.context.database.begin() as session:
        session.execute(update(Attempt).values(unreachable_since=utc_now() - timedelta(minutes=5)))
    reconcile(world.context, job_id)

    world.stack.enter_context(serving(world.trainer, world.trainer_address))
    for _ in range(200):
        prune(world.context)
        if world.attempts(job_id)[0].events_complete:
            break

    with world.context.database.begin() as session:
        assert [metric.name for metric in session.scalars(select(Metric))] == ["reward/mean"]


def test_a_learner_whose_attempt_was_given_up_is_stopped(world: World) -> None:
    world.trainer.job_id, world.trainer.attempt, world.trainer.state = "job_gone", 4, "running"
    job_id = world.submit()

    dispatch(world.context)

    assert [(stop.job_id, stop.attempt) for stop in world.trainer.stops] == [("job_gone", 4)]
    assert world.job(job_id).waiting_for == "trainer"


def test_a_trainer_of_another_release_gets_no_job_until_it_is_replaced(world: World) -> None:
    world.trainer.spec_digest = ""  # of a release that states none
    job_id = world.submit()

    dispatch(world.context)
    waiting = world.job(job_id)
    world.trainer.spec_digest = schema_digest()
    dispatch(world.context)

    assert (waiting.state, waiting.waiting_for, waiting.attempt) == ("queued", "trainer", 0)
    assert world.job(job_id).state == "provisioning"


def test_a_replica_that_was_restarted_is_assigned_again(world: World) -> None:
    job_id = world.run()
    world.replicas[0].assignment = None

    reconcile(world.context, job_id)
    reconcile(world.context, job_id)

    assert [(a.job_id, a.attempt) for a in world.replicas[0].assigned] == [(job_id, 1)] * 2
    assert world.job(job_id).state == "running"


def test_a_dead_replica_is_named_and_the_job_continues(world: World) -> None:
    job_id = world.run(resources={"rollout_replicas": 2})
    world.shut(world.replica_addresses[1])

    reconcile(world.context, job_id)

    assert (world.job(job_id).state, world.job(job_id).waiting_for) == ("running", "rollout")


def test_a_cancelled_job_stops_its_learner_and_keeps_the_last_checkpoint(world: World) -> None:
    job_id = world.run()
    world.steer(job_id, JobState.CANCELLING)

    reconcile(world.context, job_id)
    reconcile(world.context, job_id)
    while_stopping = world.job(job_id).state
    world.trainer.journal(job_id, 1, (EventType.CHECKPOINT, CHECKPOINT))
    world.trainer.end("stopped")
    reconcile(world.context, job_id)

    assert [(stop.job_id, stop.attempt) for stop in world.trainer.stops] == [(job_id, 1)]
    assert while_stopping == "cancelling"
    job = world.job(job_id)
    assert job.state == "cancelled"
    assert job.result_checkpoint is not None
    assert world.leases() == set()


def test_a_job_cancelled_while_it_is_provisioned_does_not_start(world: World) -> None:
    job_id = world.submit()
    dispatch(world.context)
    world.steer(job_id, JobState.CANCELLING)

    reconcile(world.context, job_id)

    assert (world.job(job_id).state, world.trainer.started, world.leases()) == (
        "cancelled",
        [],
        set(),
    )


def test_a_paused_job_gives_its_services_back_and_resumes_as_the_next_attempt(world: World) -> None:
    job_id = world.run()
    world.steer(job_id, JobState.PAUSING)
    reconcile(world.context, job_id)
    world.trainer.end("stopped")
    reconcile(world.context, job_id)
    paused, leases = world.job(job_id), world.leases()

    world.steer(job_id, JobState.QUEUED)
    dispatch(world.context)
    reconcile(world.context, job_id)

    assert (paused.state, paused.finished_at, leases) == ("paused", None, set())
    assert (world.job(job_id).state, world.trainer.started[-1].attempt) == ("running", 2)


def test_events_that_the_stream_lost_are_read_from_the_journal_a_round_later(world: World) -> None:
    job_id = world.run()
    world.trainer.journal(job_id, 1, (EventType.METRICS, METRICS))

    reconcile(world.context, job_id)
    first_round = world.attempts(job_id)[0].last_event_seq
    reconcile(world.context, job_id)

    assert first_round == 0
    assert world.attempts(job_id)[0].last_event_seq == 1
    assert world.job(job_id).latest_metrics == {"reward/mean": 0.5}


def test_a_task_that_finds_the_job_locked_does_nothing(world: World) -> None:
    job_id = world.submit()
    dispatch(world.context)
    with world.context.database.begin() as session:
        session.execute(
            update(Job).values(lock_expires_at=utc_now() + timedelta(minutes=1), lock_token="other")
        )

    assert reconcile(world.context, job_id) is False
    assert world.trainer.started == []


def test_finished_and_waiting_jobs_are_not_watched(world: World) -> None:
    finished, waiting = world.run(), world.submit()
    world.trainer.end("succeeded")
    watched = active_jobs(world.context)

    reconcile(world.context, finished)

    assert watched == [finished]
    assert active_jobs(world.context) == []
    assert world.job(waiting).state == "queued"


def test_pruning_deletes_the_streams_of_ended_attempts_only(world: World) -> None:
    job_id = world.run()
    ended, running = stream_names(job_id, 7).prompts, stream_names(job_id, 1).prompts
    for name in (ended, running):
        world.context.redis.xadd(name, {"m": b""})

    prune(world.context)

    assert world.context.redis.exists(ended) == 0
    assert world.context.redis.exists(running) == 1


def test_a_silent_learner_makes_its_job_stalled_with_a_dump_of_its_stacks_until_it_speaks_again(
    world: World,
) -> None:
    job_id = world.run()
    _set_last_heartbeat(world, job_id, seconds_ago=1000)
    reconcile(world.context, job_id)
    reconcile(world.context, job_id)
    stalled = world.job(job_id).stalled
    _set_last_heartbeat(world, job_id, seconds_ago=1)
    reconcile(world.context, job_id)

    assert stalled is not None
    assert (stalled["phase"], stalled["budget_s"]) == ("loading", 900.0)
    assert [(dump.job_id, dump.attempt) for dump in world.trainer.dumps] == [(job_id, 1)]
    assert world.job(job_id).stalled is None
    assert [kind for kind in _event_types(world, job_id) if kind in ("stalled", "recovered")] == [
        "stalled",
        "recovered",
    ]


def test_a_learner_that_stays_silent_is_stopped_and_the_next_attempt_tries_again(
    world: World,
) -> None:
    job_id = world.run()
    _set_last_heartbeat(world, job_id, seconds_ago=5000)

    reconcile(world.context, job_id)

    (attempt,) = world.attempts(job_id)
    assert (attempt.state, attempt.error_code) == ("failed", "deadline_exceeded")
    assert world.job(job_id).state == "provisioning"
    assert world.trainer.stops[-1].grace_s == 0.0


def _set_last_heartbeat(world: World, job_id: str, *, seconds_ago: float) -> None:
    with world.context.database.begin() as session:
        lock_job(session, job_id).last_heartbeat_at = utc_now() - timedelta(seconds=seconds_ago)


def _event_types(world: World, job_id: str) -> list[str]:
    with world.context.database.begin() as session:
        wanted = select(JobEvent.type).where(JobEvent.job_id == job_id).order_by(JobEvent.position)
        return list(session.scalars(wanted))
