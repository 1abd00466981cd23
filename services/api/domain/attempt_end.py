"""What follows the end of an attempt: a pure decision over the job's state and how the attempt
ended.
"""

from dataclasses import dataclass
from typing import Final

from services.api.domain.job_state import JobState
from services.common.attempt_result import AttemptResult, AttemptState

MAX_FAILED_ATTEMPTS: Final = 3
"""Attempts that may fail one after the other, none with a checkpoint after the first, before the
job does.
"""


PAUSING_CODES: Final = frozenset({"disk_full", "reward_error_rate"})
"""Failures that an operator must fix before another attempt can succeed: the job is paused,
not failed.
"""


@dataclass(frozen=True)
class Decision:
    """The states that the job passes through, the last one to stay in."""

    states: tuple[JobState, ...]


def decide(job_state: JobState, end: AttemptResult, failed_before: int) -> Decision:
    """What becomes of a job in `job_state` whose attempt ended so.

    `failed_before` counts the job's earlier failed attempts. A cancel that was accepted wins over
    any end. A pause wins over a failure that another attempt may heal: the resumed job is that
    attempt. A failure of PAUSING_CODES pauses the job.
    """
    if job_state is JobState.CANCELLING:
        return Decision((JobState.CANCELLED,))
    if end.state is AttemptState.SUCCEEDED:
        # Only a running job succeeds: an attempt may end before the answer to its start, or to a
        # pause, is recorded.
        was_running = job_state is JobState.RUNNING
        through = () if was_running else (JobState.RUNNING,)
        return Decision((*through, JobState.SUCCEEDED))
    if end.error_code in PAUSING_CODES:
        # Only a running job is paused; one that is being provisioned goes through that state, too.
        path = (JobState.RUNNING, JobState.PAUSING, JobState.PAUSED)
        return Decision(path[path.index(job_state) + 1 :] if job_state in path else path)
    may_go_on = end.state is AttemptState.STOPPED or (
        end.retryable and failed_before + 1 < MAX_FAILED_ATTEMPTS
    )
    if not may_go_on:
        return Decision((JobState.FAILED,))
    if job_state is JobState.PAUSING:
        return Decision((JobState.PAUSED,))
    return Decision(() if job_state is JobState.PROVISIONING else (JobState.PROVISIONING,))
