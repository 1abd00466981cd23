"""What webhooks are told, and when a message is retried."""

import base64
import secrets
from enum import StrEnum
from typing import Final

from services.common.signatures import SECRET_PREFIX

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


def wait_before_retry_s(tries: int) -> float | None:
    """Seconds after a try that failed; None when it was the last one."""
    return _WAITS_S[tries - 1] if tries <= len(_WAITS_S) else None
