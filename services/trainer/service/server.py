"""Transport of the trainer service: protobuf on one side, supervisor, journal and exporter on the
other.
"""

import os
import time
from pathlib import Path
from typing import Final

import grpc

from services.common.job_spec import JobSpec, schema_digest
from services.common.pb.dirl.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.release import release
from services.common.rpc.server import run_server
from services.common.telemetry.metrics import serving_metrics
from services.trainer.learner.journal import read_events
from services.trainer.learner.request import LearnerRequest
from services.trainer.service.demo_model import make_demo_model
from services.trainer.service.export_processes import ExportProcesses, ExportStatus
from services.trainer.service.metrics import trainer_registry
from services.trainer.service.settings import TrainerSettings
from services.trainer.service.supervisor import LearnerSupervisor

SERVICE_NAME: Final = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"].full_name


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Serves TrainerService; trainer.proto documents the retry semantics."""

    def __init__(
        self, settings: TrainerSettings, supervisor: LearnerSupervisor, exporter: ExportProcesses
    ) -> None:
        self._settings, self._supervisor, self._exporter = settings, supervisor, exporter

    def StartJob(
        self, request: trainer_pb2.StartJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.StartJobResponse:
        """Returns when the process exists; it loads the job after that."""
        return trainer_pb2.StartJobResponse(
            pid=self._supervisor.start(_learner_request(request, self._settings))
        )

    def StopJob(
        self, request: trainer_pb2.StopJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.StopJobResponse:
        """Returns at once."""
        stopping = self._supervisor.stop(request.job_id, request.attempt, request.grace_s)
        return trainer_pb2.StopJobResponse(stopping=stopping)

    def DumpStacks(
        self, request: trainer_pb2.DumpStacksRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.DumpStacksResponse:
        """Returns at once; a learner that is stopped writes nothing."""
        return trainer_pb2.DumpStacksResponse(
            asked=self._supervisor.dump_stacks(request.job_id, request.attempt)
        )

    def GetStatus(
        self, request: trainer_pb2.GetTrainerStatusRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetTrainerStatusResponse:
        """Status of the attempt asked about, or last started."""
        if request.job_id:
            status = self._supervisor.status_of(
                request.job_id, request.attempt, Path(request.job_dir)
            )
        else:
            status = self._supervisor.status()
        result = status.result
        return trainer_pb2.GetTrainerStatusResponse(
            job_id=status.job_id,
            attempt=status.attempt,
            state=status.state,
            error_code=result.error_code if result else "",
            error_message=result.error_message if result else "",
            retryable=result is not None and result.retryable,
            last_event_seq=status.last_event_seq,
            rss_bytes=status.rss_bytes,
            version=release(),
            address=self._settings.trainer_listen,
            spec_digest=schema_digest(),
            unix_time_s=time.time(),
        )

    def GetEvents(
        self, request: trainer_pb2.GetEventsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetEventsResponse:
        """Events of the journal, whichever trainer wrote it."""
        events = read_events(
            Path(request.job_dir), request.attempt, request.after_seq, request.limit
        )
        return trainer_pb2.GetEventsResponse(events=events)

    def StartExport(
        self, request: trainer_pb2.StartExportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetExportResponse:
        """Returns when the process exists."""
        status = self._exporter.start(
            request.export_id, Path(request.checkpoint_path), Path(request.output_path)
        )
        return _export_response(status)

    def GetExport(
        self, request: trainer_pb2.GetExportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetExportResponse:
        """State of an export."""
        return _export_response(self._exporter.status(request.export_id))

    def MakeTinyModel(
        self, request: trainer_pb2.MakeTinyModelRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.MakeTinyModelResponse:
        """Takes seconds."""
        make_demo_model(Path(request.output_path), request.seed, context.time_remaining())
        return trainer_pb2.MakeTinyModelResponse()


def serve(settings: TrainerSettings) -> None:
    """Serve until SIGTERM; the learner is stopped with a checkpoint if it manages in time."""
    supervisor, exporter = LearnerSupervisor(), ExportProcesses()
    servicer = TrainerServicer(settings, supervisor, exporter)

    def stop() -> None:
        exporter.shutdown()
        supervisor.shutdown(settings.trainer_stop_grace_s)

    def register(server: grpc.Server) -> None:
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)

    with serving_metrics(settings.metrics_listen, trainer_registry(supervisor)):
        run_server("trainer", settings.trainer_listen, register, [SERVICE_NAME], stop)


def _learner_request(
    message: trainer_pb2.StartJobRequest, settings: TrainerSettings
) -> LearnerRequest:
    """Make the learner's request; raises pydantic.ValidationError, for the spec too: an invalid
    job is refused, not started.
    """
    return LearnerRequest(
        job_id=message.job_id,
        attempt=message.attempt,
        spec=JobSpec.model_validate_json(message.spec_json),
        model_path=Path(message.model_path),
        files={name: Path(path) for name, path in message.files.items()},
        job_dir=Path(message.job_dir),
        rollout_addresses=tuple(message.rollout_addresses),
        prompts_stream=message.prompts_stream,
        groups_stream=message.groups_stream,
        steps_recorded=message.steps_recorded,
        redis_url=settings.redis_url,
        object_store_url=settings.object_store_url,
        torch_threads=settings.torch_threads,
        ranks_per_host=settings.trainer_ranks_per_host,
        rendezvous_address=settings.trainer_rendezvous,
        log_level=settings.log_level,
        log_format=settings.log_format,
        supervisor_pid=os.getpid(),
    )


def _export_response(status: ExportStatus) -> trainer_pb2.GetExportResponse:
    return trainer_pb2.GetExportResponse(
        state=status.state, error_message=status.error_message, error_code=status.error_code
    )
