"""Rollout replicas in the test's own process: a scripted one, and a real one with a scripted
grader.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from torch import Tensor

from services.common.errors import PlatformError
from services.common.model.loading import load_skeleton
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc
from services.common.rpc.server import RpcServer
from services.common.streams import GroupQueue, PromptConsumer, connect, stream_names
from services.common.trajectory import Outcome, PromptTask, ScoredGroup, Trajectory, Verdict
from services.common.weights import WeightAssembler
from services.rollout.assignment import Assignment
from services.rollout.decoding_session import DecodingSession, StreamEnds
from services.rollout.engines.torch_engine import TorchEngine
from services.rollout.metrics import RolloutMetrics
from services.rollout.server import RolloutServicer
from services.rollout.worker import RolloutWorker

LEASE_S = 0.5


@dataclass
class ScriptedReplica(rollout_pb2_grpc.RolloutServiceServicer):
    """Says and takes what the test wants."""

    job_id: str = "job_1"
    attempt: int = 1
    state: str = "waiting_for_weights"
    weight_version: int = -1
    generated_tokens: int = 0
    refusal: PlatformError | None = None
    """Raised for every push."""
    digest: str | None = None
    """Answered in place of the true digest."""
    held: threading.Event | None = None
    """Every push waits for it."""
    pushed: list[int] = field(default_factory=list)
    received: list[Mapping[str, Tensor]] = field(default_factory=list)

    def GetStatus(
        self, request: rollout_pb2.GetRolloutStatusRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.GetRolloutStatusResponse:
        """As scripted."""
        return rollout_pb2.GetRolloutStatusResponse(
            job_id=self.job_id,
            attempt=self.attempt,
            state=self.state,
            weight_version=self.weight_version,
            generated_tokens=self.generated_tokens,
        )

    def UpdateWeights(
        self, request_iterator: Iterator[rollout_pb2.WeightChunk], context: grpc.ServicerContext
    ) -> rollout_pb2.UpdateWeightsResponse:
        """Takes the stream, or refuses."""
        assembler = WeightAssembler()
        for chunk in request_iterator:
            assembler.feed(chunk)
        self.pushed.append(assembler.manifest.weight_version)
        if self.refusal is not None:
            raise self.refusal
        tensors, digest = assembler.finish()
        self.received.append(tensors)
        if self.held is not None:
            self.held.wait(10)
        self.weight_version, self.state = assembler.manifest.weight_version, "ready"
        return rollout_pb2.UpdateWeightsResponse(
            weight_version=self.weight_version, weight_digest=self.digest or digest, loaded=True
        )


@contextmanager
def serving(replica: rollout_pb2_grpc.RolloutServiceServicer) -> Iterator[str]:
    """Address of a replica that listens."""
    server = RpcServer(
        "127.0.0.1:0",
        lambda target: rollout_pb2_grpc.add_RolloutServiceServicer_to_server(replica, target),
        [],
    )
    try:
        yield server.address
    finally:
        server.stop(lambda: None)


GradeResponse = Callable[[PromptTask, Trajectory], Outcome]


def by_index(task: PromptTask, trajectory: Trajectory) -> Outcome:
    """Every second response is correct, but of every third prompt none: such groups are dropped."""
    correct = trajectory.response_index % 2 == 0 and task.ledger_position % 3 != 2
    return Outcome.CORRECT if correct else Outcome.INCORRECT


@dataclass
class ScriptedGrader:
    """Grades at once, by `grade_response`."""

    grade_response: GradeResponse
    replica: str

    def grade(
        self,
        task: PromptTask,
        trajectories: Sequence[Trajectory],
        rollout_s: float,
        refusal: str = "",
    ) -> "Future[ScoredGroup]":
        """A finished future."""
        future: Future[ScoredGroup] = Future()
        future.set_result(
            ScoredGroup(
                group_id=task.group_id,
                trajectories=tuple(
                    self._grade_one(task, trajectory) for trajectory in trajectories
                ),
                replica=self.replica,
                rollout_s=rollout_s,
                reward_s=0.0,
                finished_at=0.0,
            )
        )
        return future

    def close(self) -> None:
        """Nothing to close."""

    def _grade_one(self, task: PromptTask, trajectory: Trajectory) -> Trajectory:
        outcome = self.grade_response(task, trajectory)
        rewards = (
            {name: float(outcome is Outcome.CORRECT) for name in task.graders}
            if outcome.is_scored
            else {}
        )
        return replace(trajectory, verdict=Verdict(outcome=outcome, rewards=rewards))


class CorruptEngine(TorchEngine):
    """Its memory is not what was loaded: one matrix is off by a percent."""

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """What arrives is right, what is kept is not."""
        name = "model.layers.0.self_attn.v_proj.weight"
        super().load_weights({**tensors, name: tensors[name] * 1.01})


class RealReplica:
    """Worker, engine, streams and transport of the rollout service; only the verdicts are scripted."""

    def __init__(
        self, redis_url: str, grade_response: GradeResponse, name: str, engine: type[TorchEngine]
    ) -> None:
        self._client = connect(redis_url)
        self._grade_response, self._name, self._engine = grade_response, name, engine
        self.worker = RolloutWorker(self._open)
        self.servicer = RolloutServicer(self.worker, name, RolloutMetrics(self.worker, name))

    def assign(self, job_id: str, attempt: int, model_path: Path) -> None:
        """Lease it to an attempt."""
        names = stream_names(job_id, attempt)
        wanted = Assignment(
            job_id=job_id,
            attempt=attempt,
            model_path=str(model_path),
            prompts_stream=names.prompts,
            groups_stream=names.groups,
            reward_address="127.0.0.1:1",
            max_sequence_tokens=256,
            max_batch_size=4,
            dtype="float32",
        )
        self.worker.assign(wanted, 30)

    def close(self) -> None:
        """End the engine thread."""
        self.worker.stop()
        self._client.close()

    def _open(self, assignment: Assignment) -> DecodingSession:
        loaded = load_skeleton(assignment.model_path, assignment.dtype, "cpu")
        engine = self._engine(
            loaded, max_sequence_tokens=assignment.max_sequence_tokens, max_batch_size=4
        )
        streams = StreamEnds(
            prompts=PromptConsumer(
                self._client, assignment.prompts_stream, self._name, round(LEASE_S * 1000)
            ),
            groups=GroupQueue(self._client, assignment.groups_stream),
            lease_s=LEASE_S,
        )
        return DecodingSession(engine, 4, streams, ScriptedGrader(self._grade_response, self._name))


@contextmanager
def real_replica(
    redis_url: str,
    grade_response: GradeResponse = by_index,
    name: str = "replica-0",
    engine: type[TorchEngine] = TorchEngine,
) -> Iterator[tuple[RealReplica, str]]:
    """A replica and its address."""
    replica = RealReplica(redis_url, grade_response, name, engine)
    try:
        with serving(replica.servicer) as address:
            yield replica, address
    finally:
        replica.close()
