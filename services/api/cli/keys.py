"""`dirl keys`: create, list and revoke API keys."""

import time
from typing import Annotated, Final

import typer

from services.api.cli.connection import connect
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import notes, out, print_json, print_result, print_table
from services.api.domain.access import DEFAULT_PROJECT, Scope

keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

_DAY_S: Final = 86_400


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    project: Annotated[
        str, typer.Option(help="Project whose jobs, files and models the key can access.")
    ] = DEFAULT_PROJECT,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="Permissions of the key; by default jobs:write and files:write."),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="Days until the key expires; never by default."),
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key and print its secret, which is not shown again."""
    scopes = [item.value for item in scope or (Scope.JOBS_WRITE, Scope.FILES_WRITE)]
    expires_at = None if days is None else int(time.time()) + days * _DAY_S
    with connect(api_url, data_dir) as api:
        key = api.create_key(name, project, scopes, expires_at)
    if as_json:
        print_json(key)
        return
    notes.print(
        f"{key.id} for project {key.project}; copy the secret now, it is not shown again:",
        markup=False,
    )
    out.print(key.key, markup=False)


@keys_app.command("list")
def list_keys(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all keys without their secrets."""
    with connect(api_url, data_dir) as api:
        keys = api.keys()
    if as_json:
        print_json({"data": keys})
        return
    rows = (
        (
            key.id,
            key.name,
            key.project,
            ",".join(key.scopes),
            "revoked" if key.revoked_at else "active",
        )
        for key in keys
    )
    print_table(("ID", "NAME", "PROJECT", "SCOPES", "STATE"), rows)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key (key_…).")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key; its next request is rejected."""
    with connect(api_url, data_dir) as api:
        key = api.revoke_key(key_id)
    print_result(key, f"{key.id}  revoked", as_json)
