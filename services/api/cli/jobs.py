"""`dirl jobs`: submit, list, show, watch and control jobs."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from services.api.cli.connection import connect
from services.api.cli.failure import CommandError
from services.api.cli.mirroring import mirror_job
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import (
    duration,
    format_time,
    notes,
    out,
    print_json,
    print_result,
    print_table,
    size,
)
from services.api.cli.submission import read_spec, upload_files
from services.api.cli.trackers import open_tracker
from services.api.cli.watching import failure_of, format_metrics, headline, watch_job
from services.api.client import ApiClient
from services.api.schemas.estimates import JobEstimate
from services.api.schemas.jobs import JobView
from services.api.schemas.records import (
    AttemptView,
    CertificateView,
    EvaluationView,
)
from services.api.schemas.trajectories import TrajectoryExport
from services.common.trajectory import Purpose

jobs_app = typer.Typer(help="Submit, list, show, watch and control jobs.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job (job_…).")]


@jobs_app.command()
def submit(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec, .toml or .json.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. rl.steps=20."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print an estimate as JSON without submitting.")
    ] = False,
    preflight: Annotated[
        bool,
        typer.Option(
            help="Estimate the job first, and refuse one that cannot fit or cannot learn."
        ),
    ] = True,
    trajectories: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Train on the responses that this job kept."),
    ] = None,
    min_reward: Annotated[
        float, typer.Option(help="With --trajectories: the least reward of a response.")
    ] = 1.0,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job and upload its local data files."""
    own = [] if trajectories is None else [f"training_file={trajectories}.jsonl"]
    spec = read_spec(spec_file, [*(assignments or []), *own])
    with connect(api_url, data_dir) as api, TemporaryDirectory() as scratch:
        if trajectories is not None:
            kept = Path(scratch) / spec["training_file"]
            selection = TrajectoryExport(purpose=Purpose.TRAIN, min_reward=min_reward)
            if not api.export_trajectories(trajectories, selection, kept):
                raise CommandError(
                    f"{trajectories} kept no response with a reward of at least {min_reward:g}."
                )
            spec["training_file"] = str(kept)
        uploaded = upload_files(
            spec, api, spec_file.parent, lambda line: notes.print(line, markup=False)
        )
        if dry_run:
            print_json(api.estimate(uploaded))
            return
        if preflight:
            _require_acceptable(api.estimate(uploaded))
        job = api.create_job(uploaded)
        if watch:
            notes.print(f"{job.id} submitted", markup=False)
            _follow(api, job.id, as_json)
            return
    print_result(job, job.id, as_json)


def _require_acceptable(estimate: JobEstimate) -> None:
    """Print a forecast; raises CommandError for a job that cannot fit or cannot learn."""
    if not estimate.accepted:
        problems = "\n".join(
            f"  {problem.path}: {problem.message}" for problem in estimate.problems
        )
        raise CommandError(
            f"The job was not submitted:\n{problems}\nChange the spec, or submit it with --no-preflight.",
            code="preflight_failed",
        )
    facts = [
        f"{sum(estimate.steps.values())} steps",
        "duration unknown" if estimate.seconds is None else f"about {duration(estimate.seconds)}",
        f"memory at least {size(estimate.memory_bytes)}",
        f"checkpoints {size(estimate.disk_bytes)}",
    ]
    notes.print(f"forecast: {', '.join(facts)}", markup=False)
    for problem in estimate.problems:
        notes.print(f"  {problem.path}: {problem.message}", markup=False)


@jobs_app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of jobs, newest first.")] = 20,
    search: Annotated[
        str, typer.Option(help="Words of id, suffix, model, method, state or metadata.")
    ] = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest jobs."""
    with connect(api_url, data_dir) as api:
        jobs = api.jobs(limit, search)
    if as_json:
        print_json({"data": jobs})
        return
    rows = (
        (
            job.id,
            job.state,
            job.method,
            None if job.progress is None else f"{job.progress.fraction:.0%}",
            job.suffix,
            format_time(job.created_at),
        )
        for job in jobs
    )
    print_table(("ID", "STATE", "METHOD", "DONE", "SUFFIX", "CREATED"), rows)


@jobs_app.command()
def show(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show state, metrics, evaluations and checkpoints of a job."""
    with connect(api_url, data_dir) as api:
        job, evals, checkpoints = api.job(job_id), api.evals(job_id), api.checkpoints(job_id)
        attempts, certificates = api.attempts(job_id), api.certificates(job_id)
    if as_json:
        records = {
            "evals": evals,
            "checkpoints": checkpoints,
            "attempts": attempts,
            "certificates": certificates,
        }
        print_json({**job.model_dump(mode="json"), **records})
        return
    out.print(f"{job.id}  {headline(job)}  {format_metrics(job)}".rstrip(), markup=False)
    out.print(
        f"model {job.model}  method {job.method}  created {format_time(job.created_at)}",
        markup=False,
    )
    if job.error is not None:
        out.print(f"error {job.error.code}: {job.error.message}", markup=False)
    _print_attempts(attempts, certificates)
    print_evals(evals)
    existing = [item for item in checkpoints if item.deleted_at is None]
    if existing:
        rows = ((item.id, item.step, item.stage, size(item.bytes), item.path) for item in existing)
        print_table(("CHECKPOINT", "STEP", "STAGE", "SIZE", "PATH"), rows)


@jobs_app.command()
def watch(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a job until it finishes; Ctrl-C does not stop the job."""
    with connect(api_url, data_dir) as api:
        _follow(api, job_id, as_json)


@jobs_app.command()
def cancel(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job; it saves a checkpoint first."""
    with connect(api_url, data_dir) as api:
        print_state(api.cancel(job_id), as_json)


@jobs_app.command()
def pause(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pause a job; it saves a checkpoint first."""
    with connect(api_url, data_dir) as api:
        print_state(api.pause(job_id), as_json)


@jobs_app.command()
def resume(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a paused job; it resumes from its newest checkpoint."""
    with connect(api_url, data_dir) as api:
        print_state(api.resume(job_id), as_json)


@jobs_app.command()
def rerun(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retry a failed or cancelled job from its newest checkpoint."""
    with connect(api_url, data_dir) as api:
        print_state(api.rerun(job_id), as_json)


@jobs_app.command()
def diagnose(
    job_id: JobArgument,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why a job makes no progress, and how to fix it."""
    with connect(api_url, data_dir) as api:
        found = api.diagnosis(job_id)
    if as_json:
        print_json(found)
        return
    out.print(f"{found.code}: {found.sentence}", markup=False)
    for key, value in found.suggestion.items():
        out.print(f"  try {key}={value}", markup=False)


@jobs_app.command()
def logs(
    job_id: JobArgument,
    service: Annotated[
        str, typer.Option(help="learner, or a service of the platform, e.g. rollout-1.")
    ] = "learner",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the log of a service for the newest attempt."""
    with connect(api_url, data_dir) as api:
        for line in api.log_lines(job_id, service):
            if as_json:
                print_json(line)
            else:
                out.print(f"{line.level:<8}{line.message}", markup=False)


def print_state(job: JobView, as_json: bool) -> None:
    """Print a job's id and state."""
    print_result(job, f"{job.id}  {job.state}", as_json)


@jobs_app.command()
def mirror(
    job_id: JobArgument,
    target: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TRACKER",
            help="tensorboard:DIR, wandb:PROJECT, mlflow:URI or trackio:PROJECT.",
        ),
    ],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the metrics of a job to an experiment tracker until the job finishes."""
    with (
        connect(api_url, data_dir) as api,
        closing(open_tracker(target, api.job(job_id))) as tracker,
    ):
        logged = mirror_job(api, job_id, tracker)
    copied = {"job_id": job_id, "target": target, "steps": logged}
    print_result(copied, f"copied {logged} steps of {job_id} to {target}", as_json)


def _follow(api: ApiClient, job_id: str, as_json: bool) -> None:
    try:
        job = watch_job(api, job_id, notes)
    except KeyboardInterrupt:
        notes.print(f"{job_id} continues; follow it with `dirl jobs watch {job_id}`.", markup=False)
        raise typer.Exit(130) from None
    if as_json:
        print_json(job)
    failure = failure_of(job)
    if failure is not None:
        raise failure
    if not as_json:
        print_evals(api.evals(job_id))


def print_evals(evals: list[EvaluationView]) -> None:
    """Print a table of evaluations."""
    if evals:
        rows = []
        for item in evals:
            results = item.results
            threshold = results.get("decoding", {}).get("confidence_threshold", "default")
            speed = results.get("tokens_per_step")
            rows.append(
                (
                    item.step,
                    item.stage,
                    item.dataset,
                    str(threshold),
                    "-" if speed is None else f"{speed:.2f}",
                    _format_interval(results, "reward", ".3f"),
                    _format_interval(results, "accuracy", ".1%"),
                )
            )
        columns = ("STEP", "STAGE", "DATASET", "THRESHOLD", "TOKENS PER STEP", "REWARD", "ACCURACY")
        print_table(columns, rows)


def _format_interval(results: Mapping[str, Any], name: str, form: str) -> str:
    """Format a result with its interval; a dash for one that the job's graders do not give."""
    if name not in results:
        return "-"
    low, high = results.get(f"{name}_low"), results.get(f"{name}_high")
    interval = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{results[name]:{form}}{interval}"


def _print_attempts(attempts: list[AttemptView], certificates: list[CertificateView]) -> None:
    if len(attempts) < 2:
        return
    accounting = {
        item.attempt: "{lost} lost, {trained_twice} trained twice".format(**item.certificate)
        for item in certificates
    }
    rows = (
        (
            item.number,
            item.state,
            item.resumed_from,
            accounting.get(item.number),
        )
        for item in attempts
    )
    print_table(("ATTEMPT", "STATE", "RESUMED FROM", "PROMPTS"), rows)
