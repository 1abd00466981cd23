"""How often a caller may ask."""

import pytest

from services.api.domain.rate import RateLimits


def test_a_caller_may_spend_two_seconds_of_its_rate_at_once_and_then_waits() -> None:
    limits = RateLimits(10.0)

    waits = [limits.wait_s("a", 100.0) for _ in range(21)]

    assert waits[:20] == [0.0] * 20
    assert waits[20] == pytest.approx(0.1)
    assert limits.wait_s("b", 100.0) == 0.0
    assert limits.wait_s("a", 100.11) == 0.0
