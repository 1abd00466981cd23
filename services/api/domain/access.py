"""Who may do what: scopes, callers, and what a request needs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.common.errors import PlatformError

DEFAULT_PROJECT: Final = "default"
_ADMIN_PATHS: Final = ("/v1/api_keys", "/v1/audit", "/v1/queues", "/v1/demo", "/v1/webhooks")
_OPEN_PATHS: Final = ("/v1/whoami",)
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Scope(StrEnum):
    """What a key is for."""

    JOBS_READ = "jobs:read"
    """Jobs and all that came of them, models, the state of the installation."""
    JOBS_WRITE = "jobs:write"
    """Submit and steer jobs, export, talk to models. Includes jobs:read."""
    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    """Includes files:read."""
    ADMIN = "admin"
    """Everything, in every project; alone it may manage keys and name paths of the server."""


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    key_id: str | None
    """None for a local user without a key."""
    project: str
    scopes: frozenset[Scope]

    @property
    def is_admin(self) -> bool:
        """Whether every project is theirs."""
        return Scope.ADMIN in self.scopes

    def owns(self, project: str) -> bool:
        """Whether something of the project exists for them."""
        return self.is_admin or project == self.project


LOCAL: Final = Caller(None, DEFAULT_PROJECT, frozenset({Scope.ADMIN}))
"""A caller on a loopback connection: a user of this machine."""


def required_scope(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None when any key will do."""
    if path.startswith(_OPEN_PATHS):
        return None
    if path.startswith(_ADMIN_PATHS):
        return Scope.ADMIN
    reads = method in _READING
    if path.startswith("/v1/files"):
        return Scope.FILES_READ if reads else Scope.FILES_WRITE
    return Scope.JOBS_READ if reads else Scope.JOBS_WRITE


def require_scope(caller: Caller, method: str, path: str) -> None:
    """Raise PlatformError("permission_denied") unless the caller has what the request needs."""
    needed = required_scope(method, path)
    if needed is None or caller.scopes & {
        needed,
        Scope(needed.replace("read", "write")),
        Scope.ADMIN,
    }:
        return
    held = ", ".join(sorted(caller.scopes)) or "none"
    raise PlatformError(
        "permission_denied",
        f"{method} {path} needs the scope {needed}; this key has: {held}.",
        hint="Ask an admin for a key with that scope.",
    )
