"""The control plane under test: real database, Redis and HTTP; trainer and replicas answer from a
script.
"""

import functools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import uvicorn

from services.api.adapters.broker import Wakeups
from services.api.adapters.fleet import Fleet
from services.api.db.database import Database
from services.api.db.job_tables import Attempt, Job
from services.api.db.jobs import lock_job, open_attempt, transition
from services.api.db.migrate import migrate
from services.api.domain.access import LOCAL
from services.api.domain.job_state import JobState
from services.api.http.app import create_app
from services.api.http.protocol import make_server_config
from services.api.http.resources import Resources, open_resources
from services.api.scheduler.context import SchedulerContext, open_context
from services.api.settings import ApiSettings
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.create_job import create_job
from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.common.job_spec import schema_digest
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from services.common.rpc.server import RpcServer
from services.common.streams import connect
from tests.support.servers import Postgres

NOWHERE = "127.0.0.1:9"
"""No process listens there."""


class ScriptedTrainer(trainer_pb2_grpc.TrainerServiceServicer):
    """A trainer whose learner does what the test says."""

    def __init__(self) -> None:
        self.job_id, self.attempt, self.state = "", 0, "idle"
        self.error = ("", "", False)
        self.last_event_seq = 0
        self.journals: dict[tuple[str, int], list[Event]] = {}
        """Events by (job id, attempt)."""
        self.started: list[trainer_pb2.StartJobRequest] = []
        self.stops: list[trainer_pb2.StopJobRequest] = []
        self.dumps: list[trainer_pb2.DumpStacksRequest] = []
        self.exports: dict[str, str] = {}
        self.left_behind: dict[tuple[str, int], str] = {}
        """Ends of attempts that a former supervisor started, by (job id, attempt)."""
        self.refusal: PlatformError | None = None
        """Raised by StartJob."""
        self.spec_digest = schema_digest()

    def StartJob(
        self, request: trainer_pb2.StartJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.StartJobResponse:
        if self.refusal is not None:
            raise self.refusal
        self.started.append(request)
        self.job_id, self.attempt, self.state, self.last_event_seq = (
            request.job_id,
            request.attempt,
            "running",
            0,
        )
        return trainer_pb2.StartJobResponse(pid=1)

    def StopJob(
        self, request: trainer_pb2.StopJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.StopJobResponse:
        self.stops.append(request)
        return trainer_pb2.StopJobResponse(stopping=self.state == "running")

    def DumpStacks(
        self, request: trainer_pb2.DumpStacksRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.DumpStacksResponse:
        self.dumps.append(request)
        return trainer_pb2.DumpStacksResponse(asked=True)

    def GetStatus(
        self, request: trainer_pb2.GetTrainerStatusRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetTrainerStatusResponse:
        asked = (request.job_id, request.attempt)
        if asked in self.left_behind:
            return trainer_pb2.GetTrainerStatusResponse(
                job_id=request.job_id, attempt=request.attempt, state=self.left_behind[asked]
            )
        code, message, retryable = self.error
        return trainer_pb2.GetTrainerStatusResponse(
            job_id=self.job_id,
            attempt=self.attempt,
            state=self.state,
            error_code=code,
            error_message=message,
            retryable=retryable,
            last_event_seq=self.last_event_seq,
            version="test",
            spec_digest=self.spec_digest,
        )

    def GetEvents(
        self, request: trainer_pb2.GetEventsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetEventsResponse:
        journal = self.journals.get((Path(request.job_dir).name, request.attempt), [])
        return trainer_pb2.GetEventsResponse(
            events=[event.model_dump_json() for event in journal if event.seq > request.after_seq][
                : request.limit
            ]
        )

    def StartExport(
        self, request: trainer_pb2.StartExportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetExportResponse:
        self.exports[request.export_id] = request.output_path
        return trainer_pb2.GetExportResponse(state="running")

    def MakeTinyModel(
        self, request: trainer_pb2.MakeTinyModelRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.MakeTinyModelResponse:
        write_model(Path(request.output_path))
        return trainer_pb2.MakeTinyModelResponse()

    def GetExport(
        self, request: trainer_pb2.GetExportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetExportResponse:
        output = self.exports.get(request.export_id)
        if output is None:
            return trainer_pb2.GetExportResponse(state="unknown")
        return trainer_pb2.GetExportResponse(
            state="succeeded" if Path(output).exists() else "running"
        )

    def journal(
        self, job_id: str, attempt: int, *facts: tuple[EventType, dict[str, Any]]
    ) -> list[Event]:
        """Let the learner write these events."""
        journal = self.journals.setdefault((job_id, attempt), [])
        for kind, data in facts:
            seq = len(journal) + 1
            journal.append(
                Event(job_id=job_id, attempt=attempt, seq=seq, type=kind, time=1e9 + seq, data=data)
            )
        self.last_event_seq = len(journal)
        return journal

    def end(
        self, state: str, code: str = "", message: str = "", *, retryable: bool = False
    ) -> None:
        """Let the learner end."""
        self.state, self.error = state, (code, message, retryable)


class ScriptedReplica(rollout_pb2_grpc.RolloutServiceServicer):
    """A rollout replica that remembers its assignments."""

    def __init__(self) -> None:
        self.assignment: rollout_pb2.AssignRequest | None = None
        self.assigned: list[rollout_pb2.AssignRequest] = []
        self.released: list[tuple[str, int]] = []

    def Assign(
        self, request: rollout_pb2.AssignRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.AssignResponse:
        self.assignment = request
        self.assigned.append(request)
        return rollout_pb2.AssignResponse(replica="scripted")

    def Release(
        self, request: rollout_pb2.ReleaseRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.ReleaseResponse:
        self.released.append((request.job_id, request.attempt))
        self.assignment = None
        return rollout_pb2.ReleaseResponse(released=True)

    def GetStatus(
        self, request: rollout_pb2.GetRolloutStatusRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.GetRolloutStatusResponse:
        held = self.assignment
        return rollout_pb2.GetRolloutStatusResponse(
            replica="scripted",
            job_id="" if held is None else held.job_id,
            attempt=0 if held is None else held.attempt,
            weight_version=-1,
            state="idle" if held is None else "waiting_for_weights",
        )


@contextmanager
def serving(servicer: Any, listen: str = "127.0.0.1:0") -> Iterator[str]:
    """host:port of a scripted service; None serves health alone, as the reward service seems from
    afar.
    """

    def register(server: grpc.Server) -> None:
        if isinstance(servicer, ScriptedTrainer):
            trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
        if isinstance(servicer, ScriptedReplica):
            rollout_pb2_grpc.add_RolloutServiceServicer_to_server(servicer, server)

    server = RpcServer(listen, register, [])
    try:
        yield server.address
    finally:
        server.stop(lambda: None)


def make_settings(database_url: str, redis_url: str, data_dir: Path, **values: Any) -> ApiSettings:
    """Settings of a control plane whose services do not exist unless they are given."""
    absent = {
        "rollout_addresses": (NOWHERE,),
        "trainer_addresses": (NOWHERE,),
        "reward_address": NOWHERE,
    }
    return ApiSettings(
        database_url=database_url, redis_url=redis_url, data_dir=data_dir, **{**absent, **values}
    )


@contextmanager
def migrated_database(server: Postgres) -> Iterator[str]:
    """URL of a fresh database with the newest schema; dropped afterwards."""
    name = f"migrated_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {_migrated_template(server)}")
    try:
        yield server.url(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@functools.cache
def _migrated_template(server: Postgres) -> str:
    """Migrated once; copying it is ten times as quick."""
    server.execute("CREATE DATABASE migrated_template")
    migrate(server.url("migrated_template"))
    return "migrated_template"


@contextmanager
def scheduler_context(settings: ApiSettings) -> Iterator[SchedulerContext]:
    """What the scheduler's actions work with."""
    context = open_context(settings)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def running_api(
    settings: ApiSettings, dashboard: Path | None = None
) -> Iterator[tuple[httpx.Client, Resources]]:
    """A client of the API, served over a socket."""
    with open_resources(settings) as resources:
        app = (
            create_app(resources)
            if dashboard is None
            else create_app(resources, dashboard=dashboard)
        )
        server = uvicorn.Server(make_server_config(app, "127.0.0.1", 0))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False
            ) as client:
                yield client, resources
        finally:
            resources.stopping.set()
            server.should_exit = True
            thread.join()


def openai_client(http: httpx.Client) -> openai.OpenAI:
    """The real OpenAI package, speaking to our API."""
    return openai.OpenAI(
        base_url=f"{http.base_url}/v1",
        api_key="none",
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def write_model(path: Path, **values: Any) -> Path:
    """A model directory as the control plane sees it: its config."""
    config = {
        "model_type": "sdar",
        "block_size": 4,
        "mask_token_id": 7,
        "vocab_size": 64,
        "max_position_embeddings": 2048,
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({**config, **values}))
    return path


def write_rows(path: Path, count: int = 4) -> Path:
    """A data file that every stage can use."""
    rows = [
        {"prompt": f"What is {n} + {n}?", "answer": str(2 * n), "completion": rf"\boxed{{{2 * n}}}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job_body(directory: Path, **values: Any) -> dict[str, Any]:
    """A job spec whose model and data exist in `directory`."""
    rows = str(write_rows(directory / "rows.jsonl"))
    return {
        "model": str(write_model(directory / "model")),
        "method": "pipeline",
        "training_file": rows,
        "validation_file": rows,
        **values,
    }


def submit(database: Database, directory: Path, *, max_replicas: int = 8, **values: Any) -> str:
    """Id of a queued job."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = make_settings(
        url,
        "redis://127.0.0.1:9/0",
        directory / "data",
        rollout_addresses=(NOWHERE,) * max_replicas,
    )
    plane = ControlPlane(
        settings=settings,
        database=database,
        fleet=Fleet((), (), NOWHERE),
        redis=connect(settings.redis_url),
        wakeups=Wakeups(settings.redis_url),
    )
    job = create_job(plane, LOCAL, job_body(directory, **values))
    assert job is not None
    return job.id


def run_attempt(
    database: Database, job_id: str, trainer: str = NOWHERE, replicas: tuple[str, ...] = ()
) -> int:
    """Number of a fresh attempt of a queued job, as if the scheduler had placed and started it."""
    with database.begin() as session:
        job = lock_job(session, job_id)
        attempt = open_attempt(session, job, trainer, replicas)
        assert attempt is not None
        attempt.state = "running"
        transition(session, job, JobState.RUNNING)
        return attempt.number


def read_job(database: Database, job_id: str) -> Job:
    """The job's row as it is now."""
    with database.begin() as session:
        return session.get_one(Job, job_id)


def read_attempts(database: Database, job_id: str) -> list[Attempt]:
    """The job's attempts by number."""
    with database.begin() as session:
        return list(session.query(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))
