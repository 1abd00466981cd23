"""Traces, where an endpoint is configured; without one nothing of OpenTelemetry is imported."""

import sys
from importlib import import_module


def configure_tracing(service: str, endpoint: str | None) -> None:
    """Send spans of requests, tasks and calls to the OTLP/gRPC endpoint; nothing when it is None.

    Ends the process when OpenTelemetry is not installed. To be called before servers and channels
    are made.
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
