"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Final

import typer

from services.api.embedded.locations import default_data_dir

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
ApiUrlOption = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="DIRL_API_URL",
        help="Base URL of the API; by default that of the platform on the data directory.",
    ),
]
DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="DIRL_DATA_DIR", help="Directory with the state of the platform."
    ),
]
DEFAULT_DATA_DIR: Final = default_data_dir()
