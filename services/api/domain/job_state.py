"""The states of a job and the transitions between them, described in docs/job-lifecycle.md."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from services.common.errors import PlatformError


class JobState(StrEnum):
    """Where a job stands."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    """Services are being leased and started for an attempt."""
    RUNNING = "running"
    PAUSING = "pausing"
    """The learner was asked to end with a checkpoint, to be resumed later."""
    PAUSED = "paused"
    CANCELLING = "cancelling"
    """The learner was asked to end with a checkpoint, for good."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job is over, unless the user reruns or rewinds it."""
        return self in TERMINAL


TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.VALIDATING_FILES: frozenset({JobState.QUEUED, JobState.CANCELLING, JobState.FAILED}),
    JobState.QUEUED: frozenset({JobState.PROVISIONING, JobState.CANCELLING, JobState.FAILED}),
    JobState.PROVISIONING: frozenset({JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.PROVISIONING,
            JobState.PAUSING,
            JobState.CANCELLING,
            JobState.FAILED,
        }
    ),
    JobState.PAUSING: frozenset(
        {JobState.PAUSED, JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLING, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset({JobState.QUEUED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

TERMINAL: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
RESUMABLE: Final = frozenset({JobState.PAUSED})
RERUNNABLE: Final = frozenset({JobState.FAILED, JobState.CANCELLED})
REWINDABLE: Final = RESUMABLE | TERMINAL
"""States in which the user may queue a job again; no learner runs in any of them."""

ACTIVE: Final = frozenset(
    {JobState.PROVISIONING, JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING}
)
"""States in which the scheduler has something to watch or to do."""


def check_transition(job_id: str, current: JobState, target: JobState) -> None:
    """Raise PlatformError("illegal_transition") unless the table has the pair."""
    allowed = TRANSITIONS[current]
    if target in allowed:
        return
    ways = ", ".join(sorted(allowed))
    raise PlatformError(
        "illegal_transition",
        f"Job {job_id} cannot go from {current} to {target}; from {current} it can go to {ways}.",
    )


def require_state(job_id: str, verb: str, current: JobState, allowed: frozenset[JobState]) -> None:
    """Raise PlatformError("illegal_transition") when a request does not fit the state."""
    if current not in allowed:
        states = ", ".join(sorted(allowed))
        raise PlatformError(
            "illegal_transition",
            f"Cannot {verb} job {job_id}: it is {current}, and must be one of: {states}.",
        )
