"""Signatures of HTTP messages, as the Standard Webhooks specification says (standardwebhooks.com),
which OpenAI's clients verify.
"""

import base64
import hashlib
import hmac
from typing import Final

SECRET_PREFIX: Final = "whsec_"


def signed_headers(secret: str, message_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Headers that prove who sent the body, and when (Unix seconds)."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
