"""What a key may do."""

import pytest

from services.api.domain.access import LOCAL, Caller, Scope, require_scope, required_scope
from services.common.errors import PlatformError


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/jobs", Scope.JOBS_READ),
        ("POST", "/v1/jobs/job_1/cancel", Scope.JOBS_WRITE),
        ("POST", "/v1/chat/completions", Scope.JOBS_WRITE),
        ("GET", "/v1/files/file_1/content", Scope.FILES_READ),
        ("DELETE", "/v1/files/file_1", Scope.FILES_WRITE),
        ("GET", "/v1/api_keys", Scope.ADMIN),
        ("GET", "/v1/audit", Scope.ADMIN),
        ("GET", "/v1/whoami", None),
    ],
)
def test_every_request_needs_a_scope_that_follows_from_its_method_and_path(
    method: str, path: str, scope: Scope | None
) -> None:
    assert required_scope(method, path) == scope


def test_writing_includes_reading_and_admin_includes_all() -> None:
    writer = Caller("key_1", "a", frozenset({Scope.JOBS_WRITE}))

    require_scope(writer, "GET", "/v1/jobs")
    require_scope(LOCAL, "DELETE", "/v1/api_keys/key_1")
    for method, path in (("GET", "/v1/files"), ("GET", "/v1/api_keys")):
        with pytest.raises(PlatformError, match="needs the scope"):
            require_scope(writer, method, path)
