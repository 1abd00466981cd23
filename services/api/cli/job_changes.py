"""`dirl jobs`: change jobs and what they have written."""

from typing import Annotated, Any

import typer

from services.api.cli.connection import connect
from services.api.cli.jobs import JobArgument, jobs_app, print_state
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import print_result
from services.api.cli.submission import parse_assignment

CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Id of a checkpoint (ckpt_…).")
]
Assignments = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE…", help="Hyperparameters, e.g. rl.optim.lr=1e-6.")
]


@jobs_app.command()
def fork(
    job_id: JobArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option("--from", metavar="CHECKPOINT", help="Checkpoint to start from; the newest."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the spec."),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Suffix of the new job.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a job that starts from a checkpoint of another one."""
    changes = _read_assignments(assignments or [])
    with connect(api_url, data_dir) as api:
        print_state(api.fork(job_id, checkpoint, changes, suffix=suffix), as_json)


@jobs_app.command()
def rewind(
    job_id: JobArgument,
    checkpoint: CheckpointArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a job so that it resumes from an earlier checkpoint; later ones are archived."""
    with connect(api_url, data_dir) as api:
        print_state(api.rewind(job_id, checkpoint), as_json)


@jobs_app.command("set")
def set_hyperparameters(
    job_id: JobArgument,
    assignments: Assignments,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change hyperparameters of a job between two of its steps."""
    changes = _read_assignments(assignments)
    with connect(api_url, data_dir) as api:
        print_state(api.change(job_id, changes), as_json)


@jobs_app.command()
def checkpoint(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a running job write a checkpoint after its current step."""
    with connect(api_url, data_dir) as api:
        requested = api.request_checkpoint(job_id)
    line = f"{job_id}  a checkpoint follows step {requested.after_step}"
    print_result(requested, line, as_json)


@jobs_app.command()
def delete(
    job_id: JobArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Delete this checkpoint, and not the job."),
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a finished job with all its data, or one of its checkpoints."""
    with connect(api_url, data_dir) as api:
        deleted = (
            api.delete(job_id) if checkpoint is None else api.delete_checkpoint(job_id, checkpoint)
        )
    print_result(deleted, f"{deleted.id}  deleted", as_json)


def _read_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return values by dotted key; raises CommandError."""
    return dict(parse_assignment(assignment) for assignment in assignments)
