"""Secrets, signatures and retries of webhooks, as standardwebhooks.com specifies them."""

import base64

import pytest

from services.api.domain.webhooks import new_secret, wait_before_retry_s
from services.common.signatures import SECRET_PREFIX, signed_headers


def test_a_secret_has_24_random_bytes_behind_its_prefix() -> None:
    first, second = new_secret(), new_secret()

    assert first != second
    assert first.startswith("whsec_") == (SECRET_PREFIX == "whsec_")
    assert len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) == 24


def test_the_signature_is_that_of_the_specifications_example() -> None:
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        '{"test": 2432232314}',
    )

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("tries", "seconds"),
    [(1, 5.0), (2, 30.0), (3, 120.0), (4, 600.0), (5, 3600.0), (6, 21_600.0), (7, 86_400.0)],
)
def test_a_delivery_waits_longer_after_every_failure(tries: int, seconds: float) -> None:
    assert wait_before_retry_s(tries) == seconds


def test_the_eighth_failure_is_the_last() -> None:
    assert wait_before_retry_s(8) is None
