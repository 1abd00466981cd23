"""`dirl files` and `dirl usage`: what a project stores."""

from pathlib import Path
from typing import Annotated

import typer

from services.api.cli.connection import connect
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import format_time, print_json, print_result, print_table, size

files_app = typer.Typer(help="Upload, list and delete data files.", no_args_is_help=True)


@files_app.command()
def upload(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A data file.")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a data file and print its id."""
    with connect(api_url, data_dir) as api:
        file = api.upload(path)
    print_result(file, file.id, as_json)


@files_app.command("list")
def list_files(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List uploaded files, newest first."""
    with connect(api_url, data_dir) as api:
        files = api.files()
    if as_json:
        print_json({"data": files})
        return
    rows = (
        (file.id, file.filename, file.rows, size(file.bytes), format_time(file.created_at))
        for file in files
    )
    print_table(("ID", "NAME", "ROWS", "SIZE", "UPLOADED"), rows)


@files_app.command()
def delete(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="Id of a file (file_…).")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a file that no job waits for."""
    with connect(api_url, data_dir) as api:
        deleted = api.delete_file(file_id)
    print_result(deleted, f"{deleted.id}  deleted", as_json)


def usage(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a project stores, and its quota."""
    with connect(api_url, data_dir) as api:
        found = api.usage()
    if as_json:
        print_json(found)
        return
    rows = [
        ("files", size(found.files_bytes)),
        ("checkpoints", size(found.checkpoints_bytes)),
        ("models", size(found.models_bytes)),
        ("total", size(found.total_bytes)),
        ("quota", None if found.quota_bytes is None else size(found.quota_bytes)),
        ("disk, free", size(found.disk_free_bytes)),
    ]
    print_table(("PROJECT", found.project), rows)
