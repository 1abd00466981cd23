"""API keys, callers and the audit log."""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from services.api.domain.access import DEFAULT_PROJECT, Scope
from services.api.schemas.base import RequestBody, UnixSeconds, UnixTime, View

_LATEST: Final = 253_402_300_799
"""The last second that the database can hold."""


class KeyRequest(RequestBody):
    """A key to be created."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$")
    project: str = Field(DEFAULT_PROJECT, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    scopes: set[Scope] = Field(default={Scope.JOBS_WRITE, Scope.FILES_WRITE}, min_length=1)
    expires_at: int | None = Field(
        None, gt=0, le=_LATEST, description="Unix seconds; never by default."
    )


class KeyView(View):
    """A key without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    project: str
    scopes: list[str]
    hint: str
    """Last characters of the secret."""
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None
    last_used_at: UnixSeconds | None
    """To the minute."""


class NewKeyView(KeyView):
    """A key that was just created."""

    key: str
    """The secret: shown this once."""


class CallerView(View):
    """Who makes the request."""

    object: Literal["caller"] = "caller"
    key_id: str | None
    """Null for a local user without a key."""
    project: str
    scopes: list[str]


def _to_audit_id(value: object) -> object:
    return f"audit_{value}" if isinstance(value, int) else value


class AuditView(View):
    """A request that was to change something."""

    id: Annotated[str, BeforeValidator(_to_audit_id)]
    object: Literal["audit_entry"] = "audit_entry"
    time: UnixTime
    key_id: str | None
    project: str
    method: str
    path: str
    outcome: str
    """done, or the code of the error"""
    request_id: str
