"""One learner on two hosts: a trainer with two of its three ranks, a worker host with the third, and
what ends them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.checkpoint.format import list_checkpoints, newest_valid
from services.common.model.tiny import make_tiny_model
from services.common.pb.dirl.v1 import trainer_pb2_grpc
from services.common.rpc.server import RpcServer
from services.trainer.learner.request import LearnerRequest
from services.trainer.service.export_processes import ExportProcesses
from services.trainer.service.server import SERVICE_NAME, TrainerServicer
from services.trainer.service.settings import TrainerSettings
from services.trainer.service.supervisor import LearnerSupervisor
from tests.support.learners import learner_request
from tests.support.servers import free_address
from tests.support.trainer import is_alive, wait_until, write_rows

STEPS = 25
ROWS = [{"prompt": f"{n}+{n}=?", "completion": str(2 * n)} for n in range(12)]


def request(directory: Path, attempt: int, rendezvous: str) -> LearnerRequest:
    spec: dict[str, Any] = {
        "model": "tiny",
        "method": "sft",
        "training_file": str(write_rows(directory / "rows.jsonl", ROWS)),
        "sft": {"batch_size": 6, "epochs": STEPS, "max_steps": STEPS},
        "checkpoint": {"interval_steps": 1},
        "resources": {"trainer_ranks": 3},
    }
    return learner_request(
        directory / "jobs" / "job_1",
        spec,
        attempt=attempt,
        model_path=directory / "tiny",
        torch_threads=1,
        ranks_per_host=2,
        rendezvous_address=rendezvous,
    )


@contextmanager
def trainer() -> Iterator[tuple[LearnerSupervisor, str, RpcServer]]:
    """A supervisor, and the server that can be asked for its status."""
    supervisor = LearnerSupervisor()
    servicer = TrainerServicer(TrainerSettings(), supervisor, ExportProcesses())
    listen = free_address()
    server = RpcServer(
        listen,
        lambda s: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, s),
        [SERVICE_NAME],
    )
    try:
        yield supervisor, listen, server
    finally:
        server.stop(lambda: supervisor.shutdown(0))


@contextmanager
def worker_host(head: str, data_dir: Path) -> Iterator[psutil.Process]:
    environment = {**os.environ, "DIRL_TRAINER_HEAD": head, "DIRL_DATA_DIR": str(data_dir)}
    with subprocess.Popen(
        [sys.executable, "-m", "services.trainer.service.worker_host"], env=environment
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            assert process.wait(20) == 0


def ranks_of(process: psutil.Process) -> list[int]:
    return [child.pid for child in process.children()]


def test_a_worker_host_joins_every_attempt_and_the_loss_of_its_rank_ends_one(
    tmp_path: Path,
) -> None:
    make_tiny_model(tmp_path / "tiny", seed=0, hidden_size=16, layers=1, heads=2)
    checkpoints = tmp_path / "jobs" / "job_1" / "checkpoints"
    rendezvous = free_address()
    with trainer() as (supervisor, head, _), worker_host(head, tmp_path) as process:
        supervisor.start(request(tmp_path, 1, rendezvous))
        wait_until(lambda: bool(list_checkpoints(checkpoints)), "a step of three ranks", 120)
        (first,) = ranks_of(process)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: supervisor.status().state != "running", "the end of the attempt", 60)
        lost = supervisor.status()
        wait_until(lambda: not ranks_of(process), "the worker host has ended its ranks", 20)

        supervisor.start(request(tmp_path, 2, rendezvous))
        wait_until(lambda: bool(ranks_of(process)), "the worker host joins again", 60)
        wait_until(lambda: supervisor.status().state != "running", "the end of the job", 240)
        ended = supervisor.status()
        wait_until(lambda: not ranks_of(process), "the worker host is free", 20)

    assert (lost.state, lost.result.error_code, lost.result.retryable) == (
        "failed",
        "worker_lost",
        True,
    )
    assert (ended.state, ended.result.error_message) == ("succeeded", "")
    found = newest_valid(checkpoints)
    assert found is not None
    assert found[1].global_step == STEPS
    assert not is_alive(first)


def test_a_worker_host_ends_its_ranks_when_its_trainer_is_siranks_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_model(tmp_path / "tiny", seed=0, hidden_size=16, layers=1, heads=2)
    monkeypatch.setenv("DIRL_TRAINER_HEAD_LOST_AFTER_S", "1")
    with trainer() as (supervisor, head, server), worker_host(head, tmp_path) as process:
        supervisor.start(request(tmp_path, 1, free_address()))
        wait_until(lambda: bool(ranks_of(process)), "the worker host joins", 60)
        (rank,) = ranks_of(process)

        server.stop(lambda: None)

        wait_until(lambda: not is_alive(rank), "its rank has ended", 60)
