"""/v1/api_keys, /v1/whoami, /v1/audit: keys and what they were used for"""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from services.api.db.access_tables import ApiKey, AuditEntry
from services.api.db.listing import newest_first
from services.api.http.auth import Who
from services.api.http.paging import make_page, to_page
from services.api.http.resources import After, Limit, Res
from services.api.schemas.access import AuditView, CallerView, KeyRequest, KeyView, NewKeyView
from services.api.schemas.envelope import Page
from services.api.use_cases import access

router = APIRouter(prefix="/v1", tags=["access"])


@router.post("/api_keys", status_code=201)
def create_api_key(resources: Res, body: KeyRequest) -> NewKeyView:
    """Create a key. Its secret is in this response and nowhere else."""
    row, secret = access.create_api_key(resources, body)
    return NewKeyView(key=secret, **KeyView.model_validate(row).model_dump())


@router.get("/api_keys")
def list_api_keys(resources: Res, after: After = None, limit: Limit = 20) -> Page[KeyView]:
    """Keys, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, ApiKey, select(ApiKey), after, limit)
    return to_page(KeyView, rows, limit)


@router.delete("/api_keys/{key_id}")
def revoke_api_key(resources: Res, key_id: str) -> KeyView:
    """Revoke a key: its next request is refused. Revoking it again changes nothing."""
    return KeyView.model_validate(access.revoke_api_key(resources, key_id))


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
    views = [AuditView.model_validate(row) for row in rows]
    return make_page([(view.id, view) for view in views], limit)
