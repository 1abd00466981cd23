"""One trace from a REST request through Celery to a gRPC call, as a collector receives it."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from services.api.client import ApiClient
from tests.support.embedded import local_platform, tiny_spec

WAIT_S = 90.0


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span that is exported to it: (service, kind, name) by trace."""

    traces: dict[bytes, set[tuple[str, str, str]]] = field(default_factory=dict)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        """OTLP's only method."""
        with self.arrived:
            for resource in request.resource_spans:
                attributes = {
                    item.key: item.value.string_value for item in resource.resource.attributes
                }
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    kind = type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
                    found = self.traces.setdefault(span.trace_id, set())
                    found.add((attributes["service.name"], kind, span.name))
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def await_trace(self, wanted: set[tuple[str, str, str]], timeout_s: float) -> bool:
        """Whether one trace comes to hold all of these."""
        with self.arrived:
            return self.arrived.wait_for(
                lambda: any(wanted <= spans for spans in self.traces.values()), timeout_s
            )


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_request_a_task_and_a_call_are_one_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "dirl.v1.TrainerService/StartJob"
    wanted = {
        ("dirl-api", "server", "POST /v1/jobs"),
        ("dirl-api", "producer", "apply_async/dirl.dispatch"),
        ("dirl-scheduler", "consumer", "run/dirl.dispatch"),
        ("dirl-scheduler", "client", f"/{start}"),
        ("dirl-trainer", "server", f"/{start}"),
    }
    with collecting() as (collector, endpoint):
        monkeypatch.setenv("DIRL_OTLP_ENDPOINT", endpoint)
        with local_platform() as platform, ApiClient(platform.api_url) as api:
            # Beat looks for work every second, too; were it the one that finds the job, its task
            # would start the trace.
            os.kill(platform.pids()["beat"], signal.SIGSTOP)
            api.create_job({**tiny_spec(tmp_path, rl_steps=1), "method": "sft"})
            found = collector.await_trace(wanted, WAIT_S)
            os.kill(platform.pids()["beat"], signal.SIGCONT)
    assert found, sorted(map(sorted, collector.traces.values()), key=len)[-3:]
