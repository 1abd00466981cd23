"""Webhooks and their deliveries."""

from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, HttpUrl

from services.api.domain.access import DEFAULT_PROJECT
from services.api.domain.webhooks import WebhookEvent
from services.api.schemas.base import RequestBody, UnixSeconds, View


def _require_no_credentials(url: HttpUrl) -> HttpUrl:
    if url.username is not None or url.password is not None:
        raise ValueError("must hold no user and password: messages are signed, check the signature")
    return url


class WebhookRequest(RequestBody):
    """A webhook to be created."""

    url: Annotated[HttpUrl, AfterValidator(_require_no_credentials)]
    events: set[WebhookEvent] = Field(default=set(WebhookEvent), min_length=1)
    project: str = Field(DEFAULT_PROJECT, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")


class WebhookView(View):
    """A webhook without its secret."""

    id: str
    object: Literal["webhook"] = "webhook"
    created_at: UnixSeconds
    project: str
    url: str
    events: list[str]


class NewWebhookView(WebhookView):
    """A webhook that was just created."""

    secret: str
    """What messages are signed with (Standard Webhooks, `whsec_…`): shown this once."""


class DeliveryView(View):
    """One message."""

    id: str
    """Also its `webhook-id` header, the same at every try."""
    object: Literal["webhook.delivery"] = "webhook.delivery"
    created_at: UnixSeconds
    job_id: str
    event: str
    tries: int
    next_try_at: UnixSeconds | None = Field(validation_alias=AliasChoices("due_at", "next_try_at"))
    """Null once it was delivered or given up."""
    delivered_at: UnixSeconds | None
    last_error: str | None


class DeletedWebhook(View):
    """A deleted webhook."""

    id: str
    object: Literal["webhook"] = "webhook"
    deleted: bool = True
