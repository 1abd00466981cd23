"""Who may do what; how often; and whose turn it is."""

import pytest

from services.api.domain.access import LOCAL, Caller, Scope, require_scope, required_scope
from services.api.domain.placement import Waiter, fair_order
from services.api.domain.rate import RateLimits
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


def test_a_caller_may_spend_two_seconds_of_its_rate_at_once_and_then_waits() -> None:
    limits = RateLimits(10.0)

    waits = [limits.wait_s("a", 100.0) for _ in range(21)]

    assert waits[:20] == [0.0] * 20
    assert waits[20] == pytest.approx(0.1)
    assert limits.wait_s("b", 100.0) == 0.0
    assert limits.wait_s("a", 100.11) == 0.0


def test_keys_take_turns_and_a_running_job_counts() -> None:
    waiting = [Waiter(f"a{n}", 0, "a") for n in range(3)] + [
        Waiter(f"b{n}", 0, "b") for n in range(2)
    ]

    assert fair_order(waiting, {}) == ["a0", "b0", "a1", "b1", "a2"]
    assert fair_order(waiting, {"a": 1}) == ["b0", "a0", "b1", "a1", "a2"]


def test_a_higher_priority_goes_first_whatever_its_owner_has() -> None:
    waiting = [Waiter("old", 0, "a"), Waiter("urgent", 5, "b"), Waiter("later", -1, "c")]

    assert fair_order(waiting, {"b": 9}) == ["urgent", "old", "later"]
