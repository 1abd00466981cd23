"""Creating and revoking API keys."""

from datetime import UTC, datetime

from services.api.db.access import create_key
from services.api.db.access_tables import ApiKey
from services.api.db.clock import utc_now
from services.api.domain.failure import make_not_found
from services.api.schemas.access import KeyRequest
from services.api.use_cases.control_plane import ControlPlane


def create_api_key(plane: ControlPlane, request: KeyRequest) -> tuple[ApiKey, str]:
    """Create a key; its secret is returned here and stored nowhere."""
    expires_at = request.expires_at
    until = None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)
    with plane.database.begin() as session:
        return create_key(session, request.name, request.project, request.scopes, until)


def revoke_api_key(plane: ControlPlane, key_id: str) -> ApiKey:
    """Revoke a key: its next request is refused. A repeat changes nothing."""
    with plane.database.begin() as session:
        row = session.get(ApiKey, key_id, with_for_update=True)
        if row is None:
            raise make_not_found("key", key_id, "GET /v1/api_keys")
        row.revoked_at = row.revoked_at or utc_now()
    return row
