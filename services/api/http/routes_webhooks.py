"""/v1/webhooks: addresses that are told what becomes of a project's jobs"""

from fastapi import APIRouter
from sqlalchemy import select

from services.api.db.listing import newest_first
from services.api.db.webhook_tables import Delivery, Webhook
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
from services.api.use_cases import webhooks

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
def create_webhook(resources: Res, body: WebhookRequest) -> NewWebhookView:
    """Create a webhook for a project's jobs. Its secret is in this response and nowhere else."""
    return NewWebhookView.model_validate(webhooks.create_webhook(resources, body))


@router.get("")
def list_webhooks(resources: Res, after: After = None, limit: Limit = 20) -> Page[WebhookView]:
    """Webhooks, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, Webhook, select(Webhook), after, limit)
    return to_page(WebhookView, rows, limit)


@router.delete("/{webhook_id}")
def delete_webhook(resources: Res, webhook_id: str) -> DeletedWebhook:
    """Delete a webhook with the messages that were not delivered yet."""
    webhooks.delete_webhook(resources, webhook_id)
    return DeletedWebhook(id=webhook_id)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    resources: Res, webhook_id: str, after: After = None, limit: Limit = 20
) -> Page[DeliveryView]:
    """Messages of the last days, newest first, and how each went."""
    statement = select(Delivery).where(Delivery.webhook_id == webhook_id)
    with resources.database.begin() as session:
        webhooks.get_webhook(session, webhook_id)
        rows = newest_first(session, Delivery, statement, after, limit)
    return to_page(DeliveryView, rows, limit)
