"""Sends messages to webhooks until they are accepted, for a little more than a day.

Repeatable: one sender at a time claims a message, and a receiver recognises a repeated one by its
`webhook-id`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from services.api.db.clock import utc_now
from services.api.db.webhooks import Letter, claim_letter, due_deliveries, store_result
from services.api.scheduler.context import SchedulerContext
from services.common.signatures import signed_headers
from services.common.telemetry.logs import get_logger

_TIMEOUT_S: Final = 5.0

log = get_logger()


def open_deliveries(context: SchedulerContext) -> Sequence[str]:
    """Ids of messages that are to be tried now."""
    with context.database.begin() as session:
        return due_deliveries(session)


def deliver(context: SchedulerContext, delivery_id: str) -> None:
    """Try a message once."""
    with context.database.begin() as session:
        letter = claim_letter(session, delivery_id)
    if letter is None:
        return
    error = _send(letter)
    with context.database.begin() as session:
        store_result(session, delivery_id, error)
    if error is not None:
        log.warning("webhook not delivered", delivery_id=delivery_id, reason=error)


def _send(letter: Letter) -> str | None:
    """Why the message was not taken, or None. Redirects are not followed: the address was chosen by
    an admin.
    """
    signed = signed_headers(
        letter.secret, letter.delivery_id, int(utc_now().timestamp()), letter.body
    )
    headers = {"content-type": "application/json", "user-agent": "dirl-webhooks", **signed}
    try:
        status = asyncio.run(_post(letter, headers))
    except (httpx.HTTPError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None if httpx.codes.is_success(status) else f"the receiver answered {status}"


async def _post(letter: Letter, headers: dict[str, str]) -> int:
    """Status of the response. The deadline is that of the whole request: httpx limits each read, so
    that a receiver which sends a byte now and then would hold a worker for ever.
    """
    async with (
        asyncio.timeout(_TIMEOUT_S),
        httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client,
        client.stream("POST", letter.url, content=letter.body, headers=headers) as response,
    ):
        return response.status_code
