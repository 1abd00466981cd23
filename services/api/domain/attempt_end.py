"""What follows the end of an attempt: a pure decision over the job's state and how the attempt
ended.
"""

from dataclasses import dataclass, replace
from typing import Final

from services.api.domain.job_state import JobState
from services.common.attempt_result import AttemptResult, AttemptState

MAX_JOB_FAILURES: Final = 3
"""Attempts in a row that may fail by the job's own fault, none with a checkpoint after the first,
before the job does.
"""
MAX_ENVIRONMENT_FAILURES: Final = 8
"""Attempts in a row that may fail by a fault of the environment before the job is paused. With the
delays between them they outlast an outage of three minutes.
"""
_FIRST_DELAY_S: Final = 5.0
_MAX_DELAY_S: Final = 60.0

_JOB_CODES: Final = frozenset({"oom_train", "oom_rollout"})
"""Retryable failures whose cause is the spec; all others are the environment's."""
PAUSING_CODES: Final = frozenset(
    {
        "checkpoint_lost",
        "disk_full",
        "no_learning_signal",
        "parity_violation",
        "reward_error_rate",
    }
)
"""Failures that need a user's decision before another attempt can succeed: the job is paused at
once, with a checkpoint of its last step.
"""


@dataclass(frozen=True)
class Decision:
    """The states that the job passes through, the last one to stay in."""

    states: tuple[JobState, ...]
    retry_after_s: float = 0.0
    """Seconds before the next attempt may start."""
    error: AttemptResult | None = None
    """The failure that stops the job, with what follows from it; None when it is not stopped by
    one.
    """


def decide(job_state: JobState, end: AttemptResult, failed_before: int) -> Decision:
    """What becomes of a job in `job_state` whose attempt ended so.

    `failed_before` counts the job's earlier failed attempts. A cancel that was accepted wins over
    any end. A pause wins over a failure that another attempt may fix: the resumed job is that
    attempt. Faults of the environment are retried with growing delays, then the job is paused; only
    its own errors fail it.
    """
    if job_state is JobState.CANCELLING:
        return Decision((JobState.CANCELLED,))
    if end.state is AttemptState.SUCCEEDED:
        # Only a running job succeeds: an attempt may end before the answer to its start, or to a
        # pause, is recorded.
        was_running = job_state is JobState.RUNNING
        through = () if was_running else (JobState.RUNNING,)
        return Decision((*through, JobState.SUCCEEDED))
    if end.state is AttemptState.FAILED:
        is_environment = end.retryable and end.error_code not in _JOB_CODES
        limit = MAX_ENVIRONMENT_FAILURES if is_environment else MAX_JOB_FAILURES
        is_last = failed_before + 1 >= limit
        if end.error_code in PAUSING_CODES or (is_environment and is_last):
            # Only a running job is paused; one that is being provisioned goes through that state, too.
            path = (JobState.RUNNING, JobState.PAUSING, JobState.PAUSED)
            states = path[path.index(job_state) + 1 :] if job_state in path else path
            rest = (
                f"{_in_a_row(failed_before)}The job is paused; resume it once the cause is fixed."
            )
            return Decision(states, error=_with_rest(end, rest))
        if is_last or not end.retryable:
            rest = f"{_in_a_row(failed_before)}The job has failed: no attempt follows unless it is rerun."
            return Decision((JobState.FAILED,), error=_with_rest(end, rest))
    if job_state is JobState.PAUSING:
        return Decision((JobState.PAUSED,))
    follow = () if job_state is JobState.PROVISIONING else (JobState.PROVISIONING,)
    return Decision(follow, _retry_delay_s(end, failed_before))


def _retry_delay_s(end: AttemptResult, failed_before: int) -> float:
    """None after a stop and after the first failure: a single crash should cost a job no wait."""
    if end.state is not AttemptState.FAILED or failed_before == 0:
        return 0.0
    return float(min(_FIRST_DELAY_S * 2 ** (failed_before - 1), _MAX_DELAY_S))


def _in_a_row(failed_before: int) -> str:
    return f"It is failure {failed_before + 1} in a row. " if failed_before else ""


def _with_rest(end: AttemptResult, rest: str) -> AttemptResult:
    return replace(end, error_message=f"{end.error_message} {rest}".lstrip())
