"""Orchestration overhead of reinforcement on the demo's job: the share of a step's wall in which
no process computes.

The whole platform runs, as `dirl demo` runs it. Every process writes down when its engine, its
verifier, its learner or its handling of weights computes (`tracing/sitecustomize.py`); waiting is
booked to no phase. The share is what the union of these intervals leaves of the steps' wall (with
their metrics and events; checkpoints come between steps), from the second step on. Two JSON
objects: the demo's own steps, and long steps of three times as many prompts. No group is refilled,
so that every step does the same work and a little supervised training will do.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from services.api.adapters.demo_inputs import make_demo_spec
from services.api.cli.demo import make_model_here
from services.api.cli.submission import upload_files
from services.api.cli.watching import failure_of, watch_job
from services.api.client import ApiClient
from services.api.embedded.platform import LocalPlatform
from services.api.schemas.jobs import JobView
from services.common.job_metrics import JobMetric

Interval = tuple[float, float]
TRACING = Path(__file__).parent / "tracing"


class Bench:
    """The demo's platform with a supervised model, ready for reinforcement jobs."""

    def __init__(
        self,
        platform: LocalPlatform,
        api: ApiClient,
        sft_steps: int | None,
        eval_samples: int | None,
    ) -> None:
        self._platform, self._api = platform, api
        self._directory = platform.data_dir / "demo"
        self._spec = make_demo_spec(self._directory, 0, make_model_here)
        self._spec["sft"]["max_steps"] = sft_steps or self._spec["sft"]["max_steps"]
        self._spec["eval"]["num_samples"] = eval_samples or self._spec["eval"]["num_samples"]
        job = self._run({**self._spec, "method": "sft"})
        self._model = self._checkpoints(job)[-1]

    def reinforce(self, **rl: Any) -> dict[str, Any]:
        """A finished job of reinforcement from the supervised weights: its evaluations and its
        journal's metrics.
        """
        spec = {
            **self._spec,
            "method": "rl",
            "model": str(self._model),
            "rl": {**self._spec["rl"], **rl},
        }
        job = self._run(spec)
        lines = (self._job_dir(job) / "journal" / "attempt-0001.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        values = [event["data"]["values"] for event in events if event["type"] == "metrics"]
        return {
            "steps": [each for each in values if JobMetric.TRAIN_LOSS in each],
            "accuracy": [
                event["data"]["results"]["accuracy"]
                for event in events
                if event["type"] == "evaluation"
            ],
        }

    def _run(self, spec: dict[str, Any]) -> JobView:
        submitted = self._api.create_job(
            upload_files(spec, self._api, self._directory, lambda line: None)
        )
        job = watch_job(self._api, submitted.id, Console(stderr=True))
        failure = failure_of(job)
        if failure is not None:
            raise failure
        return job

    def _job_dir(self, job: JobView) -> Path:
        return Path(self._platform.data_dir, "jobs", job.id)

    def _checkpoints(self, job: JobView) -> list[Path]:
        return sorted((self._job_dir(job) / "checkpoints").glob("step-*"))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def bench(sft_steps: int | None = None, eval_samples: int | None = None) -> Iterator[Bench]:
    """A platform of its own, gone afterwards; None is the demo's own number."""
    with (
        tempfile.TemporaryDirectory(prefix="dirl-bench-") as directory,
        LocalPlatform(
            Path(directory), on_ready=lambda service, seconds: None, report=_tell
        ) as platform,
        ApiClient(platform.api_url) as api,
    ):
        yield Bench(platform, api, sft_steps, eval_samples)


def read_trace(directory: Path) -> dict[str, list[Interval]]:
    """Intervals by kind; a kind that no process wrote is missing."""
    found: dict[str, list[Interval]] = {}
    for path in directory.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            kind, start, end = json.loads(line)
            found.setdefault(kind, []).append((start, end))
        path.unlink()
    return found


def covered(intervals: Iterable[Interval], window: Interval) -> float:
    """Seconds of the window inside the union of the intervals."""
    total, reached = 0.0, window[0]
    for start, end in sorted(intervals):
        start, end = max(start, reached), min(end, window[1])
        if end > start:
            total, reached = total + end - start, end
    return total


def overhead(trace: dict[str, list[Interval]], name: str) -> dict[str, Any]:
    """Shares of the steps' wall."""
    steps = sorted(trace.pop("step"))[1:]
    wall = sum(end - start for start, end in steps)

    def share(intervals: Sequence[Interval]) -> float:
        return sum(covered(intervals, step) for step in steps) / wall

    everybody = [interval for kind in trace.values() for interval in kind]
    return {
        "benchmark": "overhead",
        "job": name,
        "steps": len(steps),
        "step_s": round(wall / len(steps), 2),
        "overhead": round(1 - share(everybody), 4),
        **{kind: round(share(intervals), 4) for kind, intervals in sorted(trace.items())},
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="hardly any training, steps of few prompts"
    )
    quick = parser.parse_args().quick
    shapes: dict[str, dict[str, Any]] = {
        "demo": {"steps": 9},
        "long steps": {"steps": 4, "prompts_per_step": 96},
    }
    if quick:
        few = {"steps": 2, "num_generations": 4}
        shapes = {
            "demo": {**few, "prompts_per_step": 4},
            "long steps": {**few, "prompts_per_step": 8},
        }
    with tempfile.TemporaryDirectory() as trace:
        inherited = os.environ.get("PYTHONPATH", "")
        os.environ.update(DIRL_BENCH_TRACE=trace, PYTHONPATH=f"{TRACING}{os.pathsep}{inherited}")
        with bench(4 if quick else 120, eval_samples=8) as ready:
            read_trace(Path(trace))
            for name, rl in shapes.items():
                ready.reinforce(**rl, dynamic_sampling=False)
                print(json.dumps(overhead(read_trace(Path(trace)), name)), flush=True)


if __name__ == "__main__":
    main()
