"""/v1/webhooks: addresses that are told what becomes of a project's jobs"""

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.listing import newest_first
from services.api.db.webhook_tables import Delivery, Webhook
from services.api.domain.failure import make_not_found
from services.api.domain.webhooks import new_secret
from services.api.http.paging import to_page
from services.api.http.resources import After, Limit, Res
from services.api.schemas.envelope import Page
from services.api.schemas.webhooks import (
    DeletedWebhook,
    DeliveryView,
    NewWebhookView,
    WebhookRequest,
    WebhookView,
)
from services.common.ids import new_id

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
def create_webhook(resources: Res, body: WebhookRequest) -> NewWebhookView:
    """Create a webhook for a project's jobs. Its secret is in this response and nowhere else."""
    row = Webhook(
        id=new_id("whk"),
        project=body.project,
        url=str(body.url),
        events=sorted(event.value for event in body.events),
        secret=new_secret(),
    )
    with resources.database.begin() as session:
        session.add(row)
    return NewWebhookView.model_validate(row)


@router.get("")
def list_webhooks(resources: Res, after: After = None, limit: Limit = 20) -> Page[WebhookView]:
    """Webhooks, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, Webhook, select(Webhook), after, limit)
    return to_page(WebhookView, rows, limit)


@router.delete("/{webhook_id}")
def delete_webhook(resources: Res, webhook_id: str) -> DeletedWebhook:
    """Delete a webhook with the messages that were not delivered yet."""
    with resources.database.begin() as session:
        session.delete(_find_webhook(session, webhook_id))
    return DeletedWebhook(id=webhook_id)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    resources: Res, webhook_id: str, after: After = None, limit: Limit = 20
) -> Page[DeliveryView]:
    """Messages of the last days, newest first, and how each went."""
    statement = select(Delivery).where(Delivery.webhook_id == webhook_id)
    with resources.database.begin() as session:
        _find_webhook(session, webhook_id)
        rows = newest_first(session, Delivery, statement, after, limit)
    return to_page(DeliveryView, rows, limit)


def _find_webhook(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise make_not_found("webhook", webhook_id, "GET /v1/webhooks")
    return row
