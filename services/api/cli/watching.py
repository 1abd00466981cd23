"""Follow a job with a progress bar on a terminal, or with plain lines."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.api.cli.failure import CommandError
from services.api.cli.output import duration
from services.api.client import ApiClient, ClientError
from services.api.domain.job_state import JobState
from services.api.schemas.base import FailureView
from services.api.schemas.jobs import JobView
from services.common.job_metrics import JobMetric

_POLL_S: Final = 0.5
_LINE_EVERY_S: Final = 15.0
_MAX_UNREACHABLE_S: Final = 30.0
"""Time to wait for an API that is unreachable, e.g. during a restart."""
_SHOWN: Final = {
    "sft": (
        ("loss", JobMetric.TRAIN_LOSS, ".3f"),
        ("tokens/s", JobMetric.PERF_TRAINER_TOKENS_PER_S, ",.0f"),
    ),
    "rl": (
        ("reward", JobMetric.REWARD_MEAN, ".3f"),
        ("accuracy", JobMetric.REWARD_ACCURACY, ".1%"),
        ("loss", JobMetric.TRAIN_LOSS, ".4f"),
        ("tokens/s", JobMetric.PERF_ROLLOUT_TOKENS_PER_S, ",.0f"),
    ),
    "eval": (
        ("reward", JobMetric.EVAL_REWARD, ".3f"),
        ("accuracy", JobMetric.EVAL_ACCURACY, ".1%"),
    ),
}


def watch_job(api: ApiClient, job_id: str, console: Console) -> JobView:
    """Show a job until it finishes or is paused; returns its final state."""
    shown: AbstractContextManager[_Display] = (
        _Bar(console) if console.is_terminal else nullcontext(_Lines(console))
    )
    with shown as display:
        for job in _poll(api, job_id):
            display.show(job)
            state = job.state
            if state.is_terminal or state is JobState.PAUSED:
                return job
    raise AssertionError("polling never ends")


def failure_of(job: JobView) -> CommandError | None:
    """Return the error of a job that failed or was cancelled; None if it succeeded or is paused."""
    if job.state in (JobState.SUCCEEDED, JobState.PAUSED):
        return None
    error = job.error or FailureView(code=job.state, message="")
    return CommandError(f"Job {job.id} {job.state}: {error.message or error.code}", code=error.code)


def format_metrics(job: JobView) -> str:
    """Format metrics of the current stage, e.g. `loss 0.512  tokens/s 8,100`."""
    metrics = job.latest_metrics
    shown = [
        f"{label} {metrics[name]:{form}}"
        for label, name, form in _SHOWN.get(job.stage or "", ())
        if name in metrics
    ]
    if job.estimated_finish is not None:
        shown.append(f"ETA {duration(max(0.0, job.estimated_finish - time.time()))}")
    return "  ".join(shown)


def headline(job: JobView) -> str:
    """Format state, stage and phase, e.g. `running  rl 12/40  rollout`."""
    progress = job.progress
    parts: list[str] = [job.state]
    if progress is not None and job.state == "running":
        parts.append(f"{progress.stage} {progress.stage_step}/{progress.stage_steps}")
        parts.append(job.phase or "")
    if job.waiting_for:
        parts.append(f"waiting for {job.waiting_for}")
    if job.waiting_reason:
        parts.append(job.waiting_reason)
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return "  ".join(part for part in parts if part)


class _Display(Protocol):
    def show(self, job: JobView) -> None:
        """Show the current state of the job."""


class _Lines:
    """Prints a line when state or stage change, and every few seconds on progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._place: tuple[str, str | None, int] | None = None
        self._step = -1
        self._next_at = 0.0

    def show(self, job: JobView) -> None:
        place = (job.state, job.stage, job.attempt)
        step = -1 if job.progress is None else job.progress.step
        due = step != self._step and time.monotonic() >= self._next_at
        if place != self._place or due:
            self._place, self._step = place, step
            self._next_at = time.monotonic() + _LINE_EVERY_S
            self._console.print(
                f"{job.id}  {headline(job)}  {format_metrics(job)}".rstrip(), markup=False
            )


class _Bar:
    """A progress bar."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[metrics]}"),
        )
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._progress.add_task("", total=None, metrics="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: JobView) -> None:
        progress = job.progress
        self._progress.update(
            self._task,
            description=headline(job),
            completed=0 if progress is None else progress.step,
            total=None if progress is None else progress.total_steps,
            metrics=format_metrics(job),
        )


def _poll(api: ApiClient, job_id: str) -> Iterator[JobView]:
    responded_at = time.monotonic()
    while True:
        try:
            job = api.job(job_id)
        except ClientError as error:
            if error.code != "unreachable" or time.monotonic() - responded_at > _MAX_UNREACHABLE_S:
                raise
        else:
            responded_at = time.monotonic()
            yield job
        time.sleep(_POLL_S)
