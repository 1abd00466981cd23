"""The worst certificate is the one that is shown."""

from typing import Any

import pytest

from services.api.domain.certificate import is_verified, worst


def certificate(**changes: Any) -> dict[str, Any]:
    fields = {
        "moment": "end", "issued": 8, "trained": 6, "dropped": {"zero_variance": 1}, "open": 1, "lost": 0,
        "trained_twice": 0, "digest_before": "d", "digest_after": "d",
    }  # fmt: skip
    return {**fields, **changes}


@pytest.mark.parametrize(
    "changes", [{"lost": 1}, {"trained_twice": 1}, {"trained": 5}, {"digest_after": "other"}]
)
def test_a_certificate_that_does_not_hold_is_not_hidden_by_a_later_one(
    changes: dict[str, Any],
) -> None:
    sound, broken = certificate(), certificate(**changes)

    assert is_verified(sound)
    assert not is_verified(broken)
    assert worst(broken, sound) == worst(sound, broken) == broken


def test_a_restart_from_zero_stays_visible_unless_there_is_worse() -> None:
    restart = certificate(
        moment="restart", digest_before=None, issued=0, trained=0, dropped={}, open=0
    )

    assert is_verified(restart)
    assert worst(restart, certificate()) == worst(certificate(), restart) == restart
    assert worst(restart, broken := certificate(lost=1)) == broken


def test_of_equals_the_newer_is_shown() -> None:
    assert worst(certificate(moment="resume"), certificate()) == certificate()
    assert worst(None, certificate()) == certificate()
