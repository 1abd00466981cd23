"""Waiting for groups on a real stream: what is taken, refused, issued again."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import torch

from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.streams import GroupQueue, PromptConsumer, connect, stream_names
from services.common.trajectory import PromptTask, ScoredGroup
from services.trainer.learner import rollouts
from services.trainer.learner.journal import Journal, Reporter
from services.trainer.learner.lifecycle import StopRequestedError, StopSignal
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.weight_snapshot import WeightSnapshot
from tests.support.builders import prompt_task, scored_group, trajectory
from tests.support.learners import learner_request
from tests.support.replicas import ScriptedReplica, serving
from tests.support.servers import running_valkey
from tests.support.trainer import of_kind, wait_until

WEIGHTS = WeightSnapshot(4, {"w": torch.ones(2)})
NAMES = stream_names("job_1", 1)
SPEC = {"model": "m", "method": "rl", "training_file": "rows.jsonl"}


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, event: Event) -> None:
        self.events.append(event)


Answers = Callable[[PromptTask], Sequence[ScoredGroup]]


class AnsweringReplica:
    """Takes prompts from the stream, as many at a time as lie there, and answers the last one
    first.
    """

    def __init__(self, redis_url: str, answers: Answers) -> None:
        self._client, self._answers = connect(redis_url), answers
        names = stream_names("job_1", 1)
        self._prompts = PromptConsumer(self._client, names.prompts, "replica-0", 60_000)
        self._groups = GroupQueue(self._client, names.groups)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.issued: list[str] = []
        self.largest_take = 0
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                leased = self._prompts.take(1000, 20)
            except PlatformError as error:  # a replica waits for its streams, too
                assert error.code == "queue_unavailable"  # noqa: PT017
                continue
            self.largest_take = max(self.largest_take, len(leased))
            self.issued += [lease.value.group_id for lease in leased]
            self._prompts.ack([lease.entry_id for lease in leased])
            for lease in reversed(leased):
                for group in self._answers(lease.value):
                    self._groups.add(group)


class Wiring:
    """A learner's side of the data plane."""

    def __init__(self, stack: ExitStack, directory: Path, redis_url: str) -> None:
        client = stack.enter_context(closing(connect(redis_url)))
        self.sink, self.stop = Sink(), StopSignal()
        journal = stack.enter_context(closing(Journal(directory, "job_1", 1, self.sink)))
        address = stack.enter_context(serving(ScriptedReplica(state="ready", weight_version=4)))
        report = Reporter(journal)
        replicas = stack.enter_context(closing(Replicas([address], "job_1", 1, report)))
        self.rollouts = Rollouts(
            learner_request(directory, SPEC), client, report, self.stop, replicas
        )
        self._stack, self._redis_url = stack, redis_url

    def answer_with(self, answers: Answers) -> AnsweringReplica:
        """A replica that answers so."""
        return self._stack.enter_context(closing(AnsweringReplica(self._redis_url, answers)))

    def codes(self) -> list[str]:
        """Codes of the LOG events."""
        return [data["code"] for data in of_kind(self.sink.events, EventType.LOG)]


@pytest.fixture
def wiring(tmp_path: Path, redis_url: str) -> Iterator[Wiring]:
    with ExitStack() as stack:
        yield Wiring(stack, tmp_path, redis_url)


def tasks(count: int) -> list[PromptTask]:
    return [
        prompt_task(group_id=f"grp_{position}", ledger_position=position, num_generations=1)
        for position in range(count)
    ]


def answered(task: PromptTask, version: int = 4) -> ScoredGroup:
    return scored_group(group_id=task.group_id, trajectories=(trajectory(weight_version=version),))


def test_groups_come_back_in_ledger_order_whatever_order_they_arrive_in(wiring: Wiring) -> None:
    wiring.answer_with(lambda task: [answered(task)])

    groups = wiring.rollouts.collect(tasks(20), WEIGHTS, "rollout")

    assert [group.position for group in groups] == list(range(20))
    assert [group.task.group_id for group in groups] == [f"grp_{n}" for n in range(20)]


def test_a_group_of_other_weights_is_refused_and_its_prompt_issued_again(wiring: Wiring) -> None:
    versions = iter([3, 4])
    replica = wiring.answer_with(lambda task: [answered(task, next(versions))])

    groups = wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")

    assert [group.trajectories[0].weight_version for group in groups] == [4]
    assert replica.issued == ["grp_0", "grp_0"]
    assert wiring.codes() == ["stale_weights"]


def test_a_replica_that_never_learns_ends_the_attempt(wiring: Wiring) -> None:
    wiring.answer_with(lambda task: [answered(task, 3)])

    with pytest.raises(PlatformError, match="refused 4 times") as caught:
        wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")
    assert caught.value.code == "stale_weights"


def test_a_prompt_that_was_answered_twice_counts_once(wiring: Wiring) -> None:
    wiring.answer_with(lambda task: [answered(task)] * 2)

    first = wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")
    second = wiring.rollouts.collect(tasks(3)[1:], WEIGHTS, "rollout")

    assert [group.position for group in [*first, *second]] == [0, 1, 2]
    assert set(wiring.codes()) == {"unexpected_group"}


def test_a_group_of_an_id_that_was_never_issued_is_logged_and_dropped(wiring: Wiring) -> None:
    wiring.answer_with(lambda task: [scored_group(group_id="grp_of_another"), answered(task)])

    groups = wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")

    assert [group.scored.group_id for group in groups] == ["grp_0"]
    [event] = of_kind(wiring.sink.events, EventType.LOG)
    assert (event["code"], "grp_of_another" in event["message"]) == ("unexpected_group", True)


def test_an_incomplete_group_is_an_error(wiring: Wiring) -> None:
    wiring.answer_with(lambda task: [answered(task)])

    with pytest.raises(PlatformError, match="came with 1 responses; 2 were asked for"):
        wiring.rollouts.collect([replace(tasks(1)[0], num_generations=2)], WEIGHTS, "rollout")


def test_no_more_prompts_lie_in_the_stream_than_the_bound(wiring: Wiring) -> None:
    replica = wiring.answer_with(lambda task: [answered(task)])

    groups = wiring.rollouts.collect(tasks(600), WEIGHTS, "eval")

    assert len(groups) == 600
    assert replica.largest_take <= 256


def test_a_wait_for_groups_ends_when_the_attempt_is_asked_to(wiring: Wiring) -> None:
    def ask_for_the_end(_task: PromptTask) -> Sequence[ScoredGroup]:
        wiring.stop.request()
        return []

    wiring.answer_with(ask_for_the_end)

    with pytest.raises(StopRequestedError):
        wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")


Loss = Callable[[redis.Redis], object]


def answered_and_lost(client: redis.Redis) -> None:
    """A prompt whose group was in the groups stream when that was evicted is in neither stream."""
    client.xdel(NAMES.prompts, client.xrange(NAMES.prompts)[0][0])


@pytest.mark.parametrize(
    ("loss", "lost"),
    [
        pytest.param(lambda client: client.flushall(), 3, id="FLUSHALL"),
        pytest.param(lambda client: client.delete(NAMES.prompts), 3, id="the prompts stream"),
        pytest.param(
            lambda client: client.xgroup_destroy(NAMES.prompts, "rollout"), 0, id="XGROUP DESTROY"
        ),
        pytest.param(
            lambda client: client.xtrim(NAMES.prompts, maxlen=1, approximate=False),
            2,
            id="some entries",
        ),
        pytest.param(answered_and_lost, 1, id="a group"),
    ],
)
def test_what_redis_loses_is_noticed_said_and_issued_again(
    wiring: Wiring, redis_url: str, loss: Loss, lost: int
) -> None:
    with connect(redis_url) as client, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        PromptConsumer(client, NAMES.prompts, "replica-0", 60_000)
        stack.callback(wiring.stop.request)  # before the pool waits for a thread that failed
        collecting = pool.submit(wiring.rollouts.collect, tasks(3), WEIGHTS, "rollout")
        wait_until(lambda: client.xlen(NAMES.prompts) == 3, "three prompts in the stream", 10)
        loss(client)
        lost_at = time.monotonic()
        wait_until(lambda: "streams_lost" in wiring.codes(), "the loss is said", 10)
        noticed_s = time.monotonic() - lost_at
        replica = wiring.answer_with(lambda task: [answered(task)])

        groups = collecting.result(20)

    assert [group.position for group in groups] == [0, 1, 2]
    assert sorted(replica.issued) == ["grp_0", "grp_1", "grp_2"]
    assert wiring.codes() == ["streams_lost"]
    (event,) = of_kind(wiring.sink.events, EventType.LOG)
    assert event["prompts"] == lost
    assert noticed_s < 4


def test_a_server_that_loses_everything_again_and_again_ends_the_attempt(
    wiring: Wiring, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "_RESTORE_EVERY_S", 0.05)
    ended = threading.Event()

    def flush_again_and_again() -> None:
        with connect(redis_url) as client:
            while not ended.is_set():
                client.flushall()
                time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(flush_again_and_again)
        try:
            with pytest.raises(PlatformError, match="lost the streams of this attempt 5 times"):
                wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")
        finally:
            ended.set()


def test_a_restart_of_the_server_is_waited_for_and_costs_no_attempt(tmp_path: Path) -> None:
    with running_valkey() as server, ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        wiring = Wiring(stack, tmp_path, f"{server.connection_url}/0")
        collecting = pool.submit(wiring.rollouts.collect, tasks(3), WEIGHTS, "rollout")
        with connect(f"{server.connection_url}/0") as client:
            wait_until(lambda: client.xlen(NAMES.prompts) == 3, "three prompts in the stream", 10)
        server.terminate()
        wait_until(lambda: "queue_unavailable" in wiring.codes(), "the outage is said", 10)
        server.start()
        wiring.answer_with(lambda task: [answered(task)])

        assert [group.position for group in collecting.result(30)] == [0, 1, 2]

    assert {"phase": "waiting", "waiting_for": "redis"} in [
        {name: data[name] for name in ("phase", "waiting_for")}
        for data in of_kind(wiring.sink.events, EventType.PHASE)
    ]
    assert wiring.codes() == ["queue_unavailable", "queue_available", "streams_lost"]


def test_a_server_that_stays_away_ends_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "_OUTAGE_S", 0.5)
    with running_valkey() as server, ExitStack() as stack:
        wiring = Wiring(stack, tmp_path, f"{server.connection_url}/0")
        server.terminate()

        with pytest.raises(PlatformError) as caught:
            wiring.rollouts.collect(tasks(1), WEIGHTS, "rollout")
    assert caught.value.code == "queue_unavailable"
