"""Results of the demo, from the evaluations and events of its job."""

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.api.cli.output import duration, size
from services.api.client import ApiClient, Json
from services.api.schemas.jobs import JobView
from services.api.schemas.records import EvaluationView, EventView
from services.common.job_metrics import JobMetric

_GAP_METRIC: Final = JobMetric.TRAIN_LOGPROB_GAP_MAX
_EVAL_PHASE: Final = "eval"


@dataclass(frozen=True)
class Accuracy:
    """Fraction of solved test problems, with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%}  (95 % interval {self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class DemoReport:
    """Results of a demo; None for a value that the job did not measure."""

    sft_accuracy: Accuracy
    rl_accuracy: Accuracy
    tokens_per_step: float | None
    """Response tokens per denoising step, in the last evaluation."""
    logprob_gap_max: float | None
    """Maximum difference between log-probabilities of rollout and trainer."""
    seconds: dict[str, float]
    """Duration of startup, sft, rl, eval, and of the whole command so far (total)."""
    peak_memory_bytes: int
    seed: int
    job_id: str

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Format the report."""
        gap, tokens = self.logprob_gap_max, self.tokens_per_step
        phases = "  ".join(f"{name} {duration(value)}" for name, value in self.seconds.items())
        return [
            f"accuracy after SFT          {self.sft_accuracy}",
            f"accuracy after RL           {self.rl_accuracy}",
            f"tokens per denoising step   {'not measured' if tokens is None else f'{tokens:.2f}'}",
            f"max log-prob difference     {'not measured' if gap is None else f'{gap:.1e}'}",
            f"duration                    {phases}",
            f"peak memory, all processes  {size(self.peak_memory_bytes)}",
        ]


def accuracy_after(evals: list[EvaluationView], *stages: str) -> Accuracy:
    """Return the accuracy of the last evaluation of the stages."""
    results = _last_results(evals, *stages)
    return Accuracy(results["accuracy"], results["accuracy_low"], results["accuracy_high"])


def tokens_per_step(evals: list[EvaluationView]) -> float | None:
    """Return tokens per step of the last evaluation."""
    return _last_results(evals, "sft", "rl", "eval").get("tokens_per_step")


def largest_gap(events: list[EventView]) -> float | None:
    """Return the maximum log-prob difference over all steps."""
    values = (event.data["values"].get(_GAP_METRIC) for event in events if event.type == "metrics")
    return max((value for value in values if value is not None), default=None)


def stage_seconds(events: list[EventView], finished_at: float | None) -> dict[str, float]:
    """Return the seconds of each stage without evaluations, and of all evaluations."""
    phases = [event for event in events if event.type == "phase"]
    ends = [event.time for event in phases[1:]] + [
        time.time() if finished_at is None else finished_at
    ]
    totals: defaultdict[str, float] = defaultdict(float)
    for event, end in zip(phases, ends, strict=True):
        data = event.data
        totals[_EVAL_PHASE if data["phase"] == _EVAL_PHASE else data["stage"]] += max(
            0.0, end - event.time
        )
    return {name: round(totals[name], 1) for name in ("sft", "rl", _EVAL_PHASE)}


def read_results(api: ApiClient, job: JobView) -> dict[str, Any]:
    """Read the fields of DemoReport that the job has."""
    evals, events = api.evals(job.id), api.events(job.id)
    return {
        "sft_accuracy": accuracy_after(evals, "sft"),
        "rl_accuracy": accuracy_after(evals, "rl", "eval"),
        "tokens_per_step": tokens_per_step(evals),
        "logprob_gap_max": largest_gap(events),
        "seconds": stage_seconds(events, job.finished_at),
        "job_id": job.id,
    }


def _last_results(evals: list[EvaluationView], *stages: str) -> Json:
    # The last of a step: other thresholds are evaluated before the decoding of the job.
    found = [item for item in reversed(evals) if item.stage in stages]
    return dict(max(found, key=lambda item: (item.attempt, item.step)).results)
