"""Endpoints of the installation: HTTP services that graders call, with a deadline and retries.

A job names an endpoint; its address, key and secret are the operator's (`DIRL_REWARD_ENDPOINTS`), so
that no job makes this service open a connection to anywhere else. Redirects are not followed.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr

from services.common.errors import PlatformError
from services.common.signatures import signed_headers
from services.reward.scores import GraderFailure, GradingLimits

_BACKOFFS_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Pauses before retries; the last one is repeated."""
_MAX_REPLY_BYTES: Final = 16 << 20
_MAX_UNUSABLE: Final = 3
"""Replies of a sound server that cannot be used: a judge that never names a score is not asked for
minutes.
"""
_MAX_SHOWN: Final = 200
_RETRIED: Final = (408, 409, 425, 429)
"""Besides 5xx: statuses that may be another one a moment later."""

Parsed = TypeVar("Parsed")
Task = TypeVar("Task")


class Endpoint(BaseModel):
    """One endpoint, as the operator configures it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    """Address of a grader, or base address of an OpenAI-compatible API, e.g. `http://judge:8000/v1`."""
    api_key: SecretStr | None = None
    """Sent as a bearer token."""
    secret: SecretStr | None = None
    """Key of the signature (Standard Webhooks, `whsec_…`)."""
    max_concurrency: int = Field(8, ge=1, le=1024)
    """Requests at a time, of all jobs together."""


class ReplyError(Exception):
    """A reply that cannot be used; the message says why. The request is made again, a few times."""


class _UnavailableError(Exception):
    """The server failed; it may work a moment later."""


class _RefusedError(Exception):
    """An answer that another try would not change."""


class EndpointClient:
    """Calls one endpoint. Thread-safe."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name, self._endpoint = name, endpoint
        self._url = str(endpoint.url).rstrip("/")
        self._client = httpx.Client(
            follow_redirects=False,
            limits=httpx.Limits(max_connections=endpoint.max_concurrency),
        )
        self._pool = ThreadPoolExecutor(endpoint.max_concurrency, thread_name_prefix=name)

    def map(
        self, call: Callable[[Task], Parsed | GraderFailure], tasks: Sequence[Task]
    ) -> list[Parsed | GraderFailure]:
        """Return the results of `call` in order, as many at a time as the endpoint may get."""
        return list(self._pool.map(call, tasks))

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        parse: Callable[[Any], Parsed],
        *,
        timeout_s: float,
        deadline: float,
        limits: GradingLimits,
    ) -> Parsed | GraderFailure:
        """Return what `parse` makes of the reply to a request, which is made again until there is one.

        `timeout_s` is wall time of a try, `deadline` (time.monotonic) of all of them. Retried are
        errors of the network, statuses that may pass, and replies for which `parse` raises ReplyError.
        """
        text, message_id = json.dumps(body), f"msg_{uuid.uuid4().hex}"
        deadline = min(deadline, limits.expires_at)
        tries, unusable, problem = 0, 0, "no time was left"
        while not limits.cancellation.is_cancelled and time.monotonic() < deadline:
            try:
                ends_at = min(deadline, time.monotonic() + timeout_s)
                return parse(self._send(path, text, message_id, ends_at))
            except _RefusedError as error:
                return GraderFailure("endpoint_refused", f"{self.name}: {error}")
            except (httpx.HTTPError, _UnavailableError) as error:
                problem = str(error) or type(error).__name__
            except ReplyError as error:
                problem, unusable = str(error), unusable + 1
                if unusable == _MAX_UNUSABLE:
                    break
            pause_s = _BACKOFFS_S[min(tries, len(_BACKOFFS_S) - 1)]
            tries += 1
            _sleep(min(pause_s, deadline - time.monotonic()), limits)
        if limits.cancellation.is_cancelled:
            return GraderFailure("cancelled")
        return GraderFailure("endpoint_failed", f"{self.name}: {problem}")

    def _send(self, path: str, text: str, message_id: str, ends_at: float) -> Any:
        """One try; raises httpx.HTTPError, _UnavailableError, ReplyError or _RefusedError."""
        key, secret = self._endpoint.api_key, self._endpoint.secret
        headers = {"content-type": "application/json", "user-agent": "dirl-platform"}
        if key is not None:
            headers["authorization"] = f"Bearer {key.get_secret_value()}"
        if secret is not None:
            headers |= signed_headers(secret.get_secret_value(), message_id, int(time.time()), text)
        remaining_s = max(0.001, ends_at - time.monotonic())
        with self._client.stream(
            "POST", f"{self._url}{path}", content=text, headers=headers, timeout=remaining_s
        ) as response:
            content = _read(response, ends_at)
        if response.is_success:
            try:
                return json.loads(content)
            except (ValueError, RecursionError):
                raise ReplyError(f"the reply is not JSON: {_show(content)}") from None
        problem = f"HTTP {response.status_code}: {_show(content)}"
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or (
            response.status_code in _RETRIED
        ):
            raise _UnavailableError(problem)
        raise _RefusedError(problem)


class Endpoints:
    """The endpoints of the installation, by name."""

    def __init__(self, configured: Mapping[str, Endpoint]) -> None:
        self._configured = dict(configured)
        self._clients: dict[str, EndpointClient] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> EndpointClient:
        """Return the client of an endpoint; raises PlatformError("invalid_request") for an unknown one."""
        if name not in self._configured:
            known = ", ".join(sorted(self._configured)) or "none"
            raise PlatformError(
                "invalid_request",
                f"The installation has no endpoint {name!r}; it has: {known}.",
                hint="The operator names endpoints in DIRL_REWARD_ENDPOINTS of the reward service.",
                param="graders",
            )
        with self._lock:
            if name not in self._clients:
                self._clients[name] = EndpointClient(name, self._configured[name])
            return self._clients[name]


def _read(response: httpx.Response, ends_at: float) -> bytes:
    """Read a reply within the time of its try: a timeout of the client counts from the last byte."""
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > _MAX_REPLY_BYTES:
            raise ReplyError(f"the reply is longer than {_MAX_REPLY_BYTES} bytes")
        if time.monotonic() > ends_at:
            raise _UnavailableError("the reply took too long")
    return bytes(content)


def _sleep(seconds: float, limits: GradingLimits) -> None:
    """Sleep in short naps, so that a cancelled batch ends soon."""
    ends_at = time.monotonic() + seconds
    while not limits.cancellation.is_cancelled and (left_s := ends_at - time.monotonic()) > 0:
        time.sleep(min(0.1, left_s))


def _show(content: bytes) -> str:
    return content[:_MAX_SHOWN].decode(errors="replace")
