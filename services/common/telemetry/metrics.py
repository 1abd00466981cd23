"""Serve Prometheus metrics of a process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from services.common.settings import HostPort


def new_registry() -> CollectorRegistry:
    """Create a registry with memory, CPU seconds and open files of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


@contextmanager
def serving_metrics(listen: HostPort | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve GET /metrics at `listen` while the block runs; does nothing if it is None.

    Ends the process if the address cannot be bound.
    """
    if listen is None:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host, registry)
    except OSError as error:
        sys.exit(
            f"Cannot serve metrics on {listen}: {error}. Free the port or change DIRL_METRICS_LISTEN."
        )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
