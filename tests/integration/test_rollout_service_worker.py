"""The engine thread with a scripted engine and real streams: what is taken, held, drained, given
back.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import redis
import torch
from prometheus_client import generate_latest

from services.common.errors import PlatformError
from services.common.streams import (
    GroupConsumer,
    GroupQueue,
    PromptConsumer,
    PromptQueue,
    connect,
    stream_names,
)
from services.common.trajectory import FinishReason, Outcome, ScoredGroup
from services.rollout.assignment import Assignment, LoadedWeights, ReplicaState
from services.rollout.decoding_session import DecodingSession, StreamEnds
from services.rollout.metrics import RolloutMetrics
from services.rollout.worker import RolloutWorker, WeightUpdate
from tests.support.builders import prompt_task
from tests.support.scripted_engine import InstantGrader, ScriptedEngine
from tests.support.servers import running_valkey

SLOTS = 4
LEASE_S = 60.0
WAIT_S = 20.0


def assignment(attempt: int = 1) -> Assignment:
    names = stream_names("job_1", attempt)
    return Assignment(
        job_id="job_1",
        attempt=attempt,
        model_path="scripted",
        prompts_stream=names.prompts,
        groups_stream=names.groups,
        reward_address="127.0.0.1:1",
        max_sequence_tokens=64,
        max_batch_size=SLOTS,
        dtype="float32",
    )


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.002)


@dataclass
class Bench:
    """One worker with the engines it opened, and the learner's ends of the streams."""

    client: redis.Redis
    name: str
    lease_s: float = LEASE_S
    engines: list[ScriptedEngine] = field(default_factory=list)
    open_error: Exception | None = None

    def __post_init__(self) -> None:
        self.worker = RolloutWorker(self._open)

    def _open(self, wanted: Assignment) -> DecodingSession:
        if self.open_error is not None:
            raise self.open_error
        self.engines.append(ScriptedEngine())
        streams = StreamEnds(
            prompts=PromptConsumer(
                self.client, wanted.prompts_stream, self.name, round(self.lease_s * 1000)
            ),
            groups=GroupQueue(self.client, wanted.groups_stream),
            lease_s=self.lease_s,
        )
        return DecodingSession(self.engines[-1], SLOTS, streams, InstantGrader())

    @property
    def engine(self) -> ScriptedEngine:
        return self.engines[-1]

    def update(self, version: int, attempt: int = 1) -> WeightUpdate:
        return WeightUpdate(
            "job_1", attempt, LoadedWeights(version, f"digest-{version}"), {"w": torch.zeros(1)}
        )

    def load(self, version: int, attempt: int = 1, timeout_s: float = WAIT_S) -> bool:
        return self.worker.update_weights(self.update(version, attempt), timeout_s)

    def make_ready(self, version: int = 0) -> "Bench":
        self.worker.assign(assignment(), WAIT_S)
        self.load(version)
        return self

    def issue(self, *group_ids: str, min_weight_version: int = 0) -> None:
        queue = PromptQueue(self.client, stream_names("job_1", 1).prompts)
        for group_id in group_ids:
            queue.add(prompt_task(group_id=group_id, min_weight_version=min_weight_version))

    def groups(self, count: int) -> list[ScoredGroup]:
        consumer, groups = GroupConsumer(self.client, stream_names("job_1", 1).groups), []
        eventually(lambda: len(groups.extend(consumer.take(10)) or groups) >= count)
        return groups


@contextmanager
def bench(client: redis.Redis, name: str, lease_s: float = LEASE_S) -> Iterator[Bench]:
    made = Bench(client, name, lease_s)
    yield made
    made.worker.stop()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url) as connection:
        yield connection


@pytest.fixture
def replica(client: redis.Redis) -> Iterator[Bench]:
    with bench(client, "r0") as made:
        yield made


@pytest.fixture
def other(client: redis.Redis) -> Iterator[Bench]:
    with bench(client, "r1") as made:
        yield made


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(PlatformError) as raised:
        call()
    return raised.value.code


def test_a_prompt_becomes_a_group_in_the_order_of_its_responses_with_one_version(
    replica: Bench,
) -> None:
    replica.make_ready(version=3)
    replica.issue("grp_a", "grp_b", "grp_c")

    groups = sorted(replica.groups(3), key=lambda group: group.group_id)

    assert [group.group_id for group in groups] == ["grp_a", "grp_b", "grp_c"]
    for group in groups:
        assert [t.response_index for t in group.trajectories] == [0, 1]
        assert [t.response.token_ids[0] for t in group.trajectories] == [0, 1]
        assert {(t.weight_version, t.weight_digest) for t in group.trajectories} == {
            (3, "digest-3")
        }
    assert groups[0].trajectories[1].trajectory_id == "traj_a_1"
    assert replica.worker.totals.generated_tokens == 3 * 2 * 4


def test_no_more_prompts_are_taken_than_fill_the_slots(replica: Bench) -> None:
    replica.make_ready().engine.paused = True
    replica.issue("a", "b", "c", "d")

    eventually(lambda: len(replica.engine.queued) == SLOTS)
    time.sleep(0.1)

    assert replica.worker.inflight_groups == SLOTS // 2
    replica.engine.paused = False
    assert len(replica.groups(4)) == 4


def test_a_prompt_delivered_twice_is_decoded_once_side_by_side(replica: Bench) -> None:
    replica.make_ready().engine.paused = True
    replica.issue("grp_a", "grp_a", "grp_b")
    eventually(lambda: replica.worker.inflight_groups == 2)

    replica.engine.paused = False
    groups = replica.groups(2)

    assert sorted(group.group_id for group in groups) == ["grp_a", "grp_b"]
    assert (replica.worker.replica.state, len(replica.engines)) == (ReplicaState.READY, 1)
    eventually(lambda: replica.client.xlen(stream_names("job_1", 1).prompts) == 0)


def test_a_replica_without_weights_takes_no_prompt(replica: Bench) -> None:
    replica.worker.assign(assignment(), WAIT_S)
    replica.issue("a")
    time.sleep(0.1)

    assert replica.worker.replica.state is ReplicaState.WAITING_FOR_WEIGHTS
    assert replica.worker.inflight_groups == 0
    replica.load(0)
    assert len(replica.groups(1)) == 1


def test_a_prompt_that_needs_newer_weights_waits_for_them(replica: Bench) -> None:
    replica.make_ready(version=1)
    replica.issue("a", min_weight_version=2)
    eventually(lambda: replica.worker.inflight_groups == 1)
    time.sleep(0.05)
    assert not replica.engine.has_work

    replica.load(2)

    assert replica.groups(1)[0].trajectories[0].weight_version == 2


def test_an_update_waits_for_what_is_being_decoded_and_holds_back_what_is_not(
    replica: Bench,
) -> None:
    replica.make_ready(version=0).engine.paused = True
    replica.issue("before")
    eventually(lambda: replica.engine.has_work)

    with ThreadPoolExecutor(1) as pool:
        loading: Future[bool] = pool.submit(replica.load, 1)
        time.sleep(0.05)
        replica.issue("after")
        time.sleep(0.05)
        assert len(replica.engine.loads) == 1
        assert replica.worker.inflight_groups == 1
        replica.engine.paused = False
        assert loading.result(WAIT_S)

    versions = {g.group_id: g.trajectories[0].weight_version for g in replica.groups(2)}
    assert versions == {"before": 0, "after": 1}


def test_an_update_whose_deadline_passes_while_decoding_is_not_loaded_later(replica: Bench) -> None:
    replica.make_ready(version=0).engine.paused = True
    replica.issue("a")
    eventually(lambda: replica.engine.has_work)

    assert code_of(lambda: replica.load(1, timeout_s=0.05)) == "deadline_exceeded"
    replica.engine.paused = False
    replica.groups(1)
    replica.issue("b")

    assert replica.groups(1)[0].trajectories[0].weight_version == 0
    assert len(replica.engine.loads) == 1


def test_versions_older_equal_and_of_other_attempts_are_told_apart(replica: Bench) -> None:
    replica.make_ready(version=2)

    assert not replica.load(2)
    assert code_of(lambda: replica.load(1)) == "stale_weights"
    assert code_of(lambda: replica.load(3, attempt=2)) == "stale_attempt"
    assert len(replica.engine.loads) == 1


def test_a_failed_load_makes_the_replica_unhealthy_until_a_full_load_succeeds(
    replica: Bench,
) -> None:
    replica.make_ready(version=0)
    replica.engine.load_error = PlatformError("model_invalid", "Tensor 'w' is missing.")
    assert code_of(lambda: replica.load(1)) == "model_invalid"
    replica.issue("a")
    time.sleep(0.05)

    assert replica.worker.replica.state is ReplicaState.UNHEALTHY
    assert replica.worker.replica.weights is None
    assert replica.worker.replica.last_error == "model_invalid: Tensor 'w' is missing."
    assert replica.worker.inflight_groups == 0

    assert replica.load(1)

    assert replica.worker.replica.state is ReplicaState.READY
    assert replica.worker.replica.last_error == ""
    assert len(replica.engines) == 2, "the model that was half loaded is not used again"
    assert replica.groups(1)[0].trajectories[0].weight_version == 1


def test_a_replica_that_sleeps_takes_no_prompt_until_weights_wake_it(replica: Bench) -> None:
    replica.make_ready(1)

    replica.worker.sleep("job_1", 1, WAIT_S)

    assert replica.engine.asleep
    assert replica.worker.replica.state is ReplicaState.SLEEPING
    replica.issue("g0", min_weight_version=1)
    assert replica.worker.sleep("job_1", 1, WAIT_S) == 0  # it sleeps already
    assert replica.worker.inflight_groups == 0
    assert replica.load(1)  # the version that it had is loaded again
    (group,) = replica.groups(1)
    assert group.trajectories[0].weight_version == 1


def test_a_replica_goes_to_sleep_when_what_it_decodes_is_finished(replica: Bench) -> None:
    replica.make_ready()
    replica.engine.paused = True
    replica.issue("g0")
    eventually(lambda: replica.worker.inflight_groups == 1)

    with ThreadPoolExecutor(1) as pool:
        sleeping = pool.submit(replica.worker.sleep, "job_1", 1, WAIT_S)
        assert not replica.engine.asleep
        replica.engine.paused = False
        sleeping.result(WAIT_S)

    assert len(replica.groups(1)) == 1
    assert replica.worker.replica.state is ReplicaState.SLEEPING


def test_only_the_attempt_that_has_a_replica_sends_it_to_sleep(replica: Bench) -> None:
    replica.make_ready()

    with pytest.raises(PlatformError) as caught:
        replica.worker.sleep("job_1", 2, WAIT_S)

    assert caught.value.code == "stale_attempt"
    assert replica.worker.replica.state is ReplicaState.READY


def test_an_engine_that_fails_gives_its_prompts_to_another_replica(
    replica: Bench, other: Bench
) -> None:
    replica.make_ready().engine.step_error = RuntimeError("out of memory")
    replica.issue("a")
    eventually(lambda: replica.worker.replica.state is ReplicaState.UNHEALTHY)

    other.make_ready()

    assert [group.group_id for group in other.groups(1)] == ["a"]
    assert replica.worker.replica.last_error == "RuntimeError: out of memory"


def test_an_engine_that_cannot_even_be_closed_does_not_end_the_replica(replica: Bench) -> None:
    replica.make_ready()
    replica.engine.step_error = replica.engine.close_error = RuntimeError("device lost")
    replica.issue("g0")
    eventually(lambda: replica.worker.replica.state is ReplicaState.UNHEALTHY)

    assert replica.load(1)

    assert len(replica.groups(1)) == 1


def test_an_unhealthy_replica_is_as_new_after_assigning_it_again(replica: Bench) -> None:
    replica.make_ready().engine.step_error = RuntimeError("out of memory")
    replica.issue("a")
    eventually(lambda: replica.worker.replica.state is ReplicaState.UNHEALTHY)

    replica.make_ready()

    assert len(replica.groups(1)) == 1


def test_a_prompt_the_engine_refuses_is_answered_as_aborted_with_the_reason(replica: Bench) -> None:
    replica.make_ready().engine.refuses = lambda request: request.seed == 0
    replica.issue("a")

    (group,) = replica.groups(1)

    assert [t.response.finish_reason for t in group.trajectories] == [FinishReason.ABORTED] * 2
    assert group.trajectories[0].verdict is not None
    assert "too long" in group.trajectories[0].verdict.reason
    assert replica.worker.replica.state is ReplicaState.READY


def test_a_released_replica_is_idle_and_leaves_its_prompts_to_others(
    replica: Bench, other: Bench
) -> None:
    replica.make_ready().engine.paused = True
    replica.issue("a")
    eventually(lambda: replica.engine.has_work)

    assert replica.worker.release("job_1", 1, WAIT_S)
    assert not replica.worker.release("job_1", 1, WAIT_S)

    assert replica.worker.replica.state is ReplicaState.IDLE
    assert replica.worker.replica.assignment is None
    assert len(other.make_ready().groups(1)) == 1


def test_a_newer_attempt_replaces_an_older_one_and_the_older_one_is_refused(replica: Bench) -> None:
    replica.make_ready(version=4)

    replica.worker.assign(assignment(attempt=2), WAIT_S)

    assert replica.worker.replica.state is ReplicaState.WAITING_FOR_WEIGHTS
    assert replica.worker.replica.weights is None
    assert code_of(lambda: replica.worker.assign(assignment(attempt=1), WAIT_S)) == "stale_attempt"
    assert not replica.worker.release("job_1", 1, WAIT_S)
    assert replica.load(0, attempt=2)


def test_assigning_twice_builds_the_model_once(replica: Bench) -> None:
    replica.worker.assign(assignment(), WAIT_S)
    replica.worker.assign(assignment(), WAIT_S)

    assert len(replica.engines) == 1


def test_a_model_that_cannot_be_built_leaves_the_replica_idle_and_tells_the_caller(
    replica: Bench,
) -> None:
    replica.open_error = PlatformError("model_invalid", "config.json is missing.")

    assert code_of(lambda: replica.worker.assign(assignment(), WAIT_S)) == "model_invalid"

    assert replica.worker.replica.state is ReplicaState.IDLE
    assert replica.worker.replica.last_error == "model_invalid: config.json is missing."
    replica.open_error = None
    replica.make_ready()


def test_a_stopped_worker_gives_its_prompts_back_and_refuses_commands(
    replica: Bench, other: Bench
) -> None:
    replica.make_ready().engine.paused = True
    replica.issue("a")
    eventually(lambda: replica.engine.has_work)

    replica.worker.stop()

    assert code_of(lambda: replica.load(1)) == "worker_lost"
    assert len(other.make_ready().groups(1)) == 1


def test_an_update_that_waits_while_the_worker_stops_is_refused(replica: Bench) -> None:
    replica.make_ready().engine.paused = True
    replica.issue("a")
    eventually(lambda: replica.engine.has_work)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(code_of, lambda: replica.load(1))
        time.sleep(0.05)
        replica.worker.stop()

        assert loading.result(WAIT_S) == "worker_lost"


def test_a_prompt_that_takes_longer_than_a_lease_stays_with_the_replica_that_decodes_it(
    client: redis.Redis,
) -> None:
    with bench(client, "slow", lease_s=0.6) as slow, bench(client, "idle", lease_s=0.6) as idle:
        slow.make_ready().engine.paused = True
        slow.issue("a", "b")
        eventually(lambda: len(slow.engine.queued) == SLOTS)
        idle.make_ready().engine.paused = True
        time.sleep(1.5)

        assert idle.worker.inflight_groups == 0
        slow.engine.paused = False
        assert len(slow.groups(2)) == 2


def test_a_lost_redis_is_reported_and_decoding_goes_on() -> None:
    with (
        running_valkey() as server,
        connect(f"{server.connection_url}/0") as client,
        bench(client, "r0") as replica,
    ):
        replica.make_ready().engine.paused = True
        replica.issue("a")
        eventually(lambda: replica.engine.has_work)
        server.terminate()

        eventually(lambda: "DIRL_REDIS_URL" in replica.worker.replica.last_error)
        replica.engine.paused = False
        eventually(lambda: not replica.engine.has_work)

        assert replica.worker.replica.state is ReplicaState.READY
        assert replica.worker.inflight_groups == 1


def test_verdicts_of_the_group_travel_with_it(replica: Bench) -> None:
    replica.make_ready()
    replica.issue("a")

    (group,) = replica.groups(1)

    assert [t.verdict.outcome for t in group.trajectories if t.verdict] == [Outcome.CORRECT] * 2


def test_prometheus_is_told_of_state_assignment_and_work(replica: Bench) -> None:
    registry = RolloutMetrics(replica.worker, "r0").registry
    idle = generate_latest(registry).decode()
    replica.make_ready(version=3)
    replica.issue("grp_a")
    replica.groups(1)
    eventually(
        lambda: replica.worker.inflight_groups == 0
    )  # the answer is there before it is crossed off

    ready = generate_latest(registry).decode()

    labels = '{attempt="1",job_id="job_1",replica="r0"}'
    assert 'dirl_rollout_state{replica="r0",state="idle"} 1.0' in idle
    assert "job_1" not in idle
    assert 'dirl_rollout_state{replica="r0",state="ready"} 1.0' in ready
    assert f"dirl_rollout_weight_version{labels} 3.0" in ready
    assert f"dirl_rollout_inflight_groups{labels} 0.0" in ready
    assert (
        f'dirl_rollout_generated_tokens_total{{replica="r0"}} {float(replica.worker.totals.generated_tokens)}'
        in ready
    )


def test_a_group_in_progress_answers_the_entry_that_replaces_a_lost_one(replica: Bench) -> None:
    names = stream_names("job_1", 1)
    replica.make_ready().engine.paused = True
    replica.issue("grp_a")
    eventually(lambda: replica.worker.inflight_groups == 1)
    replica.client.flushall()
    eventually(lambda: "missing in Redis" in replica.worker.replica.last_error)

    replica.issue("grp_a")
    eventually(lambda: replica.client.xpending(names.prompts, "rollout")["pending"] == 1)
    replica.engine.paused = False

    assert [group.group_id for group in replica.groups(1)] == ["grp_a"]
    eventually(lambda: replica.client.xlen(names.prompts) == 0)
    assert replica.worker.totals.generated_tokens == 2 * 4, "it was decoded once"
    assert replica.worker.replica.last_error == ""
