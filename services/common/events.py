"""Events of a job, which the learner writes to its journal and to the stream dirl:events.

The learner numbers its events per attempt from 1. A reader that sees a gap requests the missing ones
from the trainer, so no event is lost with the stream. (job_id, attempt, seq) is unique, so reading an
event twice has no effect.
"""

from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from services.common.diffusion.config import Frozen

EVENTS_STREAM: Final = "dirl:events"
STREAMS_LOST: Final = "streams_lost"
"""Code of the log event of a learner that issues prompts again because Redis lost them."""


class EventType(StrEnum):
    """Types of events, with the fields of their `data`."""

    PHASE = "phase"
    """{phase: str, stage: str, waiting_for: str | None}"""
    PROGRESS = "progress"
    """{stage: str, stage_step: int, stage_steps: int, step: int, total_steps: int}"""
    METRICS = "metrics"
    """{step: int, values: {name: float}}"""
    CHECKPOINT = "checkpoint"
    """{attempt: int, step: int, stage: str, path: str, weight_version: int, weight_digest: str,
    bytes: int, deleted: [path]}; `attempt` is the one that wrote it
    """
    TRAJECTORIES = "trajectories"
    """{step: int, purpose: str, disposition: str, group: codec.group_to_json(task, group), rewards: [float | None],
    advantages: [float | None]}; rewards and advantages of training groups only
    """
    EVALUATION = "evaluation"
    """{step: int, stage: str, dataset: str, results: {...}}; accuracy with its 95 % interval,
    tokens_per_step, …
    """
    CERTIFICATE = "certificate"
    """{moment: resume | restart | end, resumed_from: int, steps_undone: int, skipped_checkpoints: [reason],
    issued: int, trained: int, dropped: {reason: int}, open: int, lost: int, trained_twice: int, miscounted: int,
    sampler: str, prompts_seen: int, attempts: int, successes: int, digest_before: str | None, digest_after: str};
    after a restart no checkpoint states a digest; from sampler to successes with a reinforcement stage only
    """
    PROMPT_RESULTS = "prompt_results"
    """{step: int, stage: str, results: [[row: int, attempts: int, successes: int, excerpt: str]]}; the row is the
    place in the stage's data set
    """
    REVISION = "revision"
    """{revision: int, step: int, changes: {key: value}}; applies to the steps after `step`"""
    LOG = "log"
    """{level: info | warning | error, code: str, message: str, ...}"""


class Event(Frozen):
    """An event of an attempt."""

    job_id: str
    attempt: int = Field(ge=1)
    seq: int = Field(ge=1)
    type: EventType
    time: float
    """Unix seconds."""
    data: dict[str, Any]
