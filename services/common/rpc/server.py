"""Run a gRPC server as a process, with a health service and a graceful shutdown on SIGTERM."""

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.rpc.interceptor import ErrorInterceptor
from services.common.rpc.options import SERVER_OPTIONS
from services.common.rpc.security import add_port
from services.common.telemetry.logs import get_logger

_THREADS: Final = 16
_DRAIN_S: Final = 3.0

log = get_logger()


class RpcServer:
    """Listens from construction to `stop`. `address` has the actual port if port 0 was requested."""

    def __init__(
        self, listen: str, register: Callable[[grpc.Server], None], service_names: Sequence[str]
    ) -> None:
        self._health = health.HealthServicer(experimental_non_blocking=True)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="rpc"),
            interceptors=[ErrorInterceptor()],
            options=SERVER_OPTIONS,
        )
        register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        port = add_port(self._server, listen)
        self.address = f"{listen.rpartition(':')[0]}:{port}"
        for name in service_names:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()

    def stop(self, on_stop: Callable[[], None]) -> None:
        """Report NOT_SERVING, reject new calls, run `on_stop`, and wait a few seconds for running calls."""
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(_DRAIN_S)
        on_stop()
        stopped.wait()


def run_server(
    name: str,
    listen: str,
    register: Callable[[grpc.Server], None],
    service_names: Sequence[str],
    on_stop: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; logs "<name> ready" with the address.

    `register` adds the servicers; `service_names` are their full names, for the health service;
    `on_stop` ends the work of the process within seconds and unblocks waiting handlers. Ends the
    process if the address cannot be bound.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        server = RpcServer(listen, register, service_names)
    except RuntimeError as error:
        on_stop()
        sys.exit(
            f"{name} cannot listen on {listen}: {error}. Free the port or set another address."
        )
    log.info(f"{name} ready", address=server.address)
    ended.wait()
    log.info(f"{name} stopping")
    server.stop(on_stop)
    log.info(f"{name} stopped")
