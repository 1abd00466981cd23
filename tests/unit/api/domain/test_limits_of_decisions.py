"""Decisions of the control plane at the very values where they turn."""

from dataclasses import replace
from typing import Any

import pytest

from services.api.domain.access import Caller, Scope, require_scope
from services.api.domain.activations import Shape, activation_bytes, row_tokens
from services.api.domain.attempt_end import decide
from services.api.domain.diagnosis import JobSnapshot, diagnose
from services.api.domain.job_state import JobState
from services.api.domain.placement import (
    FreeServices,
    Need,
    Placement,
    Share,
    Waiter,
    Waiting,
    fair_order,
    place_all,
)
from services.api.domain.progress import advance
from services.api.domain.rate import RateLimits
from services.api.domain.stall import find_stall, must_give_up
from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import JobSpec

MAX_CALLERS = 10_000


def finding(metrics: dict[JobMetric, float], timeout_s: float = 3.0) -> str:
    return diagnose(running(metrics, timeout_s)).code


def running(metrics: dict[JobMetric, float], timeout_s: float = 3.0) -> JobSnapshot:
    spec = {
        "reward": {"timeout_s": timeout_s},
        "rl": {"num_generations": 8},
        "sampling": {"max_new_tokens": 512},
        "resources": {"rollout_replicas": 1},
        "trainer": {"max_tokens_per_microbatch": 1024},
    }
    return JobSnapshot(
        state=JobState.RUNNING,
        phase="rollout",
        waiting_for=None,
        stalled=None,
        error_code=None,
        error_message=None,
        metrics={str(metric): value for metric, value in metrics.items()},
        spec=spec,
    )


@pytest.mark.parametrize(
    ("metric", "least", "code"),
    [
        (JobMetric.REWARD_OUTCOME_UNVERIFIABLE, 0.0201, "verifier_failing"),
        (JobMetric.REWARD_FRAC_ZERO_STD, 0.5, "starved"),
        (JobMetric.ROLLOUT_TRUNCATION_RATE, 0.3, "truncation_limited"),
    ],
)
def test_a_share_is_a_finding_from_its_threshold_on(
    metric: JobMetric, least: float, code: str
) -> None:
    assert finding({metric: least}) == code
    assert finding({metric: least - 0.0001}) == "balanced"


def test_more_time_to_grade_is_suggested_up_to_a_minute() -> None:
    failing: dict[JobMetric, float] = {JobMetric.REWARD_OUTCOME_UNVERIFIABLE: 0.5}

    suggested = [diagnose(running(failing, seconds)).suggestion for seconds in (29.0, 30.5, 60.0)]

    assert suggested == [
        {"reward.timeout_s": 58.0},
        {"reward.timeout_s": 60.0},
        {"reward.timeout_s": 60.0},
    ]


def test_a_phase_dominates_from_three_fifths_of_a_steps_time_on() -> None:
    def times(rollout: float, train: float) -> dict[JobMetric, float]:
        return {JobMetric.TIME_ROLLOUT_S: rollout, JobMetric.TIME_TRAIN_S: train}

    assert finding(times(6.0, 4.0)) == "rollout_bound"
    assert finding(times(5.9, 4.1)) == "balanced"
    # A phase that was not measured took no time, and a step may be short.
    assert finding({JobMetric.TIME_ROLLOUT_S: 0.5}) == "rollout_bound"
    assert finding({JobMetric.TIME_ROLLOUT_S: 0.0}) == "balanced"


@pytest.mark.parametrize(
    ("grading_s", "idle", "code"),
    [
        (2.1, 0.51, "verifier_bound"),
        (2.0, 0.9, "rollout_bound"),
        (2.1, 0.5, "rollout_bound"),
        (2.1, 0.1, "rollout_bound"),
        (1.0, 0.9, "rollout_bound"),
        (None, 0.9, "rollout_bound"),
        (2.1, None, "rollout_bound"),
    ],
)
def test_the_verifier_binds_when_grading_takes_half_of_the_rollout_and_engines_idle_as_long(
    grading_s: float | None, idle: float | None, code: str
) -> None:
    given = {
        JobMetric.TIME_ROLLOUT_S: 4.0,
        JobMetric.TIME_REWARD_S: grading_s,
        JobMetric.PERF_ROLLOUT_IDLE_RATIO: idle,
    }

    assert finding({name: value for name, value in given.items() if value is not None}) == code


def test_a_short_rollout_is_not_bound_by_a_verifier_that_was_not_measured() -> None:
    metrics: dict[JobMetric, float] = {
        JobMetric.TIME_ROLLOUT_S: 0.5,
        JobMetric.PERF_ROLLOUT_IDLE_RATIO: 0.9,
    }

    assert finding(metrics) == "rollout_bound"


def test_an_attempt_is_given_up_after_three_budgets_of_silence() -> None:
    stall = find_stall("weight_sync", "rollout", 1000.0, 1301.0, {})

    assert stall is not None
    assert stall.to_json() == {
        "phase": "weight_sync",
        "waiting_for": "rollout",
        "since": 1000.0,
        "budget_s": 300.0,
    }
    assert find_stall("weight_sync", None, 1000.0, 1300.0, {}) is None
    assert [must_give_up(stall, now) for now in (1900.0, 1900.1)] == [False, True]


def test_a_job_without_a_phase_is_loading() -> None:
    stall = find_stall(None, "trainer", 0.0, 901.0, {})

    assert stall is not None
    assert (stall.phase, stall.budget_s) == ("loading", 900.0)


def test_a_stuck_job_is_said_to_wait_only_where_it_does() -> None:
    since = {"phase": "rollout", "since": 100.0}
    waiting, silent = (
        diagnose(replace(running({}), stalled={**since, "waiting_for": service})).sentence
        for service in ("reward", None)
    )

    assert "in phase rollout, waiting for reward." in waiting
    assert "in phase rollout." in silent


def test_a_phase_without_a_budget_may_be_silent_as_long_as_any() -> None:
    assert find_stall("other", None, 0.0, 3600.0, {}) is None
    stall = find_stall("other", None, 0.0, 3601.0, {})
    assert stall is not None
    assert stall.budget_s == 3600.0


def test_a_reader_may_read_and_is_told_what_it_lacks() -> None:
    reader = Caller("key_1", "a", frozenset({Scope.JOBS_READ, Scope.FILES_READ}))
    require_scope(reader, "GET", "/v1/jobs")

    with pytest.raises(PlatformError) as raised:
        require_scope(reader, "POST", "/v1/jobs")
    with pytest.raises(PlatformError) as bare:
        require_scope(Caller("key_2", "a", frozenset()), "GET", "/v1/jobs")

    assert raised.value.code == "permission_denied"
    assert "jobs:write" in raised.value.message
    assert "files:read, jobs:read" in raised.value.message
    assert "none" in bare.value.message


@pytest.mark.parametrize(
    ("failed_before", "states"),
    [(0, (JobState.PROVISIONING,)), (1, (JobState.PROVISIONING,)), (2, (JobState.FAILED,))],
)
def test_the_third_failure_in_a_row_by_its_own_fault_ends_the_job(
    failed_before: int, states: tuple[JobState, ...]
) -> None:
    end = AttemptResult(AttemptState.FAILED, "oom_train", "x", retryable=True)

    assert decide(JobState.RUNNING, end, failed_before).states == states


def test_faults_of_the_environment_are_retried_for_minutes_and_then_pause_the_job() -> None:
    end = AttemptResult(AttemptState.FAILED, "worker_lost", "It was killed.", retryable=True)

    decisions = [decide(JobState.RUNNING, end, before) for before in range(8)]

    assert [item.states[-1] for item in decisions] == ["provisioning"] * 7 + ["paused"]
    delays = [item.retry_after_s for item in decisions]
    assert delays == [0, 5, 10, 20, 40, 60, 60, 0]
    assert [item.error for item in decisions[:7]] == [None] * 7
    assert decisions[7].error is not None
    assert decisions[7].error.error_message == (
        "It was killed. It is failure 8 in a row. The job is paused; resume it once the cause is fixed."
    )


def test_a_job_that_has_failed_does_not_promise_another_attempt() -> None:
    end = AttemptResult(AttemptState.FAILED, "nan_loss", "The loss is NaN.")

    (error,) = [decide(JobState.RUNNING, end, 0).error]

    assert error is not None
    assert error.error_message == (
        "The loss is NaN. The job has failed: no attempt follows unless it is rerun."
    )


@pytest.mark.parametrize(
    "code",
    ["checkpoint_lost", "disk_full", "no_learning_signal", "parity_violation", "reward_error_rate"],
)
def test_what_an_operator_must_fix_pauses_the_job_at_once(code: str) -> None:
    decision = decide(JobState.RUNNING, AttemptResult(AttemptState.FAILED, code, "x"), 0)

    assert decision.states[-1] is JobState.PAUSED
    assert decision.error is not None


def test_jobs_of_a_higher_priority_count_before_those_of_a_lower_one() -> None:
    waiting = [
        Waiter("a-low", "p", "a", 0),
        Waiter("b-low", "p", "b", 0),
        Waiter("a-high", "p", "a", 1),
    ]

    assert fair_order(waiting, {}, {}) == ["a-high", "b-low", "a-low"]


def test_a_job_ahead_in_the_queue_counts_as_much_as_a_running_one() -> None:
    waiting = [Waiter("a0", "p", "a", 0), Waiter("a1", "p", "a", 0), Waiter("b0", "p", "b", 0)]

    assert fair_order(waiting, {}, {"b": Share(running=1)}) == ["a0", "a1", "b0"]


def test_a_trainer_that_another_job_waits_for_is_not_taken() -> None:
    free = FreeServices(["t1"], ["r1"], reward_is_up=True, blocked={"trainer"})

    assert place_all([Need("a", 1)], free) == [Waiting("a", "trainer")]
    assert place_all([Need("a", 1)], FreeServices(["t1"], ["r1"], True)) == [
        Placement("a", "t1", ("r1",))
    ]


def test_progress_keeps_every_number_of_its_event_and_the_pace_of_one_step_counts() -> None:
    def event(step: int) -> dict[str, Any]:
        return {
            "stage": "rl",
            "stage_step": step - 10,
            "stage_steps": 5,
            "step": step,
            "total_steps": 15,
        }

    begun = advance(None, event(12), 1, 100.0)
    one_later = advance(begun, event(13), 1, 104.0)
    done = advance(one_later, event(15), 1, 110.0)

    assert (one_later.stage_step, one_later.stage_steps, one_later.total_steps) == (3, 5, 15)
    assert begun.eta_seconds() is None
    assert one_later.eta_seconds() == 8.0
    assert done.eta_seconds() == 0.0


def test_a_slow_rate_still_lets_one_request_through_and_says_how_long_to_wait() -> None:
    limits = RateLimits(0.1)

    assert limits.wait_s("a", 0.0) == 0.0
    assert limits.wait_s("a", 5.0) == pytest.approx(5.0)


def test_callers_are_forgotten_only_beyond_the_bound() -> None:
    limits = RateLimits(0.1)
    for caller in range(MAX_CALLERS):
        limits.wait_s(str(caller), 0.0)

    assert limits.wait_s("0", 0.0) > 0
    limits.wait_s("one more", 0.0)
    assert limits.wait_s("0", 0.0) == 0.0


def spec_of(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({"model": "m", "method": "rl", "training_file": "f", **sections})


def test_the_largest_minibatch_has_the_groups_that_do_not_divide_evenly() -> None:
    rl = {"prompts_per_step": 5, "num_generations": 2, "min_groups_per_step": 2, "minibatches": 2}

    assert row_tokens(spec_of(rl=rl), 10) == 3 * 2 * 10 * 3


def test_the_memory_of_a_pass_is_layers_and_logits() -> None:
    # One layer: 6 * 8 + 5 * 12 + 4 * 4 + 4 * 16 = 188 values per token.
    shape = Shape(layers=3, hidden=8, inner=16, query=12, key_value=4, vocabulary=10)
    wide = replace(shape, vocabulary=2**24)
    bf16, sparing = ({"precision": "bf16"}, {"gradient_checkpointing": True})

    # Three layers kept and two at work, 4 bytes a value; three copies of the logits.
    assert activation_bytes(shape, spec_of(), 50) == 50 * (3 + 2) * 188 * 4 + 50 * 10 * 3 * 4
    assert activation_bytes(shape, spec_of(trainer=bf16), 50) == 50 * 5 * 188 * 2 + 6000
    # Inputs of three layers kept; one layer more at work, computed again.
    assert activation_bytes(shape, spec_of(trainer=sparing), 50) == 50 * (24 + 3 * 188) * 4 + 6000
    # Logits of a chunk at most.
    assert activation_bytes(wide, spec_of(), 50) == 50 * 5 * 188 * 4 + 2**25 * 3 * 4


def test_heads_share_the_hidden_width_where_their_own_is_not_given() -> None:
    config = {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 9}
    sizes = {"intermediate_size": 5, "num_hidden_layers": 1, "vocab_size": 7}

    assert Shape.of({**config, **sizes}) == Shape(
        layers=1, hidden=9, inner=5, query=8, key_value=4, vocabulary=7
    )


def test_an_admin_owns_every_project_and_others_their_own() -> None:
    member = Caller("key_1", "a", frozenset({Scope.JOBS_READ}))

    assert [member.owns(project) for project in ("a", "b")] == [True, False]
    assert replace(member, scopes=frozenset({Scope.ADMIN})).owns("b")


def test_an_evaluation_trains_no_row() -> None:
    spec = JobSpec.model_validate({"model": "m", "method": "eval", "validation_file": "f"})

    assert row_tokens(spec, 10) == 0
