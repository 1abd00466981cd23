"""Middleware of every request: an id, a bound on its body, a log line, a count."""

import re
import secrets
import time
from typing import Final

import anyio
import structlog
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.logs import get_logger

REQUEST_ID_HEADER: Final = "x-request-id"
SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
        " form-action 'self'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
"""On every response: no page may frame the dashboard, which needs no key on loopback, and the dashboard
loads nothing from elsewhere.
"""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOO_LARGE: Final = 413
_TOO_SLOW: Final = 408
_PIECE_S: Final = 30.0
"""Longest silence within a body, and longest wait for a client to read what it was sent."""
_BODY_S: Final = 60.0
_UPLOAD_S: Final = 3600.0
_ERROR: Final = 400

log = get_logger()


class RequestMiddleware:
    """Names the request, binds the name for logs and calls, adds the headers of every response, and reports
    status and time.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = exported.API_REQUESTS.register(registry)
        self._seconds = exported.API_REQUEST_SECONDS.register(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {REQUEST_ID_HEADER: request_id, **SECURITY_HEADERS}
                message.setdefault("headers", []).extend(
                    (name.encode(), value.encode()) for name, value in named.items()
                )
                status = message["status"]
                seconds = time.monotonic() - began
                route = getattr(scope.get("route"), "path", "unmatched")
                self._requests.labels(scope["method"], route, str(status)).inc()
                self._seconds.labels(scope["method"], route).observe(seconds)
                notable = status >= _ERROR or scope["method"] not in ("GET", "HEAD")
                say = log.info if notable else log.debug
                about = (
                    {"job_id": job_id}
                    if (job_id := scope.get("path_params", {}).get("job_id"))
                    else {}
                )
                say(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(seconds, 4),
                    **about,
                )
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_named)


class TransferLimitMiddleware:
    """Refuses bodies that are too large or too slow while they arrive, before they fill memory or
    disk or hold a connection, and drops clients that stop reading.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, uploads: dict[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._uploads = uploads
        """Bounds of paths that take more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in self._uploads
        limit = self._uploads.get(scope["path"], self._max_bytes)
        ends_at = anyio.current_time() + (_UPLOAD_S if is_upload else _BODY_S)
        received, is_complete = 0, False

        async def receive_bounded() -> Message:
            nonlocal received, is_complete
            if is_complete:  # the next message is the end of the connection
                return await receive()
            try:
                with anyio.fail_after(min(_PIECE_S, ends_at - anyio.current_time())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    _TOO_SLOW, "the body of the request arrives too slowly"
                ) from None
            is_complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(
                    _TOO_LARGE, f"the body is larger than the {limit} bytes that this server takes"
                )
            return message

        async def send_bounded(message: Message) -> None:
            with anyio.fail_after(_PIECE_S):
                await send(message)

        await self._app(scope, receive_bounded, send_bounded)
