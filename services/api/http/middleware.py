"""Middleware of every request: an id, a bound on its body, a log line, a count."""

import re
import secrets
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.telemetry import exported_metrics as exported
from services.common.telemetry.logs import get_logger

REQUEST_ID_HEADER: Final = "x-request-id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOO_LARGE: Final = 413
_ERROR: Final = 400

log = get_logger()


class RequestMiddleware:
    """Names the request, binds the name for logs and calls, and reports its status and time."""

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
                message.setdefault("headers", []).append(
                    (REQUEST_ID_HEADER.encode(), request_id.encode())
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


class BodyLimitMiddleware:
    """Refuses bodies that are too large while they arrive, before they fill memory or disk."""

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
        limit = self._uploads.get(scope["path"], self._max_bytes)
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(
                    _TOO_LARGE, f"the body is larger than the {limit} bytes that this server takes"
                )
            return message

        await self._app(scope, receive_bounded, send)
