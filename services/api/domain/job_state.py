"""The states of a job and the transitions between them; docs/job-lifecycle.md says what happens at each."""

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
        """Whether nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.VALIDATING_FILES: frozenset({JobState.QUEUED, JobState.CANCELLING, JobState.FAILED}),
    JobState.QUEUED: frozenset({JobState.PROVISIONING, JobState.CANCELLING, JobState.FAILED}),
    JobState.PROVISIONING: frozenset({JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.PROVISIONING, JobState.PAUSING, JobState.CANCELLING, JobState.FAILED}
    ),
    JobState.PAUSING: frozenset({JobState.PAUSED, JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLING, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

ACTIVE: Final = frozenset({JobState.PROVISIONING, JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING})
"""States in which the scheduler has something to watch or to do."""


def check_transition(job_id: str, current: JobState, target: JobState) -> None:
    """Raise PlatformError("illegal_transition") unless the table has the pair."""
    allowed = TRANSITIONS[current]
    if target in allowed:
        return
    ways = ", ".join(sorted(allowed)) or "nothing: the state is final"
    raise PlatformError(
        "illegal_transition",
        f"Job {job_id} cannot go from {current} to {target}; from {current} it can go to {ways}.",
    )
