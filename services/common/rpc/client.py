"""gRPC calls with a deadline; failures raise the PlatformError that the server raised."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol, TypeVar, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import (
    ERROR_KINDS,
    GRPC_CODE_METADATA,
    GRPC_RETRY_METADATA,
    PlatformError,
)
from services.common.rpc.options import CHANNEL_OPTIONS, REQUEST_ID_METADATA
from services.common.rpc.security import open_channel

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)
Streamed = TypeVar("Streamed")

_CODE_OF_STATUS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",
    grpc.StatusCode.CANCELLED: "cancelled",
}


class UnaryMethod(Protocol[Request, Response]):
    """A unary method of a stub."""

    def __call__(
        self,
        request: Request,
        /,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Response:
        """Call it."""
        ...


def channel(address: str) -> grpc.Channel:
    """Open a channel to host:port with keepalive; it connects lazily and reconnects.

    Raises PlatformError("permission_denied") for a remote host without TLS.
    """
    return open_channel(address, CHANNEL_OPTIONS)


def call(
    stub_method: UnaryMethod[Request, Response],
    request: Request,
    *,
    timeout_s: float,
    what: str,
    unavailable_code: str = "worker_lost",
    deadline_code: str = "deadline_exceeded",
) -> Response:
    """Call a method; `what` names the attempt in the error message, e.g. "StartJob on trainer
    10.0.0.7:50053".

    Raises PlatformError: with the server's code when it sent one, `unavailable_code` when it cannot
    be reached, `deadline_code` after `timeout_s` seconds, otherwise a code for the gRPC status.
    """
    bound = structlog.contextvars.get_contextvars().get("request_id")
    metadata = ((REQUEST_ID_METADATA, str(bound)),) if bound else None
    try:
        return stub_method(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        by_status = {
            grpc.StatusCode.UNAVAILABLE: unavailable_code,
            grpc.StatusCode.DEADLINE_EXCEEDED: deadline_code,
        }
        raise _platform_error(error, what, {**_CODE_OF_STATUS, **by_status}) from error


def call_stream(
    stub_method: Callable[..., Iterator[Streamed]],
    request: object,
    *,
    timeout_s: float,
    what: str,
    unavailable_code: str = "worker_lost",
) -> Iterator[Streamed]:
    """Call a server-streaming method; raises like `call`, also while the stream is read."""
    bound = structlog.contextvars.get_contextvars().get("request_id")
    metadata = ((REQUEST_ID_METADATA, str(bound)),) if bound else None
    try:
        yield from stub_method(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        by_status = {
            grpc.StatusCode.UNAVAILABLE: unavailable_code,
            grpc.StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
        }
        raise _platform_error(error, what, {**_CODE_OF_STATUS, **by_status}) from error


def _platform_error(
    error: grpc.RpcError, what: str, code_of_status: Mapping[grpc.StatusCode, str]
) -> PlatformError:
    outcome = cast(grpc.Call, error)
    trailing = dict(outcome.trailing_metadata() or ())
    named, retry = trailing.get(GRPC_CODE_METADATA), trailing.get(GRPC_RETRY_METADATA)
    if named in ERROR_KINDS:
        retry_after_s = None if retry is None else float(retry)
        return PlatformError(
            str(named), f"{what} failed: {outcome.details()}", retry_after_s=retry_after_s
        )
    code = code_of_status.get(outcome.code(), "internal")
    return PlatformError(code, f"{what} failed ({outcome.code().name}): {outcome.details()}")


def probe(address: str, timeout_s: float) -> bool:
    """Whether the server at host:port reports SERVING (grpc.health.v1) within `timeout_s` seconds."""
    with channel(address) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
