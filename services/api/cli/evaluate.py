"""`dirl eval`: evaluate a model on the benchmarks of the paper, and compare with its results."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from services.api.cli.connection import connect
from services.api.cli.failure import CommandError
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import notes, out, print_json, print_table
from services.api.cli.submission import assign, upload_files
from services.api.cli.watching import failure_of, watch_job
from services.api.client import ApiClient, Json
from services.api.domain.benchmarks import (
    BENCHMARKS,
    CODE_BENCHMARKS,
    REPORTED,
    benchmark_spec,
)
from services.common.job_spec import parse_spec


class Benchmark(StrEnum):
    """Keys of BENCHMARKS and CODE_BENCHMARKS."""

    MATH500 = "MATH500"
    GSM8K = "GSM8K"
    AIME24 = "AIME24"
    AIME25 = "AIME25"
    OLYMPIADBENCH = "OlympiadBench"
    HUMANEVAL_PLUS = "HumanEval+"
    MBPP_PLUS = "MBPP+"
    LIVECODEBENCH = "LiveCodeBench"
    APPS = "APPS"


class DecodingPreset(StrEnum):
    """Decoding of the published evaluations."""

    STATIC = "static"
    DYNAMIC = "dynamic"


Results = dict[tuple[str, str], Json]
"""Evaluation results by decoding and benchmark."""


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Directory, registered model, or name on the hub."),
    ],
    benchmarks_dir: Annotated[
        Path,
        typer.Option(
            "--benchmarks",
            metavar="DIR",
            help="Directory with math500/test.jsonl, gsm8k/test.jsonl and so on.",
        ),
    ],
    only: Annotated[
        list[Benchmark] | None,
        typer.Option("--only", help="Benchmarks to run; those of the paper by default."),
    ] = None,
    decoding: Annotated[
        list[DecodingPreset] | None, typer.Option(help="static or dynamic; both by default.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key, e.g. eval.num_samples=50."
        ),
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model with the published protocol: one job per benchmark and decoding."""
    files = _find_files(benchmarks_dir, [each.value for each in only] if only else list(BENCHMARKS))
    modes = [each.value for each in decoding or DecodingPreset]
    specs = {
        (mode, name): _make_spec(name, model, file, mode, assignments or [])
        for mode in modes
        for name, file in files.items()
    }
    results: Results = {}
    with connect(api_url, data_dir) as api:
        for (mode, name), spec in specs.items():
            notes.print(f"{name}, {mode} decoding", markup=False)
            results[mode, name] = _run_job(api, spec)
    if as_json:
        print_json({"model": model, "results": _group_by_decoding(results)})
    else:
        _print_results(model, results)


def _find_files(directory: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the paths by benchmark; raises CommandError that lists all missing files."""
    known = {**BENCHMARKS, **CODE_BENCHMARKS}
    files = {name: (directory / known[name]).resolve() for name in names}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise CommandError(
            f"Missing benchmark files: {', '.join(missing)}. Add them, or select benchmarks with --only."
        )
    return files


def _make_spec(name: str, model: str, file: Path, mode: str, assignments: Sequence[str]) -> Json:
    """Create and validate the job of a benchmark."""
    spec = benchmark_spec(name, model, str(file), mode)
    for assignment in assignments:
        assign(spec, assignment)
    parse_spec(spec)
    return spec


def _run_job(api: ApiClient, spec: Json) -> Json:
    job = api.create_job(
        upload_files(spec, api, Path.cwd(), lambda line: notes.print(line, markup=False))
    )
    job = watch_job(api, job.id, notes)
    failure = failure_of(job)
    if failure is not None:
        raise failure
    return {**api.evals(job.id)[-1].results, "job_id": job.id}


def _group_by_decoding(results: Results) -> dict[str, dict[str, Json]]:
    modes = dict.fromkeys(mode for mode, _ in results)
    return {
        mode: {name: found for (of, name), found in results.items() if of == mode} for mode in modes
    }


def _print_results(model: str, results: Results) -> None:
    """Print the table of the paper, then intervals, pass@k and truncation."""
    if any(name in BENCHMARKS for _, name in results):
        out.print("accuracy in % (avg@k) · tokens per step · mean length", markup=False)
        print_table(("MODEL", "DECODING", *BENCHMARKS, "AVERAGE"), table(model, results))
        out.print()
    columns = (
        "BENCHMARK",
        "DECODING",
        "K",
        "PROBLEMS",
        "AVG@K",
        "PASS@K",
        "TOKENS/STEP",
        "LENGTH",
        "TRUNCATED",
    )
    print_table(columns, (_details(mode, name, found) for (mode, name), found in results.items()))


def table(model: str, results: Results) -> Iterator[tuple[str, ...]]:
    """Yield rows of the model, then the published ones."""
    for mode, found in _group_by_decoding(results).items():
        cells = [_format_cell(found.get(name)) for name in BENCHMARKS]
        accuracies = [found[name]["accuracy"] for name in BENCHMARKS if name in found]
        # Without one benchmark the average would not be comparable with the others.
        complete = len(accuracies) == len(BENCHMARKS)
        average = f"{100 * sum(accuracies) / len(BENCHMARKS):.1f}" if complete else "-"
        yield model, mode, *cells, average
    for row in REPORTED:
        cells = [
            f"{accuracy:.1f} · {speed:.1f} · {length:.1f}" for accuracy, speed, length in row.scores
        ]
        yield f"{row.model} (published)", row.decoding, *cells, f"{row.average:.1f}"


def _format_cell(found: Json | None) -> str:
    if found is None:
        return "-"
    speed, length = (_number(found, key, 1) for key in ("tokens_per_step", "mean_response_length"))
    return f"{100 * found['accuracy']:.1f} · {speed} · {length}"


def _details(mode: str, name: str, found: Json) -> tuple[Any, ...]:
    # Programs have no reference answer: the share that passes is their reward.
    share = "accuracy" if "accuracy" in found else "reward"
    return (
        name, mode, found["num_generations"], found["num_prompts_scored"],
        _interval(found, share), _interval(found, "pass_at_k"),
        _number(found, "tokens_per_step", 2), _number(found, "mean_response_length", 0),
        f"{100 * found['truncation_rate']:.1f} %" if "truncation_rate" in found else "-",
    )  # fmt: skip


def _interval(found: Mapping[str, float], key: str) -> str:
    if f"{key}_low" not in found:  # one problem has no interval
        return f"{100 * found[key]:.1f} %"
    low, high = found[f"{key}_low"], found[f"{key}_high"]
    return f"{100 * found[key]:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _number(found: Mapping[str, float], key: str, digits: int) -> str:
    return f"{found[key]:.{digits}f}" if key in found else "-"
