"""`dirl reward`: grade the answers of a file, and rescore stored trajectories."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from services.api.cli.connection import connect
from services.api.cli.failure import CommandError
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import out, print_json, print_table
from services.api.cli.programs import show_module
from services.api.schemas.graders import RescoreReport

reward_app = typer.Typer(help="Grade answers and rescore trajectories.", no_args_is_help=True)
Profile = Literal["eval", "rl"]


@reward_app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            help='JSON lines of {"reference_answer", "answer"[, "expected", "prompt"]}.'
        ),
    ],
    profile: Annotated[
        Profile,
        typer.Option(help="rl accepts boxed answers only; eval also accepts answers in prose."),
    ] = "eval",
    verbose: Annotated[bool, typer.Option("--verbose", help="Print a line for every row.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Grade every row on this machine, without a platform. The last line is JSON with the counts by
    outcome.
    """
    flags = [*(["--verbose"] if verbose else []), *(["--json"] if as_json else [])]
    show_module("services.reward.check", str(file), "--profile", profile, *flags)


@reward_app.command()
def rescore(
    job_id: Annotated[str, typer.Argument(help="Id of a job with stored trajectories.")],
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a grader, or its JSON object with a weight; by default those of the job."
        ),
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="How answers are extracted; by default as in the job.")
    ] = None,
    max_groups: Annotated[int, typer.Option(min=1, max=1000, help="Newest groups to grade.")] = 100,
    api_url: ApiUrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Grade stored trajectories again; show which verdicts and advantages change."""
    body: dict[str, Any] = {"profile": profile, "max_groups": max_groups}
    if grader:
        body["graders"] = [_parse_grader(text) for text in grader]
    with connect(api_url, data_dir) as client:
        report = client.rescore(job_id, body)
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _parse_grader(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"--grader is not a JSON object: {error}.") from None


def _print_report(report: RescoreReport) -> None:
    flips = report.flips
    print_table(
        ("trajectory", "step", "before", "now", "reward", "advantage"),
        [
            (
                flip.trajectory_id,
                flip.step,
                flip.before.outcome,
                flip.now.outcome,
                f"{_number(flip.before.reward)} → {_number(flip.now.reward)}",
                f"{_number(flip.before.advantage)} → {_number(flip.now.advantage)}",
            )
            for flip in flips
        ],
    )
    change = _number(report.mean_abs_advantage_change)
    out.print(
        f"{report.flipped} of {report.trajectories} verdicts flip in {report.groups} groups; "
        f"mean |advantage change| {change}",
        markup=False,
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
