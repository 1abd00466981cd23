"""Learner requests and whole attempts in the test's own process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from services.common.attempt_result import AttemptResult
from services.common.checkpoint.format import newest_valid
from services.common.events import Event, EventType
from services.common.job_spec import parse_spec
from services.common.streams import stream_names
from services.common.trajectory import Trajectory
from services.trainer.learner.graded_group import GradedGroup
from services.trainer.learner.journal import read_events
from services.trainer.learner.lifecycle import StopRequestedError, StopSignal
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.run import run_attempt
from tests.support.builders import prompt_task, scored_group

UNREACHABLE_REDIS = "redis://127.0.0.1:1/0"


class StopAfterSteps(StopSignal):
    """Asks for the end once so many steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._checks_left = steps + 1  # one before the stage, then one before every step

    def check(self) -> None:
        if self._checks_left == 0:
            raise StopRequestedError
        self._checks_left -= 1


def graded_group(
    trajectories: Sequence[Trajectory], *, replica: str = "replica-0", **task: Any
) -> GradedGroup:
    """A prompt with its graded responses, as the learner joins them."""
    issued = prompt_task(num_generations=len(trajectories), **task)
    scored = scored_group(
        group_id=issued.group_id, trajectories=tuple(trajectories), replica=replica
    )
    return GradedGroup(issued, scored)


def learner_request(job_dir: Path, spec: dict[str, Any], **changes: Any) -> LearnerRequest:
    """Attempt 1 of job_1 without replicas; files are named by their paths."""
    attempt = changes.get("attempt", 1)
    parsed = parse_spec(spec)
    names = stream_names("job_1", attempt)
    fields: dict[str, Any] = {
        "job_id": "job_1",
        "attempt": attempt,
        "spec": parsed,
        "model_path": Path("model"),
        "files": {name: Path(name) for name in parsed.files()},
        "job_dir": job_dir,
        "rollout_addresses": (),
        "prompts_stream": names.prompts,
        "groups_stream": names.groups,
        "redis_url": UNREACHABLE_REDIS,
        "torch_threads": None,
        "log_level": "info",
        "log_format": "json",
        "supervisor_pid": os.getpid(),
    }
    return LearnerRequest(**{**fields, **changes})


def run_here(request: LearnerRequest, stop: StopSignal) -> AttemptResult:
    """Run an attempt in this process. Its log is kept from the terminal: drawing a traceback takes
    seconds.
    """
    with capture_logs():
        return run_attempt(request, stop)


def journal_of(job_dir: Path, attempt: int = 1) -> list[Event]:
    """Every journalled event of an attempt."""
    events: list[Event] = []
    while texts := read_events(job_dir, attempt, len(events), 0):
        events += [Event.model_validate_json(text) for text in texts]
    return events


def moved_digest(job_dir: Path, step: int) -> str:
    """Return the weight digest of the newest checkpoint, which must be that of `step`.

    No two checkpoints of the job may have the same weights: a comparison of digests
    that training does not change would prove nothing.
    """
    found = newest_valid(job_dir / "checkpoints")
    assert found is not None
    manifest = found[1]
    assert manifest.global_step == step
    saved = {
        event.data["step"]: event.data["weight_digest"]
        for attempt in range(1, manifest.attempt + 1)
        for event in journal_of(job_dir, attempt)
        if event.type is EventType.CHECKPOINT
    }
    assert len(saved) > 1
    assert len(set(saved.values())) == len(saved), "a step left the weights as they were"
    return manifest.weight_digest
