"""/v1/api_keys, /v1/whoami, /v1/audit: keys and who used them for what"""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from services.api.db.access import create_key
from services.api.db.access_tables import ApiKey, AuditEntry
from services.api.db.base import utc_now
from services.api.domain.access import DEFAULT_PROJECT, Scope
from services.api.http.auth import Who
from services.api.http.envelope import Page, page_of
from services.api.http.paging import newest_first
from services.api.http.resources import After, Limit, Res
from services.api.http.views import unix, unix_or_none
from services.common.errors import PlatformError

router = APIRouter(prefix="/v1", tags=["access"])

_LATEST: Final = 253_402_300_799
"""The last second that the database can hold."""


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$")
    project: str = Field(DEFAULT_PROJECT, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    scopes: set[Scope] = Field(default={Scope.JOBS_WRITE, Scope.FILES_WRITE}, min_length=1)
    expires_at: int | None = Field(
        None, gt=0, le=_LATEST, description="Unix seconds; never by default."
    )


class KeyView(BaseModel):
    """A key without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    project: str
    scopes: list[str]
    hint: str
    """Last characters of the secret."""
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    """To the minute."""


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str
    """The secret: shown this once."""


class CallerView(BaseModel):
    """Who makes the request."""

    object: Literal["caller"] = "caller"
    key_id: str | None
    """Null for a local user without a key."""
    project: str
    scopes: list[str]


class AuditView(BaseModel):
    """A request that was to change something."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    time: float
    key_id: str | None
    project: str
    method: str
    path: str
    outcome: str
    """done, or the code of the error"""
    request_id: str


@router.post("/api_keys", status_code=201)
def create_api_key(resources: Res, body: KeyRequest) -> NewKeyView:
    """Make a key. Its secret is in this answer and nowhere else."""
    expires_at = None if body.expires_at is None else datetime.fromtimestamp(body.expires_at, UTC)
    with resources.database.begin() as session:
        row, secret = create_key(session, body.name, body.project, body.scopes, expires_at)
    return NewKeyView(key=secret, **_view(row).model_dump())


@router.get("/api_keys")
def list_api_keys(resources: Res, after: After = None, limit: Limit = 20) -> Page[KeyView]:
    """Keys, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, ApiKey, select(ApiKey), after, limit)
    return page_of([(row.id, _view(row)) for row in rows], limit)


@router.delete("/api_keys/{key_id}")
def revoke_api_key(resources: Res, key_id: str) -> KeyView:
    """Revoke a key: its next request is refused. Revoking it again changes nothing."""
    with resources.database.begin() as session:
        row = session.get(ApiKey, key_id, with_for_update=True)
        if row is None:
            raise PlatformError(
                "not_found", f"There is no key {key_id!r}.", hint="GET /v1/api_keys lists all."
            )
        row.revoked_at = row.revoked_at or utc_now()
    return _view(row)


@router.get("/whoami")
def whoami(caller: Who) -> CallerView:
    """Whose key it is, and what it is for."""
    return CallerView(key_id=caller.key_id, project=caller.project, scopes=sorted(caller.scopes))


@router.get("/audit")
def list_audit_entries(
    resources: Res,
    after: Annotated[str | None, Query(max_length=40, pattern=r"^audit_\d{1,18}$")] = None,
    limit: Limit = 100,
) -> Page[AuditView]:
    """Who changed what, newest first."""
    statement = select(AuditEntry)
    if after is not None:
        statement = statement.where(AuditEntry.id < int(after.removeprefix("audit_")))
    with resources.database.begin() as session:
        rows = session.scalars(statement.order_by(AuditEntry.id.desc()).limit(limit + 1)).all()
    views = [_audit_view(row) for row in rows]
    return page_of([(view.id, view) for view in views], limit)


def _view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        project=row.project,
        scopes=row.scopes,
        hint=row.hint,
        created_at=unix(row.created_at),
        expires_at=unix_or_none(row.expires_at),
        revoked_at=unix_or_none(row.revoked_at),
        last_used_at=unix_or_none(row.last_used_at),
    )


def _audit_view(row: AuditEntry) -> AuditView:
    return AuditView(
        id=f"audit_{row.id}",
        time=row.time.timestamp(),
        key_id=row.key_id,
        project=row.project,
        method=row.method,
        path=row.path,
        outcome=row.outcome,
        request_id=row.request_id,
    )
