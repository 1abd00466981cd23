"""gRPC transport of the rollout service; the worker has the logic."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import grpc
import psutil

from services.common.errors import PlatformError
from services.common.parity import probe_from_pb
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc
from services.common.release import release
from services.common.rpc.server import run_server
from services.common.telemetry.metrics import serving_metrics
from services.common.weights import WeightAssembler
from services.rollout.assignment import Assignment, LoadedWeights
from services.rollout.metrics import RolloutMetrics
from services.rollout.opening import session_opener
from services.rollout.playground import Playground
from services.rollout.playground_request import PlaygroundRequest
from services.rollout.settings import RolloutSettings
from services.rollout.worker import RolloutWorker, WeightUpdate

_NO_VERSION: Final = -1


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """The servicer; rollout.proto documents retries."""

    def __init__(self, worker: RolloutWorker, name: str, metrics: RolloutMetrics) -> None:
        self._worker, self._name, self._metrics = worker, name, metrics
        self._playground = Playground()
        self._process = psutil.Process()

    def Assign(
        self, request: rollout_pb2.AssignRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.AssignResponse:
        """Return when the model is built."""
        self._playground.drop()
        assignment = Assignment.model_validate(
            {name: getattr(request, name) for name in Assignment.model_fields}
        )
        self._worker.assign(assignment, context.time_remaining())
        return rollout_pb2.AssignResponse(replica=self._name)

    def Release(
        self, request: rollout_pb2.ReleaseRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.ReleaseResponse:
        """Return when model and cache are freed."""
        released = self._worker.release(request.job_id, request.attempt, context.time_remaining())
        return rollout_pb2.ReleaseResponse(released=released)

    def UpdateWeights(
        self, request_iterator: Iterator[rollout_pb2.WeightChunk], context: grpc.ServicerContext
    ) -> rollout_pb2.UpdateWeightsResponse:
        """Assemble weights while the engine thread continues decoding; return when they are in use."""
        started = time.monotonic()
        assembler = WeightAssembler()
        assembler.feed(next(request_iterator, rollout_pb2.WeightChunk()))
        manifest = assembler.manifest
        loaded = self._worker.replica.accepts(
            manifest.job_id, manifest.attempt, manifest.weight_version
        )
        if loaded:
            for chunk in request_iterator:
                assembler.feed(chunk)
            tensors, digest = assembler.finish()
            weights, probe = (
                LoadedWeights(manifest.weight_version, digest),
                probe_from_pb(manifest.probe),
            )
            update = WeightUpdate(manifest.job_id, manifest.attempt, weights, tensors, probe)
            loaded = self._worker.update_weights(update, context.time_remaining())
        in_use, seconds = self._worker.replica.weights, time.monotonic() - started
        if loaded:
            self._metrics.load_seconds.observe(seconds)
        return rollout_pb2.UpdateWeightsResponse(
            weight_version=manifest.weight_version,
            weight_digest=in_use.digest if in_use else "",
            loaded=loaded,
            seconds=seconds,
            num_bytes=assembler.num_bytes,
            parity_gap=in_use.parity_gap if in_use else None,
        )

    def Sleep(
        self, request: rollout_pb2.SleepRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.SleepResponse:
        """Return when the memory is freed."""
        started = time.monotonic()
        freed = self._worker.sleep(request.job_id, request.attempt, context.time_remaining())
        return rollout_pb2.SleepResponse(freed_bytes=freed, seconds=time.monotonic() - started)

    def Generate(
        self, request: rollout_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[rollout_pb2.GenerateResponse]:
        """Stream a response; raises "busy" while the replica is assigned to a job."""
        assignment = self._worker.replica.assignment
        if assignment is not None:
            raise PlatformError(
                "busy",
                f"The replica is assigned to {assignment}; the playground uses idle replicas only.",
            )
        playground_request = PlaygroundRequest(
            messages=[{"role": turn.role, "content": turn.content} for turn in request.messages],
            prompt=request.prompt,
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            confidence_threshold=request.confidence_threshold,
            seed=request.seed,
            shows_steps=request.show_steps,
        )
        for piece in self._playground.answer(
            request.model_path, playground_request, context.time_remaining()
        ):
            yield rollout_pb2.GenerateResponse(**asdict(piece))

    def GetStatus(
        self, request: rollout_pb2.GetRolloutStatusRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.GetRolloutStatusResponse:
        """Return the status without waiting for the engine thread."""
        replica, totals = self._worker.replica, self._worker.totals
        assignment, weights = replica.assignment, replica.weights
        return rollout_pb2.GetRolloutStatusResponse(
            replica=self._name,
            job_id=assignment.job_id if assignment else "",
            attempt=assignment.attempt if assignment else 0,
            weight_version=weights.version if weights else _NO_VERSION,
            weight_digest=weights.digest if weights else "",
            state=replica.state.value,
            inflight_groups=self._worker.inflight_groups,
            generated_tokens=totals.generated_tokens,
            last_error=replica.last_error,
            rss_bytes=self._process.memory_info().rss,
            version=release(),
            busy_s=totals.busy_s,
            unix_time_s=time.time(),
        )


def serve(settings: RolloutSettings) -> None:
    """Serve until SIGTERM."""
    worker = RolloutWorker(session_opener(settings))
    metrics = RolloutMetrics(worker, settings.rollout_name)
    servicer = RolloutServicer(worker, settings.rollout_name, metrics)
    with serving_metrics(settings.metrics_listen, metrics.registry):
        run_server(
            "rollout",
            settings.rollout_listen,
            lambda server: rollout_pb2_grpc.add_RolloutServiceServicer_to_server(servicer, server),
            [rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name],
            worker.stop,
        )
