"""Creating and deleting webhooks."""

from sqlalchemy.orm import Session

from services.api.db.webhook_tables import Webhook
from services.api.domain.failure import make_not_found
from services.api.domain.webhooks import new_secret
from services.api.schemas.webhooks import WebhookRequest
from services.api.use_cases.control_plane import ControlPlane
from services.common.ids import new_id


def create_webhook(plane: ControlPlane, request: WebhookRequest) -> Webhook:
    """Have an address told about a project's jobs, in messages signed with a new secret."""
    row = Webhook(
        id=new_id("whk"),
        project=request.project,
        url=str(request.url),
        events=sorted(event.value for event in request.events),
        secret=new_secret(),
    )
    with plane.database.begin() as session:
        session.add(row)
    return row


def delete_webhook(plane: ControlPlane, webhook_id: str) -> None:
    """Delete a webhook with the messages that were not delivered yet."""
    with plane.database.begin() as session:
        session.delete(get_webhook(session, webhook_id))


def get_webhook(session: Session, webhook_id: str) -> Webhook:
    """A webhook; raises PlatformError("not_found")."""
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise make_not_found("webhook", webhook_id, "GET /v1/webhooks")
    return row
