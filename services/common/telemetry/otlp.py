"""Set up the OpenTelemetry SDK; imported by `tracing` only if an endpoint is configured."""

import atexit
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import (
    GrpcInstrumentorClient,
    GrpcInstrumentorServer,
    filters,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from services.common.release import release

_CELERY: Final = "opentelemetry.instrumentation.celery"


def install(service: str, endpoint: str) -> None:
    """Instrument gRPC, and Celery if installed; spans are sent in batches and flushed at exit."""
    resource = Resource.create({"service.name": f"dirl-{service}", "service.version": release()})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    atexit.register(provider.shutdown)
    calls = filters.negate(filters.any_of(filters.health_check(), filters.method_name("GetStatus")))
    GrpcInstrumentorClient(filter_=calls).instrument()
    GrpcInstrumentorServer(filter_=calls).instrument()
    if find_spec("celery") is not None:
        import_module(_CELERY).CeleryInstrumentor().instrument()
