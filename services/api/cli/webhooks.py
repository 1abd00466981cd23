"""`dirl webhooks`: create, list and delete webhooks."""

from typing import Annotated

import typer

from services.api.cli.connection import connect
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import notes, out, print_json, print_result, print_table
from services.api.domain.webhooks import WebhookEvent

webhooks_app = typer.Typer(help="Create, list and delete webhooks.", no_args_is_help=True)


@webhooks_app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where messages are sent, https://….")],
    event: Annotated[
        list[WebhookEvent] | None, typer.Option(help="Events to send; all by default.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a webhook and print the secret that signs its messages, which is not shown again."""
    with connect(api_url, data_dir) as api:
        webhook = api.create_webhook(url, [item.value for item in event or WebhookEvent])
    if as_json:
        print_json(webhook)
        return
    notes.print(f"{webhook.id}; copy the secret now, it is not shown again:", markup=False)
    out.print(webhook.secret, markup=False)


@webhooks_app.command("list")
def list_webhooks(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all webhooks without their secrets."""
    with connect(api_url, data_dir) as api:
        webhooks = api.webhooks()
    if as_json:
        print_json({"data": webhooks})
        return
    rows = ((item.id, item.project, item.url, ",".join(item.events)) for item in webhooks)
    print_table(("ID", "PROJECT", "URL", "EVENTS"), rows)


@webhooks_app.command()
def delete(
    webhook_id: Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of a webhook (whk_…).")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a webhook; messages that wait are not sent."""
    with connect(api_url, data_dir) as api:
        deleted = api.delete_webhook(webhook_id)
    print_result(deleted, f"{deleted.id}  deleted", as_json)
