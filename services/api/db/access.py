"""API keys: made, found by their secret, revoked."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.api.db.access_tables import ApiKey
from services.api.db.clock import utc_now
from services.api.domain.access import DEFAULT_PROJECT, Caller, Scope
from services.common.errors import PlatformError
from services.common.ids import new_id

SECRET_PREFIX: Final = "sk-dirl-"
_USE_NOTED_EVERY: Final = timedelta(minutes=1)
_HINT_CHARS: Final = 4


def create_key(
    session: Session, name: str, project: str, scopes: Iterable[Scope], expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is nowhere else."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        name=name,
        project=project,
        scopes=sorted(scope.value for scope in scopes),
        secret_sha256=_hash_secret(secret),
        hint=secret[-_HINT_CHARS:],
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, secret


def create_first_key(session: Session) -> str | None:
    """The secret of an admin key when there is no key that works yet, else None."""
    usable = select(func.count()).where(ApiKey.revoked_at.is_(None))
    if session.scalar(usable):
        return None
    _, secret = create_key(session, "first key", DEFAULT_PROJECT, [Scope.ADMIN], None)
    return secret


def caller_of(session: Session, secret: str) -> Caller:
    """Whose secret it is; raises PlatformError("unauthenticated") for one that is unknown, expired
    or revoked.
    """
    key = session.scalar(select(ApiKey).where(ApiKey.secret_sha256 == _hash_secret(secret)))
    now = utc_now()
    if key is None or key.revoked_at is not None:
        raise PlatformError("unauthenticated", "The API key is not known, or it was revoked.")
    if key.expires_at is not None and key.expires_at < now:
        raise PlatformError(
            "unauthenticated", f"The API key {key.id} expired at {key.expires_at.isoformat()}."
        )
    if key.last_used_at is None or now - key.last_used_at > _USE_NOTED_EVERY:
        key.last_used_at = now
    return Caller(key.id, key.project, frozenset(Scope(scope) for scope in key.scopes))


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
