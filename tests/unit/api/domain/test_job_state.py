"""The state machine, what follows an attempt's end, and the document that tells of both."""

import re
from pathlib import Path

import pytest

from services.api.domain.attempt_end import (
    MAX_ENVIRONMENT_FAILURES,
    decide,
)
from services.api.domain.job_state import (
    ACTIVE,
    RESUMABLE,
    TRANSITIONS,
    JobState,
    check_transition,
    require_state,
)
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError

LIFECYCLE = Path(__file__).parents[4] / "docs" / "job-lifecycle.md"

SUCCEEDED = AttemptResult(AttemptState.SUCCEEDED)
STOPPED = AttemptResult(AttemptState.STOPPED)
BROKEN = AttemptResult(AttemptState.FAILED, "nan_loss", "loss is NaN", retryable=False)
FULL = AttemptResult(AttemptState.FAILED, "disk_full", "no space", retryable=False)
UNJUDGED = AttemptResult(
    AttemptState.FAILED, "reward_error_rate", "6 of 8 could not be graded", retryable=False
)
LOST = AttemptResult(AttemptState.FAILED, "worker_lost", "gone", retryable=True)


@pytest.mark.parametrize("current", JobState)
@pytest.mark.parametrize("target", JobState)
def test_exactly_the_transitions_of_the_table_are_allowed(
    current: JobState, target: JobState
) -> None:
    if target in TRANSITIONS[current]:
        check_transition("job_1", current, target)
        return
    with pytest.raises(PlatformError) as caught:
        check_transition("job_1", current, target)

    assert caught.value.code == "illegal_transition"
    assert f"from {current} to {target}" in caught.value.message
    assert all(allowed in caught.value.message for allowed in TRANSITIONS[current])


def test_the_final_states_are_the_three_ends_of_a_job_which_only_the_user_reopens() -> None:
    final = {state for state in JobState if state.is_terminal}

    assert final == {"succeeded", "failed", "cancelled"}
    assert all(TRANSITIONS[state] == {JobState.QUEUED} for state in final)


def test_a_request_that_does_not_fit_the_state_names_itself_and_both_states() -> None:
    with pytest.raises(
        PlatformError, match=r"Cannot resume job job_1: it is running, and must be one of: paused"
    ) as e:
        require_state("job_1", "resume", JobState.RUNNING, RESUMABLE)

    assert e.value.code == "illegal_transition"


@pytest.mark.parametrize("end", [FULL, UNJUDGED])
@pytest.mark.parametrize("state", [JobState.PROVISIONING, JobState.RUNNING, JobState.PAUSING])
def test_a_full_disk_or_a_failing_verifier_pauses_a_job_however_often(
    state: JobState, end: AttemptResult
) -> None:
    assert decide(state, end, MAX_ENVIRONMENT_FAILURES).states[-1] == "paused"


def test_every_state_is_reached_from_the_first() -> None:
    reached, border = set(), {JobState.VALIDATING_FILES}
    while border:
        reached |= border
        border = {target for state in border for target in TRANSITIONS[state]} - reached

    assert reached == set(JobState)


def test_every_unfinished_state_can_be_cancelled_or_is_being_cancelled() -> None:
    for state in JobState:
        if not state.is_terminal and state is not JobState.CANCELLING:
            assert JobState.CANCELLING in TRANSITIONS[state], state


@pytest.mark.parametrize("state", sorted(ACTIVE))
@pytest.mark.parametrize("end", [SUCCEEDED, STOPPED, BROKEN, LOST, FULL])
@pytest.mark.parametrize("failed_before", range(MAX_ENVIRONMENT_FAILURES))
def test_every_decision_follows_the_table(
    state: JobState, end: AttemptResult, failed_before: int
) -> None:
    for target in decide(state, end, failed_before).states:
        check_transition("job_1", state, target)
        state = target


@pytest.mark.parametrize(
    ("state", "end", "failed_before", "states"),
    [
        (JobState.RUNNING, SUCCEEDED, 0, ("succeeded",)),
        (JobState.RUNNING, BROKEN, 0, ("failed",)),
        (JobState.RUNNING, LOST, 0, ("provisioning",)),
        (JobState.RUNNING, LOST, MAX_ENVIRONMENT_FAILURES - 2, ("provisioning",)),
        (JobState.RUNNING, LOST, MAX_ENVIRONMENT_FAILURES - 1, ("pausing", "paused")),
        # It was not requested: the trainer's machine is being taken down.
        (JobState.RUNNING, STOPPED, MAX_ENVIRONMENT_FAILURES, ("provisioning",)),
        (JobState.PAUSING, STOPPED, 0, ("paused",)),
        (JobState.PAUSING, LOST, 0, ("paused",)),
        (JobState.PAUSING, BROKEN, 0, ("failed",)),
        (JobState.PAUSING, SUCCEEDED, 0, ("running", "succeeded")),
        (JobState.CANCELLING, STOPPED, 0, ("cancelled",)),
        (JobState.CANCELLING, BROKEN, 0, ("cancelled",)),
        (JobState.CANCELLING, SUCCEEDED, 0, ("cancelled",)),
        (JobState.PROVISIONING, LOST, 0, ()),
        (JobState.PROVISIONING, BROKEN, 0, ("failed",)),
    ],
)
def test_what_follows_the_end_of_an_attempt(
    state: JobState, end: AttemptResult, failed_before: int, states: tuple[str, ...]
) -> None:
    assert decide(state, end, failed_before).states == states


def test_the_document_and_the_table_list_the_same_transitions() -> None:
    steps = re.findall(
        r"^\d+\. `(\w+)` → `(\w+)`", LIFECYCLE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )

    assert sorted(steps) == sorted(
        (current, target) for current in TRANSITIONS for target in TRANSITIONS[current]
    )
