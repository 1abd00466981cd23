"""The command-line interface `dirl`."""

import sys
from typing import Annotated

import typer

import services.api.cli.job_changes
import services.api.cli.job_records  # noqa: F401 - both add commands to `dirl jobs`
from services.api.cli.data import data_app
from services.api.cli.demo import demo
from services.api.cli.doctor import doctor
from services.api.cli.evaluate import evaluate
from services.api.cli.files import files_app, usage
from services.api.cli.generate import generate
from services.api.cli.jobs import jobs_app
from services.api.cli.keys import keys_app
from services.api.cli.models import models_app
from services.api.cli.output import notes, out
from services.api.cli.reward import reward_app
from services.api.cli.up import up
from services.api.cli.webhooks import webhooks_app
from services.api.client import ClientError
from services.common.errors import PlatformError
from services.common.release import release

app = typer.Typer(
    name="dirl",
    help="Post-training for block-diffusion language models.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def print_version(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Post-training for block-diffusion language models."""
    if version:
        out.print(f"dirl {release()}", markup=False)
        raise typer.Exit


app.command()(up)
app.command()(demo)
app.command()(doctor)
app.command()(generate)
app.command("eval")(evaluate)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(files_app, name="files")
app.add_typer(keys_app, name="keys")
app.add_typer(webhooks_app, name="webhooks")
app.command()(usage)
app.add_typer(reward_app, name="reward")


def main() -> None:
    """Run a command. Exit status 1 with a message on standard error if it fails, 2 for invalid usage."""
    try:
        app()
    except (ClientError, PlatformError) as error:
        notes.print(f"dirl: {error}", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
