"""`dirl data`: create and validate data files, without a platform."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from services.api.adapters.hub_files import find_hub_file
from services.api.cli.failure import CommandError
from services.api.cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption
from services.api.cli.output import out, print_json
from services.api.cli.programs import run_module
from services.api.cli.submission import assign
from services.common.data.arithmetic import make_arithmetic
from services.common.data.overlap import (
    NGRAM_WORDS,
    DuplicateCounter,
    Duplicates,
    Overlap,
    OverlapCounter,
)
from services.common.data.reading import Reading
from services.common.data.rows import FileReport, Row, check_file, iter_rows
from services.common.hub_names import is_hub_name
from services.common.job_spec import DataSpec, PromptSpec, parse_section, read_spec_file

data_app = typer.Typer(help="Create and validate data files.", no_args_is_help=True)
make_app = typer.Typer(help="Create a data set.", no_args_is_help=True)
data_app.add_typer(make_app, name="make")

_MAX_AUDITED: Final = 10_000
_MAX_MEASURED: Final = 10_000
_MAX_LISTED: Final = 10
_BAR_CHARS: Final = 40


@dataclass(frozen=True)
class AuditedReference:
    """A reference answer that graders cannot compare with, or only by its spelling."""

    place: str
    reference_answer: str
    status: str
    reason: str


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
    file: Annotated[
        str,
        typer.Argument(
            help="A data file, a directory of shards, a glob, or a name on the Hugging Face hub."
        ),
    ],
    validation: Annotated[
        str | None, typer.Option(help="File to compare with: shows prompts that both have.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model directory: shows rows in its chat template, and lengths in tokens."
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="Job spec whose sections data, validation_data and prompt apply."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Key of the spec, e.g. data.fields.prompt=query."),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Samples to show with --model.")] = 3,
    audit: Annotated[
        bool, typer.Option(help="Verify reference answers against themselves.")
    ] = True,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Validate a file: show what it can be used for, every problem with its row, equal prompts, and
    reference answers that cannot be graded.
    """
    keys: dict[str, Any] = {} if spec is None else read_spec_file(spec)
    for assignment in assignments or ():
        assign(keys, assignment)
    data = parse_section(DataSpec, keys.get("data") or {}, "data")
    own = keys.get("validation_data")
    validation_data = data if own is None else parse_section(DataSpec, own, "validation_data")
    path = _find_file(file, data_dir)
    held_out = None if validation is None else _find_file(validation, data_dir)
    report = check_file(path, data.reading())
    found: dict[str, Any] = {}
    if report.rows:
        found = _inspect(path, data.reading(), held_out, validation_data.reading())
        if audit:
            found |= _audit(path, data.reading())
    if model is not None and report.rows:
        request = {
            "file": str(path.absolute()),
            "model": str(model.absolute()),
            "data": data.model_dump(mode="json"),
            "prompt": parse_section(PromptSpec, keys.get("prompt") or {}, "prompt").model_dump(),
            "num_shown": rows,
            "max_measured": _MAX_MEASURED,
        }
        text = run_module("services.common.model.preview", stdin=json.dumps(request))
        found["preview"] = json.loads(text)
    if as_json:
        print_json({**_to_json(report), **found})
    else:
        out.print("\n".join([_to_text(report), *_describe(found)]), markup=False)
    if report.num_problems or found.get("preview", {}).get("num_problems"):
        raise typer.Exit(1)


def _find_file(name: str, data_dir: Path) -> Path:
    if not is_hub_name(name):
        return Path(name)
    try:
        return find_hub_file(data_dir / "hub", name, may_use_token=True).path
    except ValueError as error:
        raise CommandError(f"Cannot download {error}.") from None


def _inspect(
    file: Path, reading: Reading, validation: Path | None, validation_reading: Reading
) -> dict[str, Any]:
    """Equal prompts of the file, and those that the validation file shares, in one pass."""
    duplicates = DuplicateCounter()
    overlap = None
    if validation is not None:
        if problems := check_file(validation, validation_reading).problems:
            raise CommandError(f"{validation} cannot be used: {problems[0]}")
        overlap = OverlapCounter(iter_rows(validation, validation_reading))
    for row in iter_rows(file, reading):
        duplicates.add(row)
        if overlap is not None:
            overlap.add(row)
    found = {"duplicates": asdict(duplicates.found)}
    return found if overlap is None else {**found, "overlap": asdict(overlap.result())}


def _audit(file: Path, reading: Reading) -> dict[str, Any]:
    """Distinct reference answers that no response can match, or that only equal spelling matches."""
    places: dict[tuple[str, str], Row] = {}
    for row in iter_rows(file, reading):
        if row.answer is not None:
            places.setdefault((row.answer, str(row.answer_type)), row)
            if len(places) == _MAX_AUDITED:
                break
    if not places:
        return {}
    lines = "".join(json.dumps(reference) + "\n" for reference in places)
    try:
        audits = run_module("services.reward.audit_file", stdin=lines).splitlines()
    except CommandError as error:
        return {"reference_answers": {"audited": 0, "error": str(error)}}
    flagged = [
        AuditedReference(row.place, row.answer or "", *json.loads(audit))
        for row, audit in zip(places.values(), audits, strict=True)
        if json.loads(audit)[0] in ("invalid", "flagged")
    ]
    # Those that cannot be used at all go first.
    flagged.sort(key=lambda found: found.status != "invalid")
    return {
        "reference_answers": {
            "audited": len(places),
            "invalid": sum(found.status == "invalid" for found in flagged),
            "flagged": sum(found.status == "flagged" for found in flagged),
            "examples": [asdict(found) for found in flagged[:_MAX_LISTED]],
        }
    }


def _to_json(report: FileReport) -> dict[str, Any]:
    return {
        "file": str(report.path),
        "rows": report.rows,
        "sft_examples": report.sft_examples,
        "format": report.format,
        "rows_with_reference_answer": report.rl_rows,
        "usable_for": [name for name, usable in _uses(report).items() if usable],
        "longest_prompt_chars": report.longest_prompt_chars,
        "longest_completion_chars": report.longest_completion_chars,
        "num_problems": report.num_problems,
        "problems": [
            {"path": problem.path, "message": problem.message} for problem in report.problems
        ],
    }


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
        lines.append(
            "1 problem:" if report.num_problems == 1 else f"{report.num_problems} problems:"
        )
        lines += [f"  {problem}" for problem in report.problems]
    if report.num_problems > len(report.problems):
        lines.append(f"  … and {report.num_problems - len(report.problems)} more")
    return "\n".join(lines)


def _describe(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of what was found beyond the rows themselves."""
    if "duplicates" in found:
        duplicates = Duplicates(**found["duplicates"])
        yield f"duplicates: {duplicates.count} rows have the prompt of an earlier row"
        yield from (f"  {place} = {earlier}" for place, earlier in duplicates.examples)
    if "overlap" in found:
        overlap = Overlap(**found["overlap"])
        yield (
            f"overlap: of {overlap.validation_rows} validation rows, {overlap.exact} have a training prompt, "
            f"{overlap.ngram} share {NGRAM_WORDS} words in a row with one"
        )
        yield from (f"  {place} ~ {training} of the file" for place, training in overlap.examples)
    if "reference_answers" in found:
        yield from _describe_audit(found["reference_answers"])
    if "preview" in found:
        yield from _describe_preview(found["preview"])


def _describe_audit(audit: Mapping[str, Any]) -> Iterator[str]:
    if "error" in audit:
        yield f"reference answers: not audited ({audit['error']})"
        return
    yield (
        f"reference answers: of {audit['audited']} distinct ones, {audit['invalid']} cannot be graded, "
        f"{audit['flagged']} are compared by their spelling"
    )
    for example in audit["examples"]:
        found = AuditedReference(**example)
        yield f"  {found.place}: {found.reference_answer[:60]!r} {found.status} ({found.reason})"


def _describe_preview(preview: Mapping[str, Any]) -> Iterator[str]:
    yield f"lengths of {preview['measured']} samples in tokens:"
    largest = max(preview["sample_tokens"].values(), default=1)
    for bound, count in preview["sample_tokens"].items():
        yield f"  <= {bound:>6} {count:>7} {'#' * -(-count * _BAR_CHARS // largest)}"
    yield f"  longest prompt {preview['longest_prompt']}, longest sample {preview['longest_sample']}"
    if preview["num_problems"]:
        yield f"the chat template refuses {preview['num_problems']} rows:"
        yield from (f"  {problem}" for problem in preview["problems"])
    for sample in preview["shown"]:
        yield f"--- {sample['place']}: prompt"
        yield sample["prompt"]
        if sample["completion"] is not None:
            yield f"--- {sample['place']}: trained"
            yield sample["completion"]
