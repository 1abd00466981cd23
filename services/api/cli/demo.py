"""`dirl demo`: run the whole platform with a tiny model."""

import signal
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.api.adapters.demo_inputs import TEST_PROBLEMS, TRAIN_PROBLEMS, make_demo_spec
from services.api.cli.demo_report import DemoReport, read_results
from services.api.cli.memory import PeakMemory
from services.api.cli.options import JsonOption
from services.api.cli.output import notes, out, print_json
from services.api.cli.programs import run_module
from services.api.cli.submission import upload_files
from services.api.cli.up import Interrupted, stop_signals, tell, tell_ready
from services.api.cli.watching import failure_of, watch_job
from services.api.client import ApiClient
from services.api.embedded.locations import default_data_dir
from services.api.embedded.platform import LocalPlatform


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, model and job.")] = 0,
    stop: Annotated[
        bool, typer.Option("--exit", help="Stop the platform when the job is done.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Directory for all state [default: a new one]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a tiny model on arithmetic: SFT, reinforcement learning and evaluation, with all services."""
    started_at = time.monotonic()
    directory = _make_directory() if data_dir is None else data_dir
    try:
        with (
            stop_signals(),
            LocalPlatform(directory, on_ready=tell_ready, report=tell) as platform,
        ):
            report = _run_demo(platform, seed, started_at)
            if not stop:
                _print_report(report, as_json)
                tell(
                    f"The platform runs at {platform.api_url} until Ctrl-C. Data: {platform.data_dir}"
                )
                signal.pause()
    except Interrupted:
        tell("stopped")
        raise typer.Exit(130) from None
    _print_report(report, as_json)


def _make_directory() -> Path:
    base = default_data_dir()
    base.mkdir(parents=True, exist_ok=True)
    moment = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    return Path(tempfile.mkdtemp(prefix=f"demo-{moment}-", dir=base))


def _run_demo(platform: LocalPlatform, seed: int, started_at: float) -> DemoReport:
    ready_s = time.monotonic() - started_at
    with PeakMemory() as memory, ApiClient(platform.api_url) as api:
        tell(
            f"creating {TRAIN_PROBLEMS} training and {TEST_PROBLEMS} test problems, and a model with random weights"
        )
        spec = make_demo_spec(platform.data_dir / "demo", seed, make_model_here)
        submitted = api.create_job(upload_files(spec, api, platform.data_dir / "demo", tell))
        tell(f"job {submitted.id}")
        job = watch_job(api, submitted.id, notes)
        failure = failure_of(job)
        if failure is not None:
            tell(f"Logs of the services: {platform.data_dir / 'logs'}")
            raise failure
        results = read_results(api, job)
    seconds = {
        "startup": round(ready_s, 1),
        **results.pop("seconds"),
        "total": round(time.monotonic() - started_at, 1),
    }
    return DemoReport(**results, seconds=seconds, peak_memory_bytes=memory.peak_bytes, seed=seed)


def make_model_here(path: Path, seed: int) -> None:
    """Create the model of the demo on this machine; raises CommandError if that fails."""
    run_module("services.common.model", "make", "--out", str(path), "--seed", str(seed))


def _print_report(report: DemoReport, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        for line in report.lines():
            out.print(line, markup=False)
