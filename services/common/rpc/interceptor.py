"""Convert exceptions of handlers to gRPC statuses; reject calls without a token or deadline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc
import structlog
from pydantic import ValidationError

from services.common.errors import GRPC_CODE_METADATA, GRPC_RETRY_METADATA, PlatformError
from services.common.rpc.options import REQUEST_ID_METADATA
from services.common.rpc.security import require_token
from services.common.telemetry.logs import get_logger

_HEALTH: Final = "/grpc.health.v1.Health/"
_LONGEST_DEADLINE_S: Final = 7 * 86_400.0
# gRPC limits the metadata of a call to 8 KiB and sends each non-ASCII byte as three.
_MAX_DETAILS_BYTES: Final = 2400

Behaviour = Callable[[Any, grpc.ServicerContext], Any]

log = get_logger()


class ErrorInterceptor(grpc.ServerInterceptor):
    """Converts PlatformError to its status, with the code in trailing metadata, and ValidationError
    to invalid_request; other exceptions become INTERNAL and are logged with their traceback.
    """

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the handler of every method but health checks."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _guard(method, handler.unary_unary), **coders
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                _guard(method, handler.stream_unary), **coders
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(method, handler.unary_stream), **coders
            )
        raise NotImplementedError(
            f"ErrorInterceptor does not support {method}, which streams in both directions"
        )


def _guard(method: str, behaviour: Behaviour) -> Behaviour:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        with _translating_errors(method, context):
            return behaviour(request, context)

    return handle


def _guard_stream(method: str, behaviour: Behaviour) -> Behaviour:
    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with _translating_errors(method, context):
            yield from behaviour(request, context)

    return handle


@contextmanager
def _translating_errors(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Convert exceptions to statuses; bind method and request id for logs of the handler."""
    metadata = dict(context.invocation_metadata())
    structlog.contextvars.bind_contextvars(method=method)
    if REQUEST_ID_METADATA in metadata:
        structlog.contextvars.bind_contextvars(request_id=metadata[REQUEST_ID_METADATA])
    try:
        require_token(metadata)
        _require_deadline(method, context)
        yield
    except PlatformError as error:
        _abort(context, error)
    except ValidationError as error:
        _abort(context, PlatformError("invalid_request", f"{method}: {error}"))
    except Exception as error:
        log.exception("rpc failed")
        _abort(
            context, PlatformError("internal", f"{method} failed: {type(error).__name__}: {error}")
        )


def _require_deadline(method: str, context: grpc.ServicerContext) -> None:
    remaining = context.time_remaining()
    if remaining is None or remaining > _LONGEST_DEADLINE_S:
        raise PlatformError(
            "invalid_request",
            f"{method} was called without a deadline; the limit is {_LONGEST_DEADLINE_S:.0f} s.",
            hint="Call it with a timeout.",
        )


def _abort(context: grpc.ServicerContext, error: PlatformError) -> NoReturn:
    if error.code != "internal":
        log.warning("rpc rejected", code=error.code, error=str(error))
    retry = (
        ()
        if error.retry_after_s is None
        else ((GRPC_RETRY_METADATA, f"{error.retry_after_s:.3f}"),)
    )
    context.set_trailing_metadata(((GRPC_CODE_METADATA, error.code), *retry))
    context.abort(grpc.StatusCode[error.kind.grpc_status], _clip(str(error)))


def _clip(text: str) -> str:
    data = text.encode()
    if len(data) <= _MAX_DETAILS_BYTES:
        return text
    return (
        data[:_MAX_DETAILS_BYTES].decode(errors="ignore")
        + " … (truncated; see the log of the server)"
    )
