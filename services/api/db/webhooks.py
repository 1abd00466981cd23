"""Messages to webhooks: stored in one transaction with the change that they report, and sent
afterwards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import any_, func, literal, select, update
from sqlalchemy.orm import Session

from services.api.db.clock import utc_now
from services.api.db.job_tables import Job
from services.api.db.webhook_tables import Delivery, Webhook
from services.api.domain.webhooks import WebhookEvent, wait_before_retry_s
from services.common.ids import new_id

_LEASE: Final = timedelta(seconds=60)
"""A message whose sender died is claimed by another one after so long."""
_AT_ONCE: Final = 20
"""Messages in flight; a slow webhook must not occupy every worker."""


@dataclass(frozen=True)
class Letter:
    """A message to be sent now."""

    delivery_id: str
    url: str
    secret: str
    body: str


def announce(session: Session, job: Job, event: WebhookEvent) -> None:
    """Store a message for every webhook of the job's project that wants the event."""
    wanting = select(Webhook).where(
        Webhook.project == job.project, literal(event.value) == any_(Webhook.events)
    )
    for webhook in session.scalars(wanting):
        message_id = new_id("evt")
        session.add(
            Delivery(
                id=message_id,
                webhook_id=webhook.id,
                job_id=job.id,
                event=event.value,
                body=_to_body(job, event, message_id),
                due_at=utc_now(),
            )
        )


def _to_body(job: Job, event: WebhookEvent, message_id: str) -> str:
    error = (
        None if job.error_code is None else {"code": job.error_code, "message": job.error_message}
    )
    data = {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "attempt": job.attempt,
        "error": error,
    }
    return json.dumps(
        {
            "id": message_id,
            "object": "event",
            "type": event.value,
            "created_at": int(utc_now().timestamp()),
            "data": {**data, "stalled": job.stalled, "metadata": job.labels},
        }
    )


def due_deliveries(session: Session) -> Sequence[str]:
    """Ids of messages that are to be tried, the longest due first."""
    due = (
        select(Delivery.id)
        .where(Delivery.due_at <= func.now())
        .order_by(Delivery.due_at)
        .limit(_AT_ONCE)
    )
    return session.scalars(due).all()


def claim_letter(session: Session, delivery_id: str) -> Letter | None:
    """A message that is due, claimed for a minute; None when another sender has it."""
    # One statement claims, so that of two senders only one sees the message as due. The try counts
    # before it is made: the wait for the next one grows when a sender dies, too.
    taken = (
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.due_at <= func.now())
        .values(due_at=func.now() + _LEASE, tries=Delivery.tries + 1)
        .returning(Delivery.webhook_id, Delivery.body)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(taken).first()
    if row is None:
        return None
    webhook = session.get_one(Webhook, row.webhook_id)
    return Letter(delivery_id, webhook.url, webhook.secret, row.body)


def store_result(session: Session, delivery_id: str, error: str | None) -> None:
    """Store the result of a try; does nothing when the webhook was deleted meanwhile."""
    row = session.get(Delivery, delivery_id, with_for_update=True)
    if row is None:
        return
    row.last_error = error
    if error is None:
        row.delivered_at, row.due_at = utc_now(), None
        return
    wait_s = wait_before_retry_s(row.tries)
    row.due_at = None if wait_s is None else utc_now() + timedelta(seconds=wait_s)
