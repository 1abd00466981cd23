"""Following a job to its end: a live bar on a terminal, plain lines elsewhere."""

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
_PATIENCE_S: Final = 30.0
"""How long an API that does not answer is waited for; it may be restarting."""
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
    "eval": (("accuracy", JobMetric.EVAL_ACCURACY, ".1%"),),
}


def watch_job(api: ApiClient, job_id: str, console: Console) -> JobView:
    """Show the job on the console until it has ended (or is paused); returns its last state."""
    with _display(console) as display:
        for job in _snapshots(api, job_id):
            display.show(job)
            state = job.state
            if state.is_terminal or state is JobState.PAUSED:
                return job
    raise AssertionError("snapshots never end")


def failure_of(job: JobView) -> CommandError | None:
    """Why a watched job cannot count as done; None when it succeeded or was paused."""
    if job.state in (JobState.SUCCEEDED, JobState.PAUSED):
        return None
    error = job.error or FailureView(code=job.state, message="")
    return CommandError(f"Job {job.id} {job.state}: {error.message or error.code}", code=error.code)


def facts(job: JobView) -> str:
    """The figures of the running stage, e.g. `loss 0.512  tokens/s 8,100`."""
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
    """State, stage and phase, e.g. `running  rl 12/40  rollout`."""
    progress = job.progress
    parts: list[str] = [job.state]
    if progress is not None and job.state == "running":
        parts.append(f"{progress.stage} {progress.stage_step}/{progress.stage_steps}")
        parts.append(job.phase or "")
    if job.waiting_for:
        parts.append(f"waiting for {job.waiting_for}")
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return "  ".join(part for part in parts if part)


class _Display(Protocol):
    def show(self, job: JobView) -> None:
        """Bring the console up to date."""


def _display(console: Console) -> AbstractContextManager[_Display]:
    return _Bar(console) if console.is_terminal else nullcontext(_Lines(console))


class _Lines:
    """A line whenever state or stage change, else every few seconds of progress."""

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
            self._console.print(f"{job.id}  {headline(job)}  {facts(job)}".rstrip(), markup=False)


class _Bar:
    """One line that is redrawn."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[facts]}"),
        )
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._progress.add_task("", total=None, facts="")

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
            facts=facts(job),
        )


def _snapshots(api: ApiClient, job_id: str) -> Iterator[JobView]:
    answered_at = time.monotonic()
    while True:
        try:
            job = api.job(job_id)
        except ClientError as error:
            if error.code != "unreachable" or time.monotonic() - answered_at > _PATIENCE_S:
                raise
        else:
            answered_at = time.monotonic()
            yield job
        time.sleep(_POLL_S)
