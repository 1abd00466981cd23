"""What webhooks are told, how a message is signed, and when it is retried.

Messages are signed as the Standard Webhooks specification says (standardwebhooks.com), which
OpenAI's clients verify.
"""

import base64
import hashlib
import hmac
import secrets
from enum import StrEnum
from typing import Final

SECRET_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 24
_WAITS_S: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)


class WebhookEvent(StrEnum):
    """What can be told."""

    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    PAUSED = "job.paused"
    STALLED = "job.stalled"


def new_secret() -> str:
    """A secret to sign with."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Headers that prove who sent the body, and when (Unix seconds)."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def wait_before_retry_s(tries: int) -> float | None:
    """Seconds after a try that failed; None when it was the last one."""
    return _WAITS_S[tries - 1] if tries <= len(_WAITS_S) else None
