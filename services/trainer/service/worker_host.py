"""`python -m services.trainer.service.worker_host`: joins a trainer on another host as a worker
host: runs this host's ranks of its learners.

It asks the trainer what runs, and for every attempt with more ranks than a host has, starts its
share of them: the same learner program as there, on the same shared volume. It decides nothing:
when the attempt is over, or the trainer is silent for too long, its ranks are killed. A rank that
dies ends the others on its host, and with them the attempt: the trainer's own ranks lose their
connection. The next attempt is joined like any other.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from types import FrameType
from typing import Final

from pydantic import ValidationError

from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.rpc.client import call, channel
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger
from services.trainer.learner.request import RANK_VARIABLE, LearnerRequest, request_path
from services.trainer.service.settings import WorkerHostSettings
from services.trainer.service.supervisor import LEARNER_PROGRAM

_POLL_S: Final = 1.0
_CALL_S: Final = 5.0

Attempt = tuple[str, int]

log = get_logger()


class HostRanks:
    """This host's ranks of one attempt."""

    def __init__(self, attempt: Attempt, request: LearnerRequest, ranks: range) -> None:
        """Start them; the calling thread must live as long as they do (PDEATHSIG)."""
        self.attempt = attempt
        ours = request.model_copy(update={"supervisor_pid": os.getpid()})
        # The request may hold a password; the file is this account's alone.
        self._file = tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8")  # noqa: SIM115 - until `end`
        self._file.write(ours.model_dump_json())
        self._file.flush()
        self._processes = [
            subprocess.Popen(
                [*LEARNER_PROGRAM, self._file.name],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, RANK_VARIABLE: str(rank)},
            )
            for rank in ranks
        ]
        log.info("ranks started", job_id=attempt[0], attempt=attempt[1], ranks=list(ranks))

    def has_failed(self) -> bool:
        """Whether one of them failed."""
        return any(process.poll() not in (None, 0) for process in self._processes)

    def end(self) -> None:
        """Kill the ranks that still run, and wait for them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._file.close()
        log.info("ranks ended", job_id=self.attempt[0], attempt=self.attempt[1])


class WorkerHost:
    """Follows one trainer."""

    def __init__(self, settings: WorkerHostSettings) -> None:
        self._settings = settings
        self._ranks: HostRanks | None = None
        self._over: Attempt | None = None
        """The attempt that was joined last; it is joined once."""
        self._last_heartbeat_at = time.monotonic()

    def run(self, ended: threading.Event) -> None:
        """Follow until `ended`; no rank is left then."""
        with channel(self._settings.trainer_head) as connection:
            stub = trainer_pb2_grpc.TrainerServiceStub(connection)
            while not ended.wait(_POLL_S):
                self._turn(stub)
        self._end()

    def _turn(self, stub: trainer_pb2_grpc.TrainerServiceStub) -> None:
        request = trainer_pb2.GetTrainerStatusRequest()
        try:
            status = call(
                stub.GetStatus,
                request,
                timeout_s=_CALL_S,
                what=f"GetStatus of {self._settings.trainer_head}",
            )
        except PlatformError as error:
            if (
                self._ranks is not None
                and time.monotonic() - self._last_heartbeat_at
                > self._settings.trainer_head_lost_after_s
            ):
                log.warning("trainer lost", reason=error.message)
                self._end()
            return
        self._last_heartbeat_at = time.monotonic()
        running = (status.job_id, status.attempt) if status.state == "running" else None
        if self._ranks is not None and (self._ranks.attempt != running or self._ranks.has_failed()):
            self._end()
        if self._ranks is None and running is not None and running != self._over:
            self._join(running)

    def _join(self, attempt: Attempt) -> None:
        path = request_path(self._settings.data_dir.absolute() / "jobs" / attempt[0], attempt[1])
        try:
            request = LearnerRequest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.warning(
                "attempt not joined",
                job_id=attempt[0],
                attempt=attempt[1],
                path=str(path),
                reason=str(error),
            )
            return
        self._over = attempt
        ranks = request.ranks_of_host(self._settings.trainer_worker_host_index + 1)
        if ranks:
            self._ranks = HostRanks(attempt, request, ranks)

    def _end(self) -> None:
        if self._ranks is not None:
            self._ranks.end()
            self._ranks = None


def main() -> None:
    """Contribute ranks until SIGTERM or SIGINT."""
    settings = read_settings(WorkerHostSettings)
    configure_logging("trainer-worker", settings.log_level, settings.log_format)
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    log.info(
        "worker host ready", head=settings.trainer_head, index=settings.trainer_worker_host_index
    )
    WorkerHost(settings).run(ended)
    log.info("worker host stopped")


if __name__ == "__main__":
    main()
