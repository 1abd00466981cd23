"""Exceptions to error envelopes; the table is services.common.errors.ERROR_KINDS."""

import math
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from services.api.http.middleware import REQUEST_ID_HEADER, SECURITY_HEADERS
from services.api.schemas.envelope import ErrorBody, ErrorEnvelope, ProblemBody
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.storage_errors import is_storage_fault, to_storage_error
from services.common.telemetry.logs import get_logger

log = get_logger()

_CODE_OF_STATUS: Final[Mapping[int, str]] = {404: "not_found", 413: "payload_too_large"}
"""Refusals of the framework itself; others are invalid requests."""


def install_error_handlers(app: FastAPI) -> None:
    """Register a handler for every kind of exception."""
    app.add_exception_handler(PlatformError, _handle_platform_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(OperationalError, _handle_database_error)
    app.add_exception_handler(PoolTimeoutError, _handle_database_error)
    app.add_exception_handler(DataError, _handle_data_error)
    app.add_exception_handler(OSError, _handle_os_error)
    app.add_exception_handler(Exception, _handle_unexpected)


def _handle_platform_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlatformError)
    return _to_response(request, error)


def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # A location begins with the part of the request that it is in: body, query or path.
    problems = [
        Problem(".".join(str(part) for part in item["loc"][1:]) or "body", item["msg"])
        for item in error.errors()
    ]
    return _to_response(
        request, ProblemsError("invalid_request", "The request cannot be used", problems)
    )


def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path}: {error.detail}."
    return _to_response(
        request, PlatformError(code, message), status=error.status_code, headers=error.headers
    )


def _handle_database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("database unavailable", reason=str(error))
    message = (
        "The database does not answer; nothing was changed. Repeat the request; if it fails again,"
        " check that the server of DIRL_DATABASE_URL is up."
    )
    return _to_response(request, PlatformError("busy", message))


def _handle_data_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DataError)
    message = f"The request holds a value that the database cannot hold: {error.orig}."
    return _to_response(request, PlatformError("invalid_request", message))


def _handle_os_error(request: Request, error: Exception) -> JSONResponse:
    """A full or read-only disk is not a defect of the platform; any other error may be one."""
    assert isinstance(error, OSError)
    if not is_storage_fault(error):
        raise error
    log.error("storage failed", reason=str(error))
    return _to_response(request, to_storage_error("store the request's data", error))


def _handle_unexpected(request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback: Starlette raises the exception again after this response.
    message = f"{type(error).__name__} in {request.method} {request.url.path}; the server's log has the traceback."
    response = _to_response(request, PlatformError("internal", message))
    # This handler alone runs outside the middleware that adds headers to every response.
    response.headers.update(
        {REQUEST_ID_HEADER: request.scope["state"]["request_id"], **SECURITY_HEADERS}
    )
    return response


def _to_response(
    request: Request,
    error: PlatformError,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    request_id = request.scope["state"]["request_id"]
    problems = error.problems if isinstance(error, ProblemsError) else None
    body = ErrorBody(
        type=error.kind.http_type,
        code=error.code,
        message=error.message,
        param=error.param,
        request_id=request_id,
        problems=None
        if problems is None
        else [ProblemBody(path=p.path, message=p.message) for p in problems],
    )
    if error.code == "unauthenticated":
        headers = {**(headers or {}), "www-authenticate": "Bearer"}
    if error.retry_after_s is not None:
        headers = {**(headers or {}), "retry-after": str(math.ceil(error.retry_after_s))}
    return JSONResponse(
        ErrorEnvelope(error=body).model_dump(mode="json"),
        status_code=status or error.kind.http_status,
        headers=headers,
    )
