"""`dirl`: every command, and what a failure looks like."""

import sys

import typer

from services.api.cli.data import data_app
from services.api.cli.demo import demo
from services.api.cli.doctor import doctor
from services.api.cli.evaluate import evaluate
from services.api.cli.generate import generate
from services.api.cli.jobs import jobs_app
from services.api.cli.keys import keys_app
from services.api.cli.models import models_app
from services.api.cli.output import notes
from services.api.cli.reward import reward_app
from services.api.cli.up import up
from services.api.client import ClientError
from services.common.errors import PlatformError

app = typer.Typer(
    name="dirl",
    help="Post-training for block-diffusion language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(up)
app.command()(demo)
app.command()(doctor)
app.command()(generate)
app.command("eval")(evaluate)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(reward_app, name="reward")


def main() -> None:
    """Exit status 0; 1 with one message on standard error when the command failed; 2 for a wrong
    call.
    """
    try:
        app()
    except (ClientError, PlatformError) as error:
        notes.print(f"dirl: {error}", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
