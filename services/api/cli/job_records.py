"""`dirl jobs`: read what jobs have recorded."""

import json
from pathlib import Path
from typing import Annotated

import typer

from services.api.cli.connection import connect
from services.api.cli.failure import CommandError
from services.api.cli.jobs import JobArgument, jobs_app, print_evals
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import notes, out, print_json, print_table, size
from services.api.schemas.trajectories import TrajectoryExport, TrajectoryQuery
from services.common.trajectory import Outcome

StepOption = Annotated[int | None, typer.Option(min=0, help="Only those of this step.")]
OutcomeOption = Annotated[Outcome | None, typer.Option(help="Only those with this outcome.")]
RewardOption = Annotated[
    float | None, typer.Option("--min-reward", help="Only those with at least this reward.")
]


@jobs_app.command()
def evals(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the evaluations of a job."""
    with connect(api_url, data_dir) as api:
        found = api.evals(job_id)
    if as_json:
        print_json({"data": found})
    else:
        print_evals(found)


@jobs_app.command()
def certificates(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the certificates of a job: what was lost or trained twice, at every start and end of an attempt."""
    with connect(api_url, data_dir) as api:
        found = api.certificates(job_id)
    if as_json:
        print_json({"data": found})
        return
    columns = ("moment", "issued", "trained", "lost", "trained_twice", "steps_undone")
    rows = ((item.attempt, *(item.certificate.get(name) for name in columns)) for item in found)
    print_table(("ATTEMPT", *(name.upper().replace("_", " ") for name in columns)), rows)


@jobs_app.command()
def trajectories(
    job_id: JobArgument,
    step: StepOption = None,
    outcome: OutcomeOption = None,
    min_reward: RewardOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of responses.")] = 20,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List responses that a job kept, with rewards and outcomes."""
    query = TrajectoryQuery(step=step, outcome=outcome, min_reward=min_reward, limit=limit)
    with connect(api_url, data_dir) as api:
        found = api.trajectories(job_id, query)
    if as_json:
        print_json({"data": found})
        return
    rows = (
        (item.id, item.step, item.outcome, item.reward, json.dumps(item.text, ensure_ascii=False))
        for item in found
    )
    print_table(("ID", "STEP", "OUTCOME", "REWARD", "TEXT"), rows)


@jobs_app.command("export-trajectories")
def export_trajectories(
    job_id: JobArgument,
    target: Annotated[
        Path, typer.Option("--out", help="File to write, .jsonl or .parquet; it must not exist.")
    ],
    step: StepOption = None,
    outcome: OutcomeOption = None,
    min_reward: RewardOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write responses that a job kept as a data file, e.g. to fine-tune on the correct ones."""
    form = target.suffix.removeprefix(".")
    if form not in ("jsonl", "parquet"):
        raise CommandError(f"--out {target} is neither .jsonl nor .parquet.")
    if target.exists():
        raise CommandError(f"Cannot write {target}: it already exists.")
    selection = TrajectoryExport(step=step, outcome=outcome, min_reward=min_reward, format=form)
    with connect(api_url, data_dir) as api:
        written = api.export_trajectories(job_id, selection, target)
    if as_json:
        print_json({"path": str(target), "bytes": written})
        return
    if not written:
        notes.print("No kept response is selected; the file is empty.", markup=False)
    out.print(f"{target}  {size(written)}", markup=False)
