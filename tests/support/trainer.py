"""A real trainer service with a learner, for tests that drive whole attempts."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.common.events import Event, EventType
from services.common.job_spec import parse_spec
from services.common.pb.dirl.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.rpc.client import call, channel
from services.common.streams import stream_names
from tests.support.processes import ServiceProcess, running_grpc_service
from tests.support.servers import free_address

WAIT_S = 90.0


@dataclass(frozen=True)
class Job:
    """A job's place on disk, and what it is made of."""

    job_id: str
    job_dir: Path
    model_path: Path
    spec: dict[str, Any]
    rollout_addresses: tuple[str, ...] = ()

    def request(self, attempt: int) -> trainer_pb2.StartJobRequest:
        """StartJob of one attempt; files are named by their paths."""
        spec = parse_spec(self.spec)
        names = stream_names(self.job_id, attempt)
        return trainer_pb2.StartJobRequest(
            job_id=self.job_id,
            attempt=attempt,
            spec_json=spec.canonical_json(),
            model_path=str(self.model_path),
            files={name: name for name in spec.files()},
            job_dir=str(self.job_dir),
            rollout_addresses=self.rollout_addresses,
            prompts_stream=names.prompts,
            groups_stream=names.groups,
        )


@dataclass(frozen=True)
class Trainer:
    """A running trainer service and its client."""

    process: ServiceProcess
    address: str
    stub: trainer_pb2_grpc.TrainerServiceStub

    def start(self, job: Job, attempt: int) -> int:
        """Process id of the learner."""
        return call(self.stub.StartJob, job.request(attempt), timeout_s=30, what="StartJob").pid

    def stop(self, job: Job, attempt: int, grace_s: float) -> bool:
        """Whether a learner was running."""
        request = trainer_pb2.StopJobRequest(job_id=job.job_id, attempt=attempt, grace_s=grace_s)
        return call(self.stub.StopJob, request, timeout_s=10, what="StopJob").stopping

    def status(self) -> trainer_pb2.GetTrainerStatusResponse:
        """What the service says."""
        return call(
            self.stub.GetStatus,
            trainer_pb2.GetTrainerStatusRequest(),
            timeout_s=10,
            what="GetStatus",
        )

    def wait_for_end(self, timeout_s: float = WAIT_S) -> trainer_pb2.GetTrainerStatusResponse:
        """Status once the attempt is over."""
        wait_until(
            lambda: self.status().state not in ("running", "idle"), "the attempt's end", timeout_s
        )
        return self.status()

    def events(self, job: Job, attempt: int, after_seq: int = 0, limit: int = 0) -> list[Event]:
        """Journalled events."""
        request = trainer_pb2.GetEventsRequest(
            job_dir=str(job.job_dir), attempt=attempt, after_seq=after_seq, limit=limit
        )
        answer = call(self.stub.GetEvents, request, timeout_s=10, what="GetEvents")
        return [Event.model_validate_json(text) for text in answer.events]

    def wait_for_event(self, job: Job, attempt: int, kind: EventType, count: int = 1) -> None:
        """Wait until the attempt has said so many events of a kind."""
        wait_until(
            lambda: len(of_kind(self.events(job, attempt), kind)) >= count, f"{count} {kind} events"
        )


@contextmanager
def running_trainer(directory: Path, redis_url: str) -> Iterator[Trainer]:
    """A trainer service of its own; whatever it started is gone afterwards."""
    address = free_address()
    environment = {
        "DIRL_TRAINER_LISTEN": address,
        "DIRL_REDIS_URL": redis_url,
        "DIRL_TORCH_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    connection: grpc.Channel
    with (
        running_grpc_service(
            "services.trainer", directory / "trainer.log", address, environment
        ) as process,
        channel(address) as connection,
    ):
        yield Trainer(process, address, trainer_pb2_grpc.TrainerServiceStub(connection))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def of_kind(events: Sequence[Event], kind: EventType) -> list[dict[str, Any]]:
    """Data of the events of one kind."""
    return [event.data for event in events if event.type is kind]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
