"""Events into tables: each once, in order, whichever process applies them."""

import math
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from services.api.db.jobs import find_recent_log, get_job
from services.api.db.record_tables import Checkpoint, Evaluation, JobEvent, TrajectoryGroup
from services.api.db.series import Metric
from services.api.recorder.apply import apply_events
from services.api.recorder.consumer import Recorder
from services.api.scheduler.context import SchedulerContext
from services.common.codec import group_to_json
from services.common.errors import PlatformError
from services.common.events import STREAMS_LOST, Event, EventType
from services.common.streams import EventConsumer, EventQueue
from tests.support.builders import prompt_task, scored_group
from tests.support.control_plane import (
    ScriptedTrainer,
    make_settings,
    migrated_database,
    read_attempts,
    read_job,
    run_attempt,
    scheduler_context,
    serving,
    submit,
    until,
)
from tests.support.processes import prometheus_samples, running_process
from tests.support.servers import Postgres, free_address


@dataclass
class Recording:
    """A running job, its trainer's journal, and the two ends of the events stream."""

    context: SchedulerContext
    trainer: ScriptedTrainer
    job_id: str
    queue: EventQueue
    consumer: EventConsumer
    recorder: Recorder

    def events(self, *facts: tuple[EventType, dict[str, Any]], attempt: int = 1) -> list[Event]:
        """Events that the learner journals."""
        return self.trainer.journal(self.job_id, attempt, *facts)

    def apply(self, events: list[Event]) -> bool:
        """Apply in a transaction; whether a gap was left."""
        with self.context.database.begin() as session:
            return apply_events(session, self.job_id, events[0].attempt, events).gap

    def count(self, table: Any) -> int:
        """Rows of a table."""
        with self.context.database.begin() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def learner_events(self) -> list[JobEvent]:
        """Recorded events of the learner, in order."""
        with self.context.database.begin() as session:
            numbered = select(JobEvent).where(JobEvent.seq.is_not(None)).order_by(JobEvent.position)
            return list(session.scalars(numbered))


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        yield url


@pytest.fixture
def recording(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Recording]:
    """A job whose first attempt runs."""
    trainer = ScriptedTrainer()
    with serving(trainer) as address:
        settings = make_settings(database_url, redis_url, tmp_path, trainer_addresses=(address,))
        with scheduler_context(settings) as context:
            job_id = submit(context.database, tmp_path)
            run_attempt(context.database, job_id, address)
            consumer = EventConsumer(context.redis, "test", lease_ms=100)
            recorder = Recorder(context.database, context.journals, context.redis)
            yield Recording(context, trainer, job_id, EventQueue(context.redis), consumer, recorder)


def log(message: str = "hello") -> tuple[EventType, dict[str, Any]]:
    return EventType.LOG, {"level": "info", "code": "note", "message": message}


def metrics(step: int, **values: float) -> tuple[EventType, dict[str, Any]]:
    return EventType.METRICS, {
        "step": step,
        "values": {name.replace("_", "/"): value for name, value in values.items()},
    }


def checkpoint(step: int, *deleted: str) -> tuple[EventType, dict[str, Any]]:
    data = {
        "step": step,
        "stage": "rl",
        "path": f"/c/{step}",
        "weight_version": step,
        "weight_digest": "d",
        "bytes": 9,
    }
    return EventType.CHECKPOINT, {**data, "deleted": list(deleted)}


def group(group_id: str, *outcomes: str, text: str = "4") -> tuple[EventType, dict[str, Any]]:
    trajectories = [
        {
            "trajectory_id": f"{group_id.replace('grp_', 'traj_')}_{index}",
            "text": text,
            "verdict": {
                "outcome": outcome,
                "rewards": {"accuracy": 1.0} if outcome == "correct" else {},
            },
        }
        for index, outcome in enumerate(outcomes)
    ]
    data = {
        "step": 3,
        "purpose": "train",
        "disposition": "trained",
        "advantages": [0.5] * len(outcomes),
    }
    return EventType.TRAJECTORIES, {
        **data,
        "group": {"group_id": group_id, "trajectories": trajectories},
    }


def certificate(**changes: Any) -> dict[str, Any]:
    """A certificate that holds."""
    fields = {
        "moment": "resume", "resumed_from": 0, "steps_undone": 0, "skipped_checkpoints": [], "issued": 8,
        "trained": 8, "dropped": {}, "open": 0, "lost": 0, "trained_twice": 0, "digest_before": "d",
        "digest_after": "d",
    }  # fmt: skip
    return {**fields, **changes}


def test_every_type_of_event_reaches_its_table(recording: Recording) -> None:
    recording.apply(
        recording.events(
            (EventType.PHASE, {"phase": "rollout", "stage": "rl", "waiting_for": "rollout"}),
            (
                EventType.PROGRESS,
                {"stage": "rl", "stage_step": 1, "stage_steps": 4, "step": 3, "total_steps": 6},
            ),
            metrics(3, reward_mean=0.25, train_loss=1.5),
            checkpoint(3),
            group("grp_a", "correct", "incorrect"),
            (
                EventType.EVALUATION,
                {"step": 3, "stage": "rl", "dataset": "validation", "results": {"accuracy": 0.5}},
            ),
            (EventType.CERTIFICATE, certificate(resumed_from=2)),
            log(),
        )
    )

    job = read_job(recording.context.database, recording.job_id)
    assert (job.phase, job.stage, job.learner_waiting_for) == ("rollout", "rl", "rollout")
    assert job.progress is not None
    assert (job.progress["step"], job.progress["total_steps"]) == (3, 6)
    assert job.latest_metrics == {"reward/mean": 0.25, "train/loss": 1.5}
    [attempt] = read_attempts(recording.context.database, recording.job_id)
    assert (attempt.last_event_seq, attempt.resumed_from) == (8, 2)
    assert attempt.certificate == job.certificate == certificate(resumed_from=2)
    with recording.context.database.begin() as session:
        kept = session.scalars(select(TrajectoryGroup)).one()
        assert (kept.outcomes, kept.max_reward, kept.step) == (["correct", "incorrect"], 1.0, 3)
        assert session.scalars(select(Evaluation)).one().results == {"accuracy": 0.5}
        assert session.scalars(select(Checkpoint)).one().path == "/c/3"
        assert {
            row.name: row.value for row in session.scalars(select(Metric))
        } == job.latest_metrics
    assert [event.type for event in recording.learner_events()][-1] == "log"
    # The group is too large to be said twice.
    assert recording.learner_events()[4].data == {
        "step": 3, "purpose": "train", "disposition": "trained", "group_id": "grp_a",
    }  # fmt: skip


def test_applying_events_twice_changes_nothing(recording: Recording) -> None:
    events = recording.events(metrics(1, a=1.0), checkpoint(1), group("grp_a", "correct"), log())

    for _ in range(3):
        recording.apply(events)

    assert [event.seq for event in recording.learner_events()] == [1, 2, 3, 4]
    assert [recording.count(table) for table in (Metric, Checkpoint, TrajectoryGroup)] == [1, 1, 1]


def test_events_that_two_processes_bring_at_once_are_applied_once(recording: Recording) -> None:
    events = recording.events(*[log(str(number)) for number in range(50)])

    def bring(seed: int) -> None:
        mine = events.copy()
        random.Random(seed).shuffle(mine)
        for start in range(0, 50, 10):
            recording.apply(mine[start : start + 10])
        recording.apply(events)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring, range(4)))

    assert [event.data["message"] for event in recording.learner_events()] == [
        str(number) for number in range(50)
    ]


def test_events_after_a_gap_are_left_out(recording: Recording) -> None:
    events = recording.events(log(), log(), log(), log())

    assert recording.apply([events[0], events[2], events[3]]) is True
    assert [event.seq for event in recording.learner_events()] == [1]
    assert recording.apply(events) is False
    assert [event.seq for event in recording.learner_events()] == [1, 2, 3, 4]


def test_the_recorder_fills_a_gap_from_the_journal_and_acknowledges(recording: Recording) -> None:
    events = recording.events(*[log() for _ in range(2500)])
    for event in events[-3:]:
        recording.queue.send(event)

    taken = recording.recorder.step(recording.consumer, block_ms=0)

    assert taken == 3
    assert len(recording.learner_events()) == 2500
    assert recording.context.redis.xlen("dirl:events") == 0


def test_a_gap_that_no_trainer_can_fill_is_left_to_the_scheduler(recording: Recording) -> None:
    events = recording.events(log(), log())
    recording.trainer.journals.clear()
    recording.queue.send(events[1])

    recording.recorder.step(recording.consumer, block_ms=0)

    assert recording.learner_events() == []
    assert recording.context.redis.xlen("dirl:events") == 0


@pytest.mark.parametrize("command", ["FLUSHALL", "XGROUP DESTROY dirl:events recorder"])
def test_a_stream_or_group_that_vanishes_costs_the_recorder_a_second(
    recording: Recording, command: str
) -> None:
    events = recording.events(log(), log(), log())
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(recording.recorder.run, ended)
        recording.queue.send(events[0])
        until(lambda: len(recording.learner_events()) == 1)
        recording.queue.send(events[1])
        recording.context.redis.execute_command(*command.split())
        recording.queue.send(events[2])
        try:
            until(lambda: len(recording.learner_events()) == 3)
        finally:
            ended.set()
            running.result(10)


def test_the_diagnosis_finds_what_the_learner_said_a_short_time_ago(recording: Recording) -> None:
    lost = {"level": "warning", "code": STREAMS_LOST, "message": "Redis lost 3 prompts."}
    old, new = recording.events((EventType.LOG, {**lost, "message": "old"}), (EventType.LOG, lost))

    def find() -> str | None:
        with recording.context.database.begin() as session:
            job = get_job(session, recording.job_id)
            return find_recent_log(session, job, STREAMS_LOST, timedelta(minutes=5))

    recording.apply([old.model_copy(update={"time": time.time() - 400})])
    assert find() is None
    recording.apply([new.model_copy(update={"time": time.time()})])
    assert find() == "Redis lost 3 prompts."


def test_events_are_acknowledged_only_after_the_commit(recording: Recording) -> None:
    [event] = recording.events(log())
    recording.queue.send(event)

    class Broken(Exception):
        pass

    @contextmanager
    def failing() -> Iterator[None]:
        raise Broken
        yield

    sound = recording.context.database.begin
    recording.recorder._next_heartbeat = math.inf
    recording.context.database.begin = failing  # type: ignore[method-assign,assignment] - a database that fails
    with pytest.raises(Broken):
        recording.recorder.step(recording.consumer, block_ms=0)
    recording.context.database.begin = sound  # type: ignore[method-assign]

    until(lambda: recording.recorder.step(recording.consumer, block_ms=0) == 1)
    assert len(recording.learner_events()) == 1


def test_events_of_unknown_jobs_are_dropped(recording: Recording) -> None:
    stranger = Event(job_id="job_unknown", attempt=1, seq=1, type=EventType.LOG, time=1.0, data={})
    recording.queue.send(stranger)
    [event] = recording.events(log())
    recording.queue.send(event)

    assert recording.recorder.step(recording.consumer, block_ms=0) == 2
    assert len(recording.learner_events()) == 1
    with (
        pytest.raises(PlatformError, match="job_unknown"),
        recording.context.database.begin() as session,
    ):
        apply_events(session, "job_unknown", 1, [stranger])


def test_an_event_that_cannot_be_understood_is_kept_and_said(recording: Recording) -> None:
    recording.apply(recording.events((EventType.CHECKPOINT, {"step": 3}), log("after")))

    assert [event.type for event in recording.learner_events()] == ["checkpoint", "log"]
    with recording.context.database.begin() as session:
        said = session.scalars(
            select(JobEvent).where(JobEvent.seq.is_(None), JobEvent.type == "log")
        ).one()
    assert said.data["level"] == "error"
    assert "Event 1 (checkpoint) could not be recorded in full" in said.data["message"]


def test_nul_characters_and_numbers_that_are_none_do_not_cost_an_event(
    recording: Recording,
) -> None:
    recording.apply(
        recording.events(group("grp_n", "incorrect", text="a\x00b"), metrics(1, a=math.nan, b=2.0))
    )

    assert read_job(recording.context.database, recording.job_id).latest_metrics == {"b": 2.0}
    assert recording.count(TrajectoryGroup) == 1
    assert [event.seq for event in recording.learner_events()] == [1, 2]


def test_a_deleted_checkpoint_is_marked_and_never_the_result(recording: Recording) -> None:
    recording.apply(recording.events(checkpoint(1), checkpoint(2), checkpoint(3, "/c/1")))

    with recording.context.database.begin() as session:
        rows = {row.step: row.deleted_at for row in session.scalars(select(Checkpoint))}
    assert rows[1] is not None
    assert (rows[2], rows[3]) == (None, None)


def test_late_events_of_an_earlier_attempt_do_not_set_the_job_back(recording: Recording) -> None:
    late = recording.events(
        (EventType.PHASE, {"phase": "train", "stage": "sft"}), metrics(9, a=9.0)
    )
    with recording.context.database.begin() as session:
        attempt = session.merge(read_attempts(recording.context.database, recording.job_id)[0])
        attempt.ended_at = func.now()

    recording.apply(late)

    job = read_job(recording.context.database, recording.job_id)
    assert (job.phase, job.latest_metrics) == (None, {})
    assert recording.count(Metric) == 1


def test_a_group_as_the_codec_writes_it_is_recorded(recording: Recording) -> None:
    scored = scored_group()
    data = {
        "step": 1,
        "purpose": "train",
        "disposition": "trained",
        "group": group_to_json(prompt_task(num_generations=1), scored),
        "advantages": [1.0],
    }

    recording.apply(recording.events((EventType.TRAJECTORIES, data)))

    with recording.context.database.begin() as session:
        row = session.scalars(select(TrajectoryGroup)).one()
    assert (row.group_id, row.outcomes, row.max_reward) == (scored.group_id, ["correct"], 1.0)


def test_the_process_records_and_ends_on_sigterm(
    recording: Recording, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {
        "DIRL_DATABASE_URL": database_url,
        "DIRL_REDIS_URL": redis_url,
        "DIRL_DATA_DIR": str(tmp_path),
        "DIRL_TRAINER_ADDRESSES": recording.context.fleet.trainers[0],
        "DIRL_METRICS_LISTEN": free_address(),
    }
    with running_process(
        "services.api.recorder", tmp_path / "recorder.log", environment
    ) as process:
        process.wait_until(lambda: "recorder ready" in process.output(), "ready")
        for event in recording.events(log(), log()):
            recording.queue.send(event)
        process.wait_until(lambda: len(recording.learner_events()) == 2, "recorded")

        counted = prometheus_samples(environment["DIRL_METRICS_LISTEN"])
        assert counted["dirl_recorder_events_total"] == 2
        assert counted["dirl_recorder_batch_seconds_count"] >= 1
        assert process.terminate() == 0
        assert process.group_is_gone()
