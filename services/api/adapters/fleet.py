"""The other services as the control plane calls them: every call with a deadline, every failure a
PlatformError.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import grpc
from pydantic import ValidationError

from services.common.errors import PlatformError
from services.common.events import Event
from services.common.job_spec import schema_digest
from services.common.pb.dirl.v1 import (
    reward_pb2,
    reward_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
)
from services.common.rpc.client import call, call_stream, channel, probe

STATUS_TIMEOUT_S: Final = 2.0
_SHORT_TIMEOUT_S: Final = 5.0
_ASSIGN_TIMEOUT_S: Final = 60.0
"""A replica reads configuration and tokenizer and allocates its cache."""
_GENERATE_TIMEOUT_S: Final = 600.0
_START_TIMEOUT_S: Final = 30.0
_EVENTS_TIMEOUT_S: Final = 10.0
_EVENTS_PER_CALL: Final = 1000
_AUDIT_TIMEOUT_S: Final = 60.0
_MODEL_TIMEOUT_S: Final = 60.0
_THREADS: Final = 16

UNREACHABLE_CODES: Final = frozenset(
    {"trainer_unavailable", "rollout_unavailable", "deadline_exceeded", "worker_lost"}
)
"""Codes after which it is unknown whether the call was carried out."""

Result = TypeVar("Result")


def reads_same_spec(status: trainer_pb2.GetTrainerStatusResponse) -> bool:
    """Whether the trainer reads job specs as this process does; in the middle of an upgrade one may
    not.
    """
    return status.spec_digest == schema_digest()


class Fleet:
    """Clients of all trainers and rollout replicas of the installation, and the way to the reward
    service.
    """

    def __init__(self, trainers: Sequence[str], replicas: Sequence[str], reward: str) -> None:
        self.trainers, self.replicas, self.reward = tuple(trainers), tuple(replicas), reward
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fleet")

    def close(self) -> None:
        """Close every channel."""
        self._pool.shutdown(wait=False)
        with self._lock:
            for connection in self._channels.values():
                connection.close()
            self._channels.clear()

    def ask_all(
        self, ask: Callable[[str], Result], addresses: Iterable[str]
    ) -> dict[str, Result | PlatformError]:
        """Result of each address, asked concurrently; an error takes the place of its result."""

        def ask_one(address: str) -> Result | PlatformError:
            try:
                return ask(address)
            except PlatformError as error:
                return error

        wanted = list(addresses)
        return dict(zip(wanted, self._pool.map(ask_one, wanted), strict=True))

    def reward_is_up(self) -> bool:
        """Whether the reward service serves."""
        return probe(self.reward, STATUS_TIMEOUT_S)

    def reward_status(self, address: str) -> reward_pb2.GetRewardStatusResponse:
        """How the verifier's pool is."""
        return call(
            reward_pb2_grpc.RewardServiceStub(self._open_channel(address)).GetStatus,
            reward_pb2.GetRewardStatusRequest(),
            timeout_s=STATUS_TIMEOUT_S,
            what=f"GetStatus of reward service {address}",
            unavailable_code="verifier_unavailable",
        )

    def grade(
        self, request: reward_pb2.VerifyRequest, timeout_s: float
    ) -> reward_pb2.VerifyResponse:
        """Verdicts of the reward service, by any graders."""
        return call(
            self._reward_stub().Verify,
            request,
            timeout_s=timeout_s,
            what=f"Verify on reward service {self.reward}",
            unavailable_code="verifier_unavailable",
        )

    def audit_reference_answers(
        self, reference_answers: Sequence[reward_pb2.ReferenceAnswer]
    ) -> Sequence[reward_pb2.ReferenceAudit]:
        """What the reward service says of each reference answer."""
        response = call(
            self._reward_stub().AuditReferenceAnswers,
            reward_pb2.AuditReferenceAnswersRequest(reference_answers=reference_answers),
            timeout_s=_AUDIT_TIMEOUT_S,
            what=f"AuditReferenceAnswers on reward service {self.reward}",
            unavailable_code="verifier_unavailable",
        )
        return response.audits

    def trainer_status(self, address: str) -> trainer_pb2.GetTrainerStatusResponse:
        """What the trainer is doing."""
        return self._request_status(address, trainer_pb2.GetTrainerStatusRequest())

    def attempt_status(
        self, address: str, job_dir: Path, job_id: str, attempt: int
    ) -> trainer_pb2.GetTrainerStatusResponse:
        """How an attempt stands: any trainer knows the end of one whose learner left a result
        behind.
        """
        about = trainer_pb2.GetTrainerStatusRequest(
            job_id=job_id, attempt=attempt, job_dir=str(job_dir)
        )
        return self._request_status(address, about)

    def _request_status(
        self, address: str, request: trainer_pb2.GetTrainerStatusRequest
    ) -> trainer_pb2.GetTrainerStatusResponse:
        return call(
            self._trainer_stub(address).GetStatus,
            request,
            timeout_s=STATUS_TIMEOUT_S,
            what=f"GetStatus of trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def rollout_status(self, address: str) -> rollout_pb2.GetRolloutStatusResponse:
        """What the replica is doing."""
        return call(
            self._rollout_stub(address).GetStatus,
            rollout_pb2.GetRolloutStatusRequest(),
            timeout_s=STATUS_TIMEOUT_S,
            what=f"GetStatus of rollout replica {address}",
            unavailable_code="rollout_unavailable",
        )

    def assign(self, address: str, request: rollout_pb2.AssignRequest) -> None:
        """Give the replica to an attempt."""
        call(
            self._rollout_stub(address).Assign,
            request,
            timeout_s=_ASSIGN_TIMEOUT_S,
            what=f"Assign of rollout replica {address}",
            unavailable_code="rollout_unavailable",
        )

    def release(self, address: str, job_id: str, attempt: int) -> None:
        """Take the replica from an attempt; one that belongs to another attempt is left alone."""
        call(
            self._rollout_stub(address).Release,
            rollout_pb2.ReleaseRequest(job_id=job_id, attempt=attempt),
            timeout_s=_SHORT_TIMEOUT_S,
            what=f"Release of rollout replica {address}",
            unavailable_code="rollout_unavailable",
        )

    def generate(
        self, address: str, request: rollout_pb2.GenerateRequest
    ) -> Iterator[rollout_pb2.GenerateResponse]:
        """Pieces of a response, as its blocks are finished."""
        return call_stream(
            self._rollout_stub(address).Generate,
            request,
            timeout_s=_GENERATE_TIMEOUT_S,
            what=f"Generate on rollout replica {address}",
            unavailable_code="rollout_unavailable",
        )

    def start_job(self, address: str, request: trainer_pb2.StartJobRequest) -> None:
        """Start the learner of an attempt."""
        call(
            self._trainer_stub(address).StartJob,
            request,
            timeout_s=_START_TIMEOUT_S,
            what=f"StartJob on trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def stop_job(self, address: str, job_id: str, attempt: int, grace_s: float) -> None:
        """Ask the learner to end."""
        call(
            self._trainer_stub(address).StopJob,
            trainer_pb2.StopJobRequest(job_id=job_id, attempt=attempt, grace_s=grace_s),
            timeout_s=_SHORT_TIMEOUT_S,
            what=f"StopJob on trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def dump_stacks(self, address: str, job_id: str, attempt: int) -> None:
        """Have the learner write its stacks to its log."""
        call(
            self._trainer_stub(address).DumpStacks,
            trainer_pb2.DumpStacksRequest(job_id=job_id, attempt=attempt),
            timeout_s=_SHORT_TIMEOUT_S,
            what=f"DumpStacks on trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def journalled_events(
        self, address: str, job_dir: Path, attempt: int, after_seq: int
    ) -> list[Event]:
        """Events of an attempt after `after_seq`, at most a thousand, as its journal has them."""
        request = trainer_pb2.GetEventsRequest(
            job_dir=str(job_dir), attempt=attempt, after_seq=after_seq, limit=_EVENTS_PER_CALL
        )
        response = call(
            self._trainer_stub(address).GetEvents,
            request,
            timeout_s=_EVENTS_TIMEOUT_S,
            what=f"GetEvents of trainer {address}",
            unavailable_code="trainer_unavailable",
        )
        try:
            return [Event.model_validate_json(text) for text in response.events]
        except ValidationError as error:
            raise PlatformError(
                "internal", f"Trainer {address} sent an event that cannot be read: {error}"
            ) from error

    def start_export(
        self, address: str, export_id: str, checkpoint_path: str, output_path: str
    ) -> trainer_pb2.GetExportResponse:
        """Have a checkpoint written as a model directory."""
        request = trainer_pb2.StartExportRequest(
            export_id=export_id, checkpoint_path=checkpoint_path, output_path=output_path
        )
        return call(
            self._trainer_stub(address).StartExport,
            request,
            timeout_s=_SHORT_TIMEOUT_S,
            what=f"StartExport on trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def export_status(self, address: str, export_id: str) -> trainer_pb2.GetExportResponse:
        """How an export is going."""
        return call(
            self._trainer_stub(address).GetExport,
            trainer_pb2.GetExportRequest(export_id=export_id),
            timeout_s=_SHORT_TIMEOUT_S,
            what=f"GetExport of trainer {address}",
            unavailable_code="trainer_unavailable",
        )

    def make_tiny_model(self, path: Path, seed: int) -> None:
        """Have the demo's model written, by the first trainer that answers."""
        for address in self.trainers:
            try:
                call(
                    self._trainer_stub(address).MakeTinyModel,
                    trainer_pb2.MakeTinyModelRequest(output_path=str(path), seed=seed),
                    timeout_s=_MODEL_TIMEOUT_S,
                    what=f"MakeTinyModel on trainer {address}",
                    unavailable_code="trainer_unavailable",
                )
                return
            except PlatformError as error:
                if error.code not in UNREACHABLE_CODES or address == self.trainers[-1]:
                    raise

    def _trainer_stub(self, address: str) -> trainer_pb2_grpc.TrainerServiceStub:
        return trainer_pb2_grpc.TrainerServiceStub(self._open_channel(address))

    def _reward_stub(self) -> reward_pb2_grpc.RewardServiceStub:
        return reward_pb2_grpc.RewardServiceStub(self._open_channel(self.reward))

    def _rollout_stub(self, address: str) -> rollout_pb2_grpc.RolloutServiceStub:
        return rollout_pb2_grpc.RolloutServiceStub(self._open_channel(address))

    def _open_channel(self, address: str) -> grpc.Channel:
        with self._lock:
            if address not in self._channels:
                self._channels[address] = channel(address)
            return self._channels[address]
