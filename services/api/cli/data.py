"""`dirl data`: create and validate data files, without a platform."""

from pathlib import Path
from typing import Annotated

import typer

from services.api.cli.failure import CommandError
from services.api.cli.options import JsonOption
from services.api.cli.output import out, print_json
from services.common.data.arithmetic import make_arithmetic
from services.common.data.rows import FileReport, check_file

data_app = typer.Typer(help="Create and validate data files.", no_args_is_help=True)
make_app = typer.Typer(help="Create a data set.", no_args_is_help=True)
data_app.add_typer(make_app, name="make")


@make_app.command()
def arithmetic(
    directory: Annotated[
        Path, typer.Option("--out", help="Directory to write train.jsonl and test.jsonl to.")
    ],
    train: Annotated[int, typer.Option(min=1, help="Training problems.")] = 4000,
    test: Annotated[int, typer.Option(min=1, help="Test problems.")] = 500,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create word problems with two-digit sums; no pair of operands is in both files."""
    try:
        files = make_arithmetic(directory, seed=seed, num_train=train, num_test=test)
    except OSError as error:
        raise CommandError(f"Cannot write the data set to {directory}: {error.strerror}.") from None
    if as_json:
        print_json({"train": str(files.train), "test": str(files.test)})
    else:
        out.print(f"{files.train}\n{files.test}", markup=False)


@data_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A JSONL or Parquet file.")],
    as_json: JsonOption = False,
) -> None:
    """Validate a file: show what it can be used for, and every problem with its row."""
    report = check_file(file)
    if as_json:
        print_json(
            {
                "file": str(report.path),
                "rows": report.rows,
                "format": report.format,
                "rows_with_reference_answer": report.rl_rows,
                "usable_for": [name for name, usable in _uses(report).items() if usable],
                "longest_prompt_chars": report.longest_prompt_chars,
                "longest_completion_chars": report.longest_completion_chars,
                "num_problems": report.num_problems,
                "problems": [
                    {"path": problem.path, "message": problem.message}
                    for problem in report.problems
                ],
            }
        )
    else:
        out.print(_to_text(report), markup=False)
    if report.num_problems:
        raise typer.Exit(1)


def _uses(report: FileReport) -> dict[str, bool]:
    return {
        "sft": report.usable_for("sft"),
        "rl": report.usable_for("rl"),
        "eval": report.usable_for("eval"),
    }


def _to_text(report: FileReport) -> str:
    lines = [
        f"{report.path}: {report.rows} rows ({report.format or 'no valid row'})",
        *(f"  {name:<5} {'yes' if usable else 'no'}" for name, usable in _uses(report).items()),
        f"  {report.rl_rows} rows have a reference answer, which accuracy, cosine and speed graders need",
        f"  longest prompt {report.longest_prompt_chars}, completion {report.longest_completion_chars} characters",
    ]
    if report.num_problems:
        lines.append(f"{report.num_problems} invalid rows:")
        lines += [f"  {problem}" for problem in report.problems]
    if report.num_problems > len(report.problems):
        lines.append(f"  … and {report.num_problems - len(report.problems)} more")
    return "\n".join(lines)
