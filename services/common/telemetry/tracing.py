"""Traces, if an endpoint is configured; OpenTelemetry is not imported otherwise."""

import sys
from importlib import import_module


def configure_tracing(service: str, endpoint: str | None) -> None:
    """Send spans of requests, tasks and calls to the OTLP/gRPC endpoint; does nothing if it is None.

    Ends the process if OpenTelemetry is not installed. Must be called before servers and channels
    are created.
    """
    if endpoint is None:
        return
    try:
        otlp = import_module("services.common.telemetry.otlp")
    except ModuleNotFoundError as error:
        sys.exit(
            f"DIRL_OTLP_ENDPOINT is set, but {error.name} is not installed: pip install 'dirl-platform[tracing]'"
        )
    otlp.install(service, endpoint)
