"""How quick the dashboard is in Chromium, against the real API on a job with 100,000 metric points.

Three measurements, each beside a reference of the same run:

* first_paint: milliseconds from the navigation until the job's page has the values of all charts,
  and those in the window are drawn, the server's reading and thinning included; the reference is
  the page of a job with 1,000 points;
* live: the median of the page's JavaScript heap, read after garbage collections, while ten steps a
  second arrive for six minutes: in the first third, in which it warms up, in the second and in the
  third;
* replay: milliseconds from a seek, a step back or a step on to the frame that shows it, in a
  response of 8,192 tokens; the reference has 256. Two frames (33 ms) is the least that can be
  measured.

Needs Node, Chromium and the built dashboard (`make dashboard`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from services.api.db.series import Metric
from services.api.http.pages import DASHBOARD
from services.api.http.resources import Resources
from services.api.recorder.apply import apply_events
from services.common.codec import group_to_json
from services.common.events import Event, EventType
from services.common.job_metrics import JobMetric
from services.common.model.tiny import character_tokenizer
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import Outcome, Verdict
from tests.support.builders import prompt_task, scored_group, trajectory
from tests.support.control_plane import (
    make_settings,
    migrated_database,
    run_attempt,
    running_api,
    submit,
)
from tests.support.servers import running_postgres, running_valkey

METRICS = (
    JobMetric.REWARD_ACCURACY,
    JobMetric.REWARD_MEAN,
    JobMetric.REWARD_STD,
    JobMetric.TRAIN_LOSS,
    JobMetric.TRAIN_ENTROPY,
    JobMetric.TRAIN_GRAD_NORM,
    JobMetric.TRAIN_CLIP_FRACTION,
    JobMetric.TRAIN_LOGPROB_ABS_DIFF_MEAN,
    JobMetric.TRAIN_LOGPROB_ABS_DIFF_MAX,
    JobMetric.DIFFUSION_TOKENS_PER_STEP,
    JobMetric.TIME_ROLLOUT_S,
    JobMetric.TIME_TRAIN_S,
    JobMetric.TIME_WEIGHT_SYNC_S,
    JobMetric.TIME_REWARD_S,
    JobMetric.PERF_ROLLOUT_TOKENS_PER_S,
    JobMetric.PERF_TRAINER_TOKENS_PER_S,
    JobMetric.REWARD_OUTCOME_NO_ANSWER,
    JobMetric.REWARD_OUTCOME_TRUNCATED,
    JobMetric.REWARD_FRAC_ALL_CORRECT,
    JobMetric.REWARD_FRAC_ALL_WRONG,
)
STEPS_PER_S = 10


def main() -> None:
    """Measure and print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="Few points and seconds: whether it works at all."
    )
    quick = parser.parse_args().quick
    if not (DASHBOARD / "index.html").exists():
        sys.exit("The dashboard is not built: run `make dashboard`.")
    configure_logging("benchmark", "warning", "console")
    points, tokens, seconds = (2_000, 512, 6) if quick else (100_000, 8_192, 360)
    with tempfile.TemporaryDirectory() as directory, _api(Path(directory)) as (url, resources):
        reference = _measured(url, resources, Path(directory), points=1_000, tokens=256, seconds=6)
        ours = _measured(
            url, resources, Path(directory), points=points, tokens=tokens, seconds=seconds
        )
    for mine, other in zip(ours, reference, strict=True):
        print(json.dumps({**mine, **_ratio(mine, other), "reference": other}))


@contextmanager
def _api(directory: Path) -> Iterator[tuple[str, Resources]]:
    with (
        running_postgres() as postgres,
        running_valkey() as valkey,
        migrated_database(postgres) as database_url,
        running_api(make_settings(database_url, f"{valkey.connection_url}/0", directory)) as (
            client,
            resources,
        ),
    ):
        yield str(client.base_url), resources


def _measured(
    url: str, resources: Resources, directory: Path, *, points: int, tokens: int, seconds: int
) -> list[dict[str, Any]]:
    job_id = submit(resources.database, directory)
    character_tokenizer().save_pretrained(directory / "model")
    run_attempt(resources.database, job_id, f"127.0.0.1:{points % 60_000 + 1024}")
    steps = points // len(METRICS)
    _insert(resources, job_id, steps)
    name = job_id.removeprefix("job_")
    recorder = _Recorder(resources, job_id)
    recorder.record(EventType.TRAJECTORIES, _group(name, tokens))
    script = DASHBOARD.parent / "e2e" / "measure.mjs"
    command = ["node", str(script), url, job_id, f"traj_{name}_1_train_1_0_0", str(seconds)]
    with recorder.writing_from(steps + 1):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [{"points": points, **json.loads(line)} for line in done.stdout.splitlines()]


def _insert(resources: Resources, job_id: str, steps: int) -> None:
    rng = np.random.default_rng(0)
    with resources.database.begin() as session:
        for name in METRICS:
            values = rng.normal(1, 0.2, steps)
            rows = [
                {
                    "job_id": job_id,
                    "name": name,
                    "attempt": 1,
                    "step": step,
                    "value": abs(float(value)),
                }
                for step, value in enumerate(values, 1)
            ]
            session.execute(insert(Metric), rows)


def _group(name: str, tokens: int) -> dict[str, Any]:
    """A response in blocks of four, two steps a block."""
    rng = np.random.default_rng(1)
    response = trajectory(
        trajectory_id=f"traj_{name}_1_train_1_0_0",
        token_ids=rng.integers(1, 96, tokens).astype(np.int32),
        unmask_step=(np.arange(tokens) // 4 * 2 + 1 + np.arange(tokens) % 2).astype(np.int32),
        logprobs=np.full(tokens, -0.1, np.float32),
        confidences=rng.random(tokens).astype(np.float32),
        visible_len=tokens,
        verdict=Verdict(outcome=Outcome.CORRECT, rewards={"accuracy": 1.0}),
    )
    task = prompt_task(group_id=f"grp_{name}_1_train_1_0")
    fields = {"step": 1, "purpose": "train", "disposition": "trained", "advantages": [0.5]}
    return {
        **fields,
        "group": group_to_json(
            task, scored_group(group_id=task.group_id, trajectories=(response,))
        ),
    }


class _Recorder:
    """Writes events as the recorder does."""

    def __init__(self, resources: Resources, job_id: str) -> None:
        self._resources, self._job_id, self._seq = resources, job_id, 0
        self._stop = threading.Event()

    def record(self, *fields: Any) -> None:
        """Pairs of kind and data, one after the other."""
        events = []
        for kind, data in zip(fields[::2], fields[1::2], strict=True):
            self._seq += 1
            now = time.time()
            events.append(
                Event(job_id=self._job_id, attempt=1, seq=self._seq, type=kind, time=now, data=data)
            )
        with self._resources.database.begin() as session:
            apply_events(session, self._job_id, 1, events)

    @contextmanager
    def writing_from(self, first_step: int) -> Iterator[None]:
        """Within the block, steps arrive."""
        thread = threading.Thread(target=self._write, args=(first_step,))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _write(self, step: int) -> None:
        while not self._stop.wait(1 / STEPS_PER_S):
            progress = {
                "stage": "rl",
                "stage_step": step,
                "stage_steps": 10**6,
                "step": step,
                "total_steps": 10**6,
            }
            values = {"step": step, "values": dict.fromkeys(METRICS, 1 + step % 7 / 10)}
            self.record(EventType.METRICS, values, EventType.PROGRESS, progress)
            step += 1


def _ratio(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    keys: Sequence[str] = {
        "first_paint": ("median_ms",),
        "live": (),
        "replay": ("seek_median_ms",),
    }[mine["name"]]
    ratios = {f"{key}_ratio": mine[key] / other[key] for key in keys}
    return {
        **ratios,
        **({"heap_growth": mine["late_mib"] / mine["early_mib"]} if mine["name"] == "live" else {}),
    }


if __name__ == "__main__":
    main()
