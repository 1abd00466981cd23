"""The state machine of a replica."""

import pytest
from pydantic import ValidationError

from services.common.errors import PlatformError
from services.rollout.assignment import (
    TRANSITIONS,
    Assignment,
    LoadedWeights,
    Replica,
    ReplicaState,
)


def assignment(**changes: object) -> Assignment:
    fields = {
        "job_id": "job_1",
        "attempt": 2,
        "model_path": "/models/m",
        "prompts_stream": "p",
        "groups_stream": "g",
        "reward_address": "127.0.0.1:50052",
        "max_sequence_tokens": 64,
        "max_batch_size": 0,
        "dtype": "float32",
    }
    return Assignment.model_validate({**fields, **changes})


def ready(version: int = 5) -> Replica:
    return Replica(
        state=ReplicaState.READY, assignment=assignment(), weights=LoadedWeights(version, "d")
    )


def code_of(raised: pytest.ExceptionInfo[PlatformError]) -> str:
    return raised.value.code


@pytest.mark.parametrize("source", ReplicaState)
@pytest.mark.parametrize("target", ReplicaState)
def test_only_the_transitions_of_the_table_are_made(
    source: ReplicaState, target: ReplicaState
) -> None:
    replica = Replica(state=source)

    if target in TRANSITIONS[source]:
        assert replica.move_to(target).state is target
    else:
        with pytest.raises(PlatformError) as raised:
            replica.move_to(target)
        assert code_of(raised) == "illegal_transition"


def test_a_replica_becomes_ready_only_through_loading_and_weights() -> None:
    assert [s for s in ReplicaState if ReplicaState.READY in TRANSITIONS[s]] == [
        ReplicaState.WAITING_FOR_WEIGHTS,
        ReplicaState.READY,
        ReplicaState.SLEEPING,
        ReplicaState.UNHEALTHY,
    ]


def test_a_newer_attempt_and_another_job_replace_an_assignment() -> None:
    assert ready().needs(assignment(attempt=3))
    assert ready().needs(assignment(job_id="job_2", attempt=1))


def test_the_same_assignment_again_changes_nothing_unless_the_replica_is_unhealthy() -> None:
    assert not ready().needs(assignment())
    assert ready().move_to(ReplicaState.UNHEALTHY).needs(assignment())


def test_an_older_attempt_is_stale() -> None:
    with pytest.raises(PlatformError) as raised:
        ready().needs(assignment(attempt=1))
    assert code_of(raised) == "stale_attempt"


def test_the_same_attempt_with_other_particulars_is_a_conflict() -> None:
    with pytest.raises(PlatformError) as raised:
        ready().needs(assignment(model_path="/models/other"))
    assert code_of(raised) == "conflict"


def test_releasing_leaves_later_attempts_and_other_jobs_alone() -> None:
    assert ready().holds("job_1", 2)
    assert ready().holds("job_1", 3)
    assert not ready().holds("job_1", 1)
    assert not ready().holds("job_2", 2)
    assert not Replica().holds("job_1", 2)


def test_versions_grow_and_the_loaded_one_is_not_loaded_again() -> None:
    assert ready(5).accepts("job_1", 2, 6)
    assert not ready(5).accepts("job_1", 2, 5)
    with pytest.raises(PlatformError) as raised:
        ready(5).accepts("job_1", 2, 4)
    assert code_of(raised) == "stale_weights"


def test_after_a_failed_load_every_version_must_be_loaded_in_full() -> None:
    broken = ready(5).move_to(ReplicaState.UNHEALTHY, weights=None)

    assert broken.accepts("job_1", 2, 5)


@pytest.mark.parametrize(("job_id", "attempt"), [("job_1", 1), ("job_1", 3), ("job_2", 2)])
def test_weights_of_another_attempt_are_stale(job_id: str, attempt: int) -> None:
    for replica in (ready(), Replica()):
        with pytest.raises(PlatformError) as raised:
            replica.accepts(job_id, attempt, 9)
        assert code_of(raised) == "stale_attempt"


@pytest.mark.parametrize(
    "fault",
    [
        {"job_id": ""},
        {"attempt": 0},
        {"dtype": "int8"},
        {"reward_address": "nowhere"},
        {"max_sequence_tokens": 0},
    ],
)
def test_an_assignment_that_cannot_be_served_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        assignment(**fault)
