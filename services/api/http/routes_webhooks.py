"""/v1/webhooks: who is told what becomes of a project's jobs"""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.webhook_tables import Delivery, Webhook
from services.api.domain.access import DEFAULT_PROJECT
from services.api.domain.webhooks import WebhookEvent, new_secret
from services.api.http.envelope import Page, page_of
from services.api.http.paging import newest_first
from services.api.http.resources import After, Limit, Res
from services.api.http.views import unix, unix_or_none
from services.common.errors import PlatformError
from services.common.ids import new_id

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


def _without_credentials(url: HttpUrl) -> HttpUrl:
    if url.username is not None or url.password is not None:
        raise ValueError("must hold no user and password: messages are signed, check the signature")
    return url


class WebhookRequest(BaseModel):
    """A webhook to be made."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[HttpUrl, AfterValidator(_without_credentials)]
    events: set[WebhookEvent] = Field(default=set(WebhookEvent), min_length=1)
    project: str = Field(DEFAULT_PROJECT, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")


class WebhookView(BaseModel):
    """A webhook without its secret."""

    id: str
    object: Literal["webhook"] = "webhook"
    created_at: int
    project: str
    url: str
    events: list[str]


class NewWebhookView(WebhookView):
    """A webhook that was just made."""

    secret: str
    """What messages are signed with (Standard Webhooks, `whsec_…`): shown this once."""


class DeliveryView(BaseModel):
    """One message."""

    id: str
    """Also its `webhook-id` header, the same at every try."""
    object: Literal["webhook.delivery"] = "webhook.delivery"
    created_at: int
    job_id: str
    event: str
    tries: int
    next_try_at: int | None
    """Null once it was delivered or given up."""
    delivered_at: int | None
    last_error: str | None


class DeletedWebhook(BaseModel):
    """A webhook that is gone."""

    id: str
    object: Literal["webhook"] = "webhook"
    deleted: bool


@router.post("", status_code=201)
def create_webhook(resources: Res, body: WebhookRequest) -> NewWebhookView:
    """Have an address told about a project's jobs. Its secret is in this answer and nowhere else."""
    row = Webhook(
        id=new_id("whk"),
        project=body.project,
        url=str(body.url),
        events=sorted(event.value for event in body.events),
        secret=new_secret(),
    )
    with resources.database.begin() as session:
        session.add(row)
    return NewWebhookView(secret=row.secret, **_view(row).model_dump())


@router.get("")
def list_webhooks(resources: Res, after: After = None, limit: Limit = 20) -> Page[WebhookView]:
    """Webhooks, newest first."""
    with resources.database.begin() as session:
        rows = newest_first(session, Webhook, select(Webhook), after, limit)
    return page_of([(row.id, _view(row)) for row in rows], limit)


@router.delete("/{webhook_id}")
def delete_webhook(resources: Res, webhook_id: str) -> DeletedWebhook:
    """Tell the address nothing more, nor what is still to be told."""
    with resources.database.begin() as session:
        session.delete(_webhook(session, webhook_id))
    return DeletedWebhook(id=webhook_id, deleted=True)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    resources: Res, webhook_id: str, after: After = None, limit: Limit = 20
) -> Page[DeliveryView]:
    """Messages of the last days, newest first, and how each went."""
    statement = select(Delivery).where(Delivery.webhook_id == webhook_id)
    with resources.database.begin() as session:
        _webhook(session, webhook_id)
        rows = newest_first(session, Delivery, statement, after, limit)
    return page_of([(row.id, _delivery_view(row)) for row in rows], limit)


def _webhook(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise PlatformError(
            "not_found", f"There is no webhook {webhook_id!r}.", hint="GET /v1/webhooks lists all."
        )
    return row


def _view(row: Webhook) -> WebhookView:
    return WebhookView(
        id=row.id,
        created_at=unix(row.created_at),
        project=row.project,
        url=row.url,
        events=row.events,
    )


def _delivery_view(row: Delivery) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        created_at=unix(row.created_at),
        job_id=row.job_id,
        event=row.event,
        tries=row.tries,
        next_try_at=unix_or_none(row.due_at),
        delivered_at=unix_or_none(row.delivered_at),
        last_error=row.last_error,
    )
